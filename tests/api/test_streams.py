"""Answers that go on: server-sent events (WHATWG HTML §9.2), lines of JSON, and how both end."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator

import aiohttp
import pytest

from agent.api import limits, streams
from agent.api.streams import paced
from agent.errors import NotFound, RuntimeUnavailable
from tests.support.fake_node import FakeCluster, RunningNode, event, line
from tests.support.shop import open_shop
from tests.support.waiting import wait_for

LOGS = "/api/v1/stacks/shop/logs"
EVENTS = "/api/v1/events"


async def lines_of(client: aiohttp.ClientSession, query: str = "") -> list[str]:
    async with client.get(LOGS + query) as response:
        assert response.status == 200
        assert response.content_type == "application/x-ndjson"
        return [json.loads(text)["line"] for text in (await response.text()).splitlines() if text]


async def test_log_lines_are_one_object_each(
    client: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    open_shop(cluster)
    running.node.lines = [line("a"), line('b "quoted"\ttab'), line("c", service="job"), line("d", slot=2)]
    assert await lines_of(client) == ["a", 'b "quoted"\ttab', "c", "d"]
    assert await lines_of(client, "?service=job") == ["c"]
    assert await lines_of(client, "?slot=2") == ["d"]
    assert await lines_of(client, "?tail=1") == ["d"]
    assert await lines_of(client, "?tail=0") == []
    assert await lines_of(client, "?since=2030-01-01T00:00:00Z") == []


async def test_an_error_before_the_first_line_is_a_problem(
    client: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    open_shop(cluster)
    running.node.fail = NotFound("no replica matches shop/x", fix="see `agent ps`")
    async with client.get(LOGS) as response:
        assert response.status == 404
        assert (await response.json(content_type=None))["detail"] == "no replica matches shop/x"


async def test_an_error_behind_the_first_line_cuts_the_connection_so_that_nobody_takes_it_for_the_end(
    client: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    open_shop(cluster)
    running.node.lines = [line("a")]
    for error in (RuntimeUnavailable("docker doesn't answer"), ValueError("a defect")):
        running.node.log_error = error
        async with client.get(LOGS) as response:
            assert response.status == 200
            with pytest.raises(aiohttp.ClientError):
                await response.read()
    assert running.node.following == 0


async def test_following_ends_when_the_client_leaves(
    client: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    open_shop(cluster)
    running.node.lines = [line("a")]
    async with client.get(LOGS + "?follow=true") as response:
        assert json.loads(await response.content.readline())["line"] == "a"
        assert await response.content.readline() == b"\n"  # a sign of life
        assert running.node.following == 1
    await wait_for(lambda: running.node.following == 0)
    await wait_for(lambda: len(running.streams) == 0)


async def test_the_api_log_has_a_streams_size(
    client: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    open_shop(cluster)
    running.node.lines = [line("a")]
    async with client.get(LOGS) as response:
        body = await response.read()
    assert running.records[-1].response_size == len(body) > 0


async def test_a_stream_that_the_client_ended_was_answered_and_took_as_long_as_its_beginning(
    client: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    open_shop(cluster)
    running.node.lines = [line("a")]
    began = time.monotonic()
    async with client.get(LOGS + "?follow=true") as response:
        first = await response.content.readline()
        assert await response.content.readline() == b"\n"
        open_ms = (time.monotonic() - began) * 1000
    await wait_for(lambda: running.node.following == 0)
    await wait_for(lambda: running.records[-1].url.startswith(LOGS))
    record = running.records[-1]
    assert (record.status_code, record.error) == (200, None)
    assert record.response_size > len(first)
    assert float(record.duration.removesuffix("ms")) < open_ms
    async with client.get("/api/v1/deployment/api-stats") as response:
        stats = await response.json()
    assert (stats["total_requests"], stats["total_responses"], stats["error_count"]) == (1, 1, 0)


async def test_events_carry_their_agents_id_and_number(client: aiohttp.ClientSession, running: RunningNode) -> None:
    async with client.get(EVENTS) as response:
        assert response.content_type == "text/event-stream"
        await wait_for(lambda: running.node.listeners)
        running.node.tell(event(7, "n2 joined"))
        text = b""
        while b"data:" not in text:
            text = await response.content.readuntil(b"\n\n")
    number, kind, data, *_ = text.decode().split("\n")
    assert number == f"id: {running.node.me.id}:7"
    assert kind == "event: coordinator"
    assert json.loads(data.removeprefix("data: "))["what"] == "n2 joined"
    await wait_for(lambda: not running.node.listeners)


async def test_who_sees_events_begin_hears_what_happens_from_then_on(
    client: aiohttp.ClientSession, running: RunningNode
) -> None:
    async with client.get(EVENTS):
        assert running.node.listeners, "the answer has begun, and nobody listens"


async def told(client: aiohttp.ClientSession, query: str, last: str | None = None) -> list[int]:
    headers = {"Last-Event-ID": last} if last is not None else {}
    async with client.get(EVENTS + query, headers=headers) as response:
        assert response.status == 200
        text = await response.text()
    return [json.loads(each.removeprefix("data: "))["id"] for each in text.split("\n") if each.startswith("data: ")]


async def test_a_stream_goes_on_behind_the_last_event_of_the_same_agent(
    client: aiohttp.ClientSession, running: RunningNode
) -> None:
    running.node.kept = [event(number) for number in range(1, 6)]
    me = running.node.me.id
    assert await told(client, "?follow=false") == [1, 2, 3, 4, 5]
    assert await told(client, "?follow=false", f"{me}:3") == [4, 5]
    assert await told(client, "?follow=false", "4") == [5]
    assert await told(client, "?follow=false", f"{me}:9") == []
    other = "a" * 26
    assert await told(client, "?follow=false&recent=true", f"{other}:3") == [1, 2, 3, 4, 5]


async def test_silence_is_broken_by_comments(client: aiohttp.ClientSession) -> None:
    async with client.get(EVENTS) as response:
        assert await response.content.readuntil(b"\n\n") == b": keepalive\n\n"
        assert await response.content.readuntil(b"\n\n") == b": keepalive\n\n"


async def test_more_streams_than_the_bound_are_refused(
    client: aiohttp.ClientSession, running: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "MAX_STREAMS", 2)
    async with client.get(EVENTS), client.get(EVENTS):
        await wait_for(lambda: len(running.streams) == 2)
        async with client.get(EVENTS) as response:
            assert response.status == 429
            assert response.headers["Retry-After"] == "1"
    await wait_for(lambda: len(running.streams) == 0)
    assert limits.MAX_STREAMS > 2


async def test_a_stopping_agent_ends_its_streams(
    client: aiohttp.ClientSession, cluster: FakeCluster, running: RunningNode
) -> None:
    async with client.get(EVENTS) as response:
        await wait_for(lambda: len(running.streams) == 1)
        await running.server.close()
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    cluster.nodes.clear()


async def _numbers(gate: asyncio.Event) -> AsyncIterator[int]:
    yield 1
    yield 2
    await gate.wait()
    yield 3


async def test_pacing_tells_silence_and_loses_nothing() -> None:
    gate = asyncio.Event()
    found: list[int | None] = []
    async for item in paced(_numbers(gate), 1.0, 0.01):
        found.append(item)
        if found.count(None) == 3:
            gate.set()
    assert [item for item in found if item is not None] == [1, 2, 3]
    assert found[:2] == [1, 2]
    assert found.count(None) >= 3
