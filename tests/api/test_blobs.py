"""Contents over HTTPS: what an operator signed, exactly, and nothing else."""

from __future__ import annotations

import hashlib
import json
import time
from typing import Any

import aiohttp
import pytest

from agent.errors import TooMany
from agent.instruction import new_key, public_hex, sign_blob
from agent.model.api import ImageProgress
from agent.model.cluster import Operator
from tests.support.fake_node import FakeCluster, RunningNode

CONTENT = b"certificate" * 50_000
DIGEST = hashlib.sha256(CONTENT).hexdigest()
PATH = f"/api/v1/blobs/{DIGEST}"


def token(cluster: FakeCluster, **changes: Any) -> dict[str, str]:
    fields: dict[str, Any] = {
        "operator_name": "ann",
        "cluster": cluster.home.cluster.id,
        "epoch": 1,
        "use": "file",
        "digest": DIGEST,
        "size": len(CONTENT),
        "now_s": time.time(),
    }
    key = changes.pop("key", cluster.key)
    return {"Authorization": f"Bearer {sign_blob(key, **(fields | changes))}"}


async def put(session: aiohttp.ClientSession, headers: dict[str, str], data: Any = CONTENT, path: str = PATH) -> int:
    async with session.put(path, data=data, headers=headers) as response:
        await response.read()
        return response.status


async def test_a_content_that_was_sent_is_there(
    client: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    async with client.get(PATH) as response:
        assert response.status == 404
    assert await put(client, token(cluster)) == 200
    assert running.node.blobs.contents[DIGEST] == CONTENT
    async with client.get(PATH) as response:
        assert await response.json() == {"digest": DIGEST, "size": len(CONTENT)}


@pytest.mark.parametrize(
    "changes",
    [
        {"key": new_key()},
        {"now_s": 1_700_000_000.0},
        {"epoch": 2},
        {"operator_name": "bob"},
        {"digest": "0" * 64},
        {"use": "image"},
    ],
)
async def test_a_token_for_anything_else_is_refused(
    anonymous: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode, changes: dict[str, Any]
) -> None:
    before = dict(running.node.blobs.contents)
    assert await put(anonymous, token(cluster, **changes)) == 401
    assert running.node.blobs.contents == before


async def test_who_may_only_read_sends_nothing(anonymous: aiohttp.ClientSession, cluster: FakeCluster) -> None:
    key = new_key()
    cluster.add_operator(Operator(name="eve", key=public_hex(key), scope="operate"))
    assert await put(anonymous, token(cluster, key=key, operator_name="eve")) == 403
    assert await put(anonymous, {"Authorization": f"Bearer {cluster.access_token()}"}) == 401
    assert await put(anonymous, {}) == 401


async def test_another_length_or_content_than_was_signed_is_refused(
    anonymous: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    assert await put(anonymous, token(cluster), CONTENT[:-1]) == 400
    assert await put(anonymous, token(cluster), CONTENT[:-1] + b"!") == 400

    async def chunked() -> Any:
        yield CONTENT

    assert await put(anonymous, token(cluster), chunked()) == 400
    assert DIGEST not in running.node.blobs.contents


@pytest.mark.parametrize("name", ["x", "A" * 64, "0" * 63, "..%2F..%2Fetc%2Fpasswd"])
async def test_only_a_digest_names_a_content(client: aiohttp.ClientSession, cluster: FakeCluster, name: str) -> None:
    assert await put(client, token(cluster), path=f"/api/v1/blobs/{name}") == 400


async def test_a_busy_agent_says_so(
    anonymous: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    running.node.blobs.put_errors.append(TooMany("8 uploads are under way here"))
    assert await put(anonymous, token(cluster)) == 429


async def test_an_image_is_loaded_by_its_own_token_and_hosts_tell_how_far_they_are(
    anonymous: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    running.node.blobs.progress = [
        ImageProgress(host="n1", step="fetching", done=1, size=2),
        ImageProgress(host="n1", step="loaded", images=("web:1",)),
    ]
    headers = token(cluster, use="image", hosts=("n1",))
    async with anonymous.post(f"/api/v1/images/{DIGEST}/load", headers=headers) as response:
        assert response.status == 200
        lines = [json.loads(line) for line in (await response.text()).splitlines()]
    assert [line["step"] for line in lines] == ["fetching", "loaded"]
    assert [f"Bearer {each}" for each in running.node.blobs.loads] == [headers["Authorization"]]
    async with anonymous.post(f"/api/v1/images/{DIGEST}/load", headers=token(cluster)) as response:
        assert response.status == 401
