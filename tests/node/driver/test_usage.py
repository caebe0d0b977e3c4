"""What replicas use: from two samples, of this host and of others, and what is said of those that don't answer."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import errors
from agent.model.fault import fault_of
from agent.model.spec import ReplicaKey
from agent.model.usage import ReplicaUsage
from agent.node.driver.sampling import usage_of
from agent.node.driver.usage import UsageService
from agent.node.messages import Failed, GetUsage, ReplyFrame, UsageIs
from agent.runtime.protocol import Counters
from tests.node.driver.parts import Bench, bench
from tests.support.waiting import wait_for

KEY = ReplicaKey(stack="shop", service="web", slot=1)

seconds = st.floats(0, 1e9)
sizes = st.integers(0, 2**50)


@given(st.builds(Counters, at_s=seconds, cpu_s=seconds, memory_bytes=sizes, memory_limit_bytes=sizes), seconds, sizes)
def test_a_usage_is_never_negative_and_has_the_narrower_limit(before: Counters, later_s: float, host: int) -> None:
    at_s, limit = before.at_s + later_s, limit_of(host)
    after = Counters(at_s=at_s, cpu_s=before.cpu_s / 2, memory_bytes=5, memory_limit_bytes=limit)
    used = usage_of(KEY, "n1", before, after, host)
    assert used.cpu_percent == 0
    assert used.memory_limit_bytes == (min(host, limit) or max(host, limit))


def limit_of(host: int) -> int:
    """A limit that is narrower than the host's memory, wider, or none."""
    return (host // 2, host * 2, 0)[host % 3]


def test_one_processor_busy_is_a_hundred_percent() -> None:
    before = Counters(at_s=10.0, cpu_s=3.0, memory_bytes=1)
    after = Counters(at_s=10.5, cpu_s=3.5, memory_bytes=2)
    assert usage_of(KEY, "n1", before, after, 100) == used("n1", cpu_percent=100.0, memory_bytes=2)


def used(host: str, *, cpu_percent: float = 1.0, memory_bytes: int = 1, stack: str = "shop") -> ReplicaUsage:
    return ReplicaUsage(
        stack=stack,
        service="web",
        slot=1,
        host=host,
        cpu_percent=cpu_percent,
        memory_bytes=memory_bytes,
        memory_limit_bytes=100,
    )


class FakeLocal:
    async def usage(self, stack: str | None, host: str) -> tuple[ReplicaUsage, ...]:
        return tuple(each for each in (used(host), used(host, stack="bank")) if stack in (None, each.stack))


async def asked(at: Bench, host: str) -> object:
    return await UsageService(at.driver, FakeLocal())._of(at.id(host), "shop")


async def test_this_host_is_sampled_here_and_others_over_the_link() -> None:
    async with bench() as at:
        at.driver.start()
        at.link("n2")
        assert await asked(at, "n1") == (used("n1"),)
        asking = asyncio.create_task(asked(at, "n2"))
        await wait_for(lambda: at.calls_to("n2"))
        (call,) = at.calls_to("n2")
        assert call.request == GetUsage(stack="shop")
        at.says("n2", ReplyFrame(id=call.id, reply=UsageIs(replicas=(used("n2"), used("n3")))))
        assert await asking == (used("n2"),), "a host speaks for itself only"


async def test_a_host_that_cannot_be_asked_or_does_not_answer_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.node.driver.visits.LINK_WAIT_S", 0.01)
    async with bench() as at:
        at.driver.start()
        at.link("n2")
        assert "no link with n3" in str(await asked(at, "n3"))
        asking = asyncio.create_task(asked(at, "n2"))
        await wait_for(lambda: at.calls_to("n2"))
        away = fault_of(errors.RuntimeUnavailable("Docker doesn't answer"))
        at.says("n2", ReplyFrame(id=at.calls_to("n2")[0].id, reply=Failed(fault=away)))
        assert "Docker doesn't answer" in str(await asking)
        monkeypatch.setattr("agent.node.driver.usage.WITHIN_S", 0.01)
        assert "no answer within" in str(await asked(at, "n2"))


async def test_a_peer_gets_this_hosts_own() -> None:
    async with bench() as at:
        service = UsageService(at.driver, FakeLocal())
        (reply,) = [each async for each in service.answer(at.id("n2"), GetUsage(stack="bank"))]
        assert reply == UsageIs(replicas=(used("n1", stack="bank"),))
