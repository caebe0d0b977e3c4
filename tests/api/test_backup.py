"""What backups ask of an agent: environment values and volumes, for an admin's word for that very request."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import aiohttp
import pytest

from agent.instruction import sign_request
from agent.model.cluster import Operator
from agent.state import decode_snapshot
from tests.support.fake_node import FakeCluster

STATE, LOG, VOLUME = "/api/v1/backup/state", "/api/v1/backup/api-log", "/api/v1/backup/volumes/shop/data"


def word(cluster: FakeCluster, does: str, **changes: Any) -> dict[str, str]:
    fields: dict[str, Any] = {
        "operator_name": "ann",
        "cluster": cluster.home.cluster.id,
        "epoch": 1,
        "host": cluster.nodes["n1"].node.me.id,
        "does": does,
        "now_s": time.time(),
    }
    return {"Authorization": f"Bearer {sign_request(cluster.key, **(fields | changes))}"}


async def test_the_state_comes_whole_and_proven(client: aiohttp.ClientSession, cluster: FakeCluster) -> None:
    async with client.get(STATE, headers=word(cluster, f"GET {STATE}")) as response:
        assert response.status == 200
        state = decode_snapshot(await response.read(), verify=True)
    assert state.cluster == cluster.home.cluster.id


async def test_another_request_another_host_or_another_token_shows_nothing(
    client: aiohttp.ClientSession, cluster: FakeCluster
) -> None:
    for headers, status in (
        ({}, 401),
        ({"Authorization": f"Bearer {cluster.access_token()}"}, 401),
        (word(cluster, f"GET {LOG}"), 403),
        (word(cluster, f"GET {STATE}", host="b" * 26), 403),
        (word(cluster, f"GET {STATE}", now_s=time.time() - 3600), 401),
    ):
        async with client.get(STATE, headers=headers) as response:
            assert response.status == status


@pytest.mark.parametrize("scope", ["read", "operate", "deploy"])
async def test_less_than_an_admin_sees_nothing(client: aiohttp.ClientSession, cluster: FakeCluster, scope: Any) -> None:
    cluster.add_operator(Operator(name="bob", key=cluster.home.operator.key, scope=scope))
    async with client.get(STATE, headers=word(cluster, f"GET {STATE}", operator_name="bob")) as response:
        assert response.status == 403
        assert "admin" in (await response.json())["fix"]


async def test_a_volume_goes_there_and_back(client: aiohttp.ClientSession, cluster: FakeCluster) -> None:
    async with client.get(VOLUME, headers=word(cluster, f"GET {VOLUME}")) as response:
        assert response.status == 404
    data = b"archive" * 1000
    named = {"digest": hashlib.sha256(data).hexdigest(), "size": len(data)}
    async with client.put(VOLUME, data=data, headers=word(cluster, f"PUT {VOLUME}", **named)) as response:
        assert response.status == 200
    async with client.get(VOLUME, headers=word(cluster, f"GET {VOLUME}")) as response:
        assert await response.read() == data
    async with client.put(VOLUME, data=data + b"!", headers=word(cluster, f"PUT {VOLUME}", **named)) as response:
        assert response.status == 400, "another size than was signed"
