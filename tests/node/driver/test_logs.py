"""Replicas' output, from this host and from others, many at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Any

import pytest

from agent import errors
from agent.model.events import LogLine
from agent.model.fault import fault_of
from agent.model.spec import ReplicaKey
from agent.node.driver.logs import LINES_PER_PART, MAX_LINE_CHARACTERS, PART_CHARACTERS, LogService
from agent.node.messages import Failed, FollowLogs, Logs, ReplyFrame
from agent.runtime.protocol import RawLine
from tests.node.driver.parts import Bench, bench
from tests.support.waiting import wait_for


class FakeLocal:
    """`lines` by service; a service without any isn't here. `asked`: with what."""

    def __init__(self, **lines: list[str]) -> None:
        self.lines = lines
        self.asked: list[dict[str, Any]] = []
        self.closed = 0

    async def logs(
        self, key: ReplicaKey, *, tail: int | None, since: datetime | None, follow: bool
    ) -> AsyncGenerator[RawLine]:
        self.asked.append({"key": key, "tail": tail, "since": since, "follow": follow})
        if key.service not in self.lines:
            raise errors.NotFound(f"this host doesn't run {key}")
        try:
            for line in self.lines[key.service]:
                yield RawLine(at="", stream="stdout", line=line)
            if follow:
                await asyncio.Event().wait()
        finally:
            self.closed += 1


def asked(service: str = "web", **more: Any) -> FollowLogs:
    return FollowLogs(stack="shop", service=service, slot=1, **more)


async def texts(lines: AsyncGenerator[LogLine]) -> list[str]:
    return [line.line async for line in lines]


def remote(call: int, *lines: str, end: bool = False) -> ReplyFrame:
    made = tuple(LogLine(stack="shop", service="web", slot=1, host="n2", at="", stream="stdout", line=x) for x in lines)
    return ReplyFrame(id=call, reply=Logs(lines=made), end=end)


async def answered(at: Bench, *lines: str) -> None:
    await wait_for(lambda: at.calls_to("n2"))
    at.says("n2", remote(at.calls_to("n2")[-1].id, *lines, end=True))


async def test_this_hosts_own_lines_are_read_here() -> None:
    async with bench() as at:
        local = FakeLocal(web=["one", "two"])
        service = LogService(at.driver, local)
        lines = [line async for line in service.read(asked(tail=5, since="2024-01-15T10:30:00Z"), at.id("n1"))]
        assert [(line.host, line.service, line.line) for line in lines] == [("n1", "web", "one"), ("n1", "web", "two")]
        assert local.asked[0]["since"] == datetime(2024, 1, 15, 10, 30, tzinfo=UTC)
        assert local.asked[0]["tail"] == 5
        assert local.closed == 1


async def test_another_hosts_lines_come_over_the_link() -> None:
    async with bench() as at:
        at.driver.start()
        at.link("n2")
        read = asyncio.create_task(texts(LogService(at.driver, FakeLocal()).read(asked(), at.id("n2"))))
        await answered(at, "one", "two")
        assert await read == ["one", "two"]
        assert at.calls_to("n2")[0].request == asked()


async def test_replicas_of_many_hosts_come_as_one_stream() -> None:
    async with bench() as at:
        at.driver.start()
        at.link("n2")
        service = LogService(at.driver, FakeLocal(web=["here"]))
        wanted = {at.id("n1"): [asked()], at.id("n2"): [asked()]}
        read = asyncio.create_task(texts(service.merge(wanted)))
        await answered(at, "there")
        assert sorted(await read) == ["here", "there"]


async def test_a_host_that_cant_be_asked_says_so_in_a_line_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("agent.node.driver.visits.LINK_WAIT_S", 0.01)
    async with bench() as at:
        at.driver.start()
        service = LogService(at.driver, FakeLocal(web=["here"]))
        lines = [line async for line in service.merge({at.id("n1"): [asked()], at.id("n3"): [asked()]})]
        assert [line.line for line in lines if line.host == "n1"] == ["here"]
        (said,) = [line for line in lines if line.host == "n3"]
        assert said.stream == "stderr"
        assert "no link with n3" in said.line


async def test_a_peers_error_becomes_a_line_too() -> None:
    async with bench() as at:
        at.driver.start()
        at.link("n2")
        read = asyncio.create_task(texts(LogService(at.driver, FakeLocal()).merge({at.id("n2"): [asked()]})))
        await wait_for(lambda: at.calls_to("n2"))
        fault = fault_of(errors.NotFound("it is gone"))
        at.says("n2", ReplyFrame(id=at.calls_to("n2")[-1].id, reply=Failed(fault=fault)))
        (line,) = await read
        assert "it is gone" in line


async def test_what_nobody_foresaw_ends_the_stream_instead_of_hanging() -> None:
    class Broken(FakeLocal):
        def logs(self, *_: Any, **__: Any) -> Any:
            raise RuntimeError("a bug")

    async with bench() as at:
        with pytest.raises(RuntimeError, match="a bug"):
            await texts(LogService(at.driver, Broken()).merge({at.id("n1"): [asked()]}))


async def test_a_reader_that_leaves_ends_every_replicas_stream() -> None:
    async with bench() as at:
        at.driver.start()
        at.link("n2")
        local = FakeLocal(web=["here"])
        service = LogService(at.driver, local)
        wanted = {at.id("n1"): [asked(follow=True)], at.id("n2"): [asked(follow=True)]}
        async with aclosing(service.merge(wanted)) as lines:
            assert (await anext(lines)).line == "here"
            await wait_for(lambda: at.calls_to("n2"))
        assert local.closed == 1
        await wait_for(lambda: at.cancelled("n2") == [at.calls_to("n2")[0].id])


# For peers


async def parts_of(at: Bench, wanted: FollowLogs, *lines: str) -> list[Logs]:
    service = LogService(at.driver, FakeLocal(web=list(lines)))
    found = [part async for part in service.answer(at.id("n2"), wanted)]
    assert all(isinstance(part, Logs) for part in found)
    return found  # type: ignore[return-value]  # as just asserted


async def test_a_peer_gets_many_lines_in_few_parts_and_in_order() -> None:
    async with bench() as at:
        lines = [str(number) for number in range(LINES_PER_PART * 3)]
        parts = await parts_of(at, asked(), *lines)
        assert [line.line for part in parts for line in part.lines] == lines
        assert len(parts) < len(lines) / 10


async def test_a_part_stays_small() -> None:
    async with bench() as at:
        parts = await parts_of(at, asked(), *["x" * MAX_LINE_CHARACTERS] * 20)
        assert all(sum(len(line.line) for line in part.lines) <= PART_CHARACTERS for part in parts)
        assert sum(len(part.lines) for part in parts) == 20


async def test_a_line_is_cut_where_docker_cuts_it() -> None:
    async with bench() as at:
        (part,) = await parts_of(at, asked(), "x" * (MAX_LINE_CHARACTERS + 5))
        assert len(part.lines[0].line) == MAX_LINE_CHARACTERS


@pytest.mark.parametrize("since", ["yesterday", "2024-13-01T00:00:00Z", "2024-01-15T10:30:00", "9" * 500])
async def test_a_time_that_isnt_one_is_the_askers_fault(since: str) -> None:
    async with bench() as at:
        with pytest.raises(errors.InputError):
            await parts_of(at, asked(since=since), "one")


async def test_a_replica_that_isnt_here_is_not_found() -> None:
    async with bench() as at:
        with pytest.raises(errors.NotFound):
            await parts_of(at, asked("other"), "one")
