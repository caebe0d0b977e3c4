"""API keys: they read, they change nothing, and they end when they are revoked."""

from __future__ import annotations

import aiohttp
import pytest

from agent.instruction.api_keys import digest_of_api_key, new_api_key
from agent.model.cluster import ApiKey
from agent.model.instruction import GrantKey, Revoke
from tests.support.fake_node import FakeCluster, RunningNode
from tests.support.shop import instruct, open_shop

STATUS = "/api/v1/deployment/status"
MADE = new_api_key()


def granted(cluster: FakeCluster, stacks: tuple[str, ...] = ("*",)) -> None:
    key = ApiKey(name="grafana", sha256=digest_of_api_key(MADE), stacks=stacks)
    assert instruct(cluster, "grant-key", "key:grafana", GrantKey(key=key)).outcome == "applied"


async def answered(client: aiohttp.ClientSession, path: str, key: str = MADE) -> int:
    async with client.get(path, headers={"Authorization": f"Bearer {key}"}) as response:
        await response.read()
        return response.status


async def test_a_granted_key_reads(cluster: FakeCluster, anonymous: aiohttp.ClientSession) -> None:
    assert await answered(anonymous, STATUS) == 401
    granted(cluster)
    assert await answered(anonymous, STATUS) == 200
    assert await answered(anonymous, "/metrics") == 200


async def test_a_revoked_key_ends_at_once(cluster: FakeCluster, anonymous: aiohttp.ClientSession) -> None:
    granted(cluster)
    assert instruct(cluster, "revoke-key", "key:grafana", Revoke()).outcome == "applied"
    assert await answered(anonymous, STATUS) == 401


@pytest.mark.parametrize(
    "key",
    ["muster_" + "A" * 43, MADE[:-1], f"{MADE}A", MADE.upper(), "muster_", digest_of_api_key(MADE)],
    ids=["another", "shorter", "longer", "upper case", "empty", "digest"],
)
async def test_nothing_but_the_key_itself_reads(
    key: str, cluster: FakeCluster, anonymous: aiohttp.ClientSession
) -> None:
    granted(cluster)
    assert await answered(anonymous, STATUS, key) == 401


async def test_a_key_changes_nothing(
    cluster: FakeCluster, running: RunningNode, anonymous: aiohttp.ClientSession
) -> None:
    granted(cluster)
    submitted = len(running.node.submitted)
    headers = {"Authorization": f"Bearer {MADE}"}
    for method, path in (("POST", "/api/v1/instructions"), ("PUT", f"/api/v1/blobs/{'0' * 64}")):
        async with anonymous.request(method, path, headers=headers, data=b"{}") as response:
            assert response.status == 401
    assert len(running.node.submitted) == submitted


async def test_a_key_for_some_stacks_sees_into_no_others(
    cluster: FakeCluster, anonymous: aiohttp.ClientSession
) -> None:
    open_shop(cluster)
    granted(cluster, ("web-*",))
    assert await answered(anonymous, STATUS) == 200
    assert await answered(anonymous, "/api/v1/stacks/shop") == 403


async def test_the_list_names_them_and_shows_no_key(cluster: FakeCluster, client: aiohttp.ClientSession) -> None:
    granted(cluster)
    async with client.get("/api/v1/keys") as response:
        text = await response.text()
    assert "grafana" in text
    assert MADE not in text


def test_a_name_that_has_a_key_keeps_it(cluster: FakeCluster) -> None:
    granted(cluster)
    other = ApiKey(name="grafana", sha256="0" * 64)
    refused = instruct(cluster, "grant-key", "key:grafana", GrantKey(key=other))
    assert (refused.outcome, refused.kind) == ("refused", "conflict")
    assert cluster.ledger.state.api_keys["grafana"].sha256 == digest_of_api_key(MADE)
