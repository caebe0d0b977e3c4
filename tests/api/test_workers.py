"""docs/seed.md "Adding workers": its curl line, and why no agent does that alone."""

from __future__ import annotations

import json
from typing import Any

import aiohttp
import pytest

from tests.support.fake_node import FakeCluster

PATH = "/api/v1/deployment/workers"
SEED = '{\n    "host": "new-worker.example.com",\n    "user": "translator",\n    "ssh_key_path": "/path/to/key"\n  }'


async def post(client: aiohttp.ClientSession, body: Any, media: str = "application/problem+json") -> tuple[int, Any]:
    async with client.post(PATH, data=body, headers={"Content-Type": "application/json"}) as response:
        return response.status, await response.json(content_type=media)


async def test_seeds_body_is_refused_with_the_line_that_does_it(client: aiohttp.ClientSession) -> None:
    status, problem = await post(client, SEED)
    assert (status, problem["type"], problem["where"]) == (403, "urn:muster:problem:not-allowed", "$.host")
    assert problem["fix"].endswith("agent invite translator@new-worker.example.com --ssh-key-path /path/to/key --send")


async def test_a_member_is_told_to_be_one(client: aiohttp.ClientSession) -> None:
    status, problem = await post(client, '{"host": "n2"}')
    assert (status, "a member already" in problem["detail"]) == (403, True)
    assert "agent deploy" in problem["fix"]


async def test_nobody_hears_it_without_a_token(anonymous: aiohttp.ClientSession) -> None:
    assert (await post(anonymous, SEED))[0] == 401


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ("", "$"),
        ("[]", "$"),
        ("{}", "$"),
        ('{"host": "a", "host": "b"}', "$"),
        ('{"host": 1}', "$.host"),
        ('{"host": "-oProxyCommand=x"}', "$.host"),
        ('{"host": "a; rm -rf /"}', "$.host"),
        ('{"host": "a", "user": "a b"}', "$.user"),
        ('{"host": "a", "ssh_key_path": "a\\nb"}', "$.ssh_key_path"),
        ('{"host": "a", "password": "x"}', "$"),
    ],
)
async def test_what_is_wrong_in_a_body_is_named(body: str, where: str, client: aiohttp.ClientSession) -> None:
    status, problem = await post(client, body)
    assert (status, problem["where"]) == (400, where)


async def test_a_large_body_is_refused_unread(client: aiohttp.ClientSession) -> None:
    assert (await post(client, json.dumps({"host": "a" * 100_000})))[0] == 413


async def test_the_line_can_be_typed_whatever_the_key_is_called(
    client: aiohttp.ClientSession, cluster: FakeCluster
) -> None:
    _, problem = await post(client, json.dumps({"host": "n9", "ssh_key_path": "/a'; rm -rf / #"}))
    assert "--ssh-key-path '/a'\"'\"'; rm -rf / #'" in problem["fix"]


async def test_an_invitation_is_taken_and_its_operation_can_be_looked_at(client: aiohttp.ClientSession) -> None:
    status, begun = await post(client, '{"host": "n9", "sealed": "AAAA"}', media="application/json")
    assert (status, begun["state"], begun["host"]) == (202, "running", "n9")
    async with client.get(f"/api/v1/operations/{begun['id']}") as response:
        assert (response.status, await response.json()) == (200, begun)


async def test_an_operation_that_this_agent_does_not_know_is_not_found(client: aiohttp.ClientSession) -> None:
    async with client.get(f"/api/v1/operations/{'0' * 32}") as response:
        problem = await response.json(content_type="application/problem+json")
    assert (response.status, "Only the agent that took it" in problem["fix"]) == (404, True)


async def test_the_document_tells_of_both(client: aiohttp.ClientSession) -> None:
    async with client.get("/api/v1/openapi.json") as response:
        operation = (await response.json())["paths"][PATH]["post"]
    assert set(operation["responses"]) == {"202", "400", "401", "403", "404", "409", "413", "429", "500"}
    assert operation["requestBody"]["content"]["application/json"]["schema"] == {
        "$ref": "#/components/schemas/AddWorker"
    }
