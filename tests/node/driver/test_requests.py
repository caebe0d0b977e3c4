"""What waits for the core's answers: each gets its own, in order, and nobody waits for one that doesn't come."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from agent import errors
from agent.model.events import LogLine
from agent.model.fault import fault_of
from agent.model.status import Status
from agent.node.driver import requests
from agent.node.messages import Failed, Logs, ReplyFrame
from tests.node.cluster import stack
from tests.node.driver.parts import ASKED, Bench, bench, signed_deploy
from tests.support.waiting import wait_for


def part(call: int, *lines: str, end: bool = False) -> ReplyFrame:
    made = tuple(
        LogLine(stack="shop", service="web", slot=1, host="n2", at="", stream="stdout", line=line) for line in lines
    )
    return ReplyFrame(id=call, reply=Logs(lines=made), end=end)


async def opened(at: Bench, name: str = "n2") -> int:
    await wait_for(lambda: at.calls_to(name))
    return at.calls_to(name)[-1].id


async def test_a_status_is_this_agents_own_where_it_coordinates() -> None:
    async with bench() as at:
        await at.coordinate()
        status = await at.driver.requests.status()
        assert isinstance(status, Status)
        assert status.answered_by.id == at.id("n1")


async def test_a_fault_is_raised_as_the_error_it_was() -> None:
    async with bench() as at:
        await at.coordinate()
        token, _ = signed_deploy(stack())
        with pytest.raises(errors.NotAuthenticated):
            await at.driver.requests.submit(token, b"{}")


async def test_whoever_waits_is_told_of_the_stop() -> None:
    async with bench() as at:
        await at.coordinate()
        at.link("n2")
        at.disk.open.clear()
        submitted = asyncio.create_task(at.driver.requests.submit(*signed_deploy(stack())))
        called = asyncio.create_task(anext(at.driver.requests.call(at.id("n2"), ASKED)))
        await wait_for(lambda: at.calls_to("n2") and at.log[-1] != "written")
        await at.driver.stop(0.0)
        for task in (submitted, called):
            with pytest.raises(errors.Unreachable, match="stopping"):
                await task


async def test_a_calls_replies_come_in_order_until_its_end() -> None:
    async with bench() as at:
        await at.coordinate()
        at.link("n2")
        read: list[str] = []

        async def reader() -> None:
            async for reply in at.driver.requests.call(at.id("n2"), ASKED):
                assert isinstance(reply, Logs)
                read.extend(line.line for line in reply.lines)

        task = asyncio.create_task(reader())
        call = await opened(at)
        at.says("n2", part(call, "one"))
        at.says("n2", part(call, "two", "three"))
        at.says("n2", part(call, end=True))
        await task
        assert read == ["one", "two", "three"]
        assert not at.cancelled("n2"), "it ended by itself"


async def test_a_reader_that_leaves_cancels_its_call() -> None:
    async with bench() as at:
        await at.coordinate()
        at.link("n2")
        async with aclosing(at.driver.requests.call(at.id("n2"), ASKED)) as replies:
            first = asyncio.create_task(anext(replies))
            call = await opened(at)
            at.says("n2", part(call, "one"))
            await first
        await wait_for(lambda: at.cancelled("n2") == [call])
        at.says("n2", part(call, "too late"))
        assert not at.driver.failed.done()


async def test_a_reader_that_is_cancelled_cancels_its_call() -> None:
    async with bench() as at:
        await at.coordinate()
        at.link("n2")
        replies = at.driver.requests.call(at.id("n2"), ASKED)
        first = asyncio.create_task(anext(replies))
        call = await opened(at)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        await wait_for(lambda: at.cancelled("n2") == [call])


async def test_a_call_ends_with_the_peers_error() -> None:
    async with bench() as at:
        await at.coordinate()
        at.link("n2")
        first = asyncio.create_task(anext(at.driver.requests.call(at.id("n2"), ASKED)))
        call = await opened(at)
        at.says("n2", ReplyFrame(id=call, reply=Failed(fault=fault_of(errors.NotFound("nothing here")))))
        with pytest.raises(errors.NotFound, match="nothing here"):
            await first


async def test_a_call_ends_with_its_link() -> None:
    async with bench() as at:
        await at.coordinate()
        at.link("n2")
        first = asyncio.create_task(anext(at.driver.requests.call(at.id("n2"), ASKED)))
        await opened(at)
        at.unlink("n2")
        with pytest.raises(errors.Unreachable, match="no link with n2"):
            await first


async def test_a_call_needs_a_link() -> None:
    async with bench() as at:
        await at.coordinate()
        with pytest.raises(errors.Unreachable):
            await anext(at.driver.requests.call(at.id("n2"), ASKED))


async def test_a_reader_too_far_behind_is_cut_and_told() -> None:
    async with bench() as at:
        await at.coordinate()
        at.link("n2")
        replies = at.driver.requests.call(at.id("n2"), ASKED)
        first = asyncio.create_task(anext(replies))
        call = await opened(at)
        at.says("n2", part(call, "read"))
        await first
        for number in range(requests.QUEUED_REPLIES + 2):
            at.says("n2", part(call, str(number)))
        await wait_for(lambda: at.cancelled("n2") == [call])
        with pytest.raises(errors.TooMany):
            async for _ in replies:
                pass
