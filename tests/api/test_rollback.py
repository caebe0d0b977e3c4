"""A deploy's token without a body: an operator signs again what the cluster holds, and sees none of it."""

from __future__ import annotations

import time

import aiohttp
import pytest

from agent.instruction import new_key, sign_instruction
from agent.model.stack import Stack
from tests.support.fake_node import FakeCluster
from tests.support.shop import SECRET, instruct, open_shop, shop


def token(cluster: FakeCluster, digest: str, *, rev: int = 2, target: str = "stack:shop", **changes: object) -> str:
    fields = {"key": cluster.key, "act": "deploy"} | changes
    return sign_instruction(
        operator_name="ann",
        cluster=cluster.home.cluster.id,
        epoch=1,
        target=target,
        revision=rev,
        body_bytes=b"",
        digest=digest,
        now_s=time.time(),
        **fields,  # type: ignore[arg-type]  # sign_instruction's
    )


async def post(client: aiohttp.ClientSession, token: str, body: bytes = b"") -> tuple[int, str]:
    headers = {"Authorization": f"Bearer {token}"}
    async with client.post("/api/v1/instructions", data=body, headers=headers) as response:
        return response.status, await response.text()


@pytest.fixture
def digest(cluster: FakeCluster) -> str:
    open_shop(cluster)
    return cluster.ledger.state.stacks["shop"].deployed.digest


async def test_the_held_body_is_deployed_and_never_shown(
    anonymous: aiohttp.ClientSession, cluster: FakeCluster, digest: str
) -> None:
    status, text = await post(anonymous, token(cluster, digest))
    assert status == 200
    assert SECRET not in text
    assert cluster.ledger.state.stacks["shop"].deployed.digest == digest
    assert cluster.ledger.state.stacks["shop"].revision == 2


async def test_the_stack_names_the_deploy_before_without_its_values(
    client: aiohttp.ClientSession, cluster: FakeCluster, digest: str
) -> None:
    instruct(cluster, "deploy", "stack:shop", shop(command=("new",)))
    async with client.get("/api/v1/stacks/shop") as response:
        text = await response.text()
        found = await response.json()
    assert found["previous"] == {"revision": 1, "digest": digest}
    assert set(found["previous_stack"]["services"]) == {"web", "job"}
    assert SECRET not in text


async def test_a_digest_that_isnt_held_is_no_instruction(
    anonymous: aiohttp.ClientSession, cluster: FakeCluster
) -> None:
    assert (await post(anonymous, token(cluster, "0" * 64, rev=1)))[0] == 401


async def test_a_body_is_never_put_under_another_stack_or_act(
    anonymous: aiohttp.ClientSession, cluster: FakeCluster, digest: str
) -> None:
    instruct(cluster, "deploy", "stack:blog", Stack(name="blog", services=shop().services))
    assert (await post(anonymous, token(cluster, digest, target="stack:blog")))[0] == 401
    assert (await post(anonymous, token(cluster, digest, act="remove")))[0] == 401
    assert cluster.ledger.state.stacks["blog"].revision == 1


async def test_only_an_operator_of_the_cluster_signs(
    anonymous: aiohttp.ClientSession, cluster: FakeCluster, digest: str
) -> None:
    assert (await post(anonymous, token(cluster, digest, key=new_key())))[0] == 401
    assert (await post(anonymous, "junk"))[0] == 401
    assert cluster.ledger.state.stacks["shop"].revision == 1
