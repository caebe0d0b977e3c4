"""The agent as its API sees it: events with bounds, and answers from the driver."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from msgspec.structs import replace

from agent import errors
from agent.model.events import Event
from agent.node.driver.loop import now
from agent.node.driver.service import QUEUED_EVENTS, AgentService
from tests.node.driver.parts import Bench, bench, signed_deploy
from tests.support.ledger import service as shop_service
from tests.support.ledger import stack
from tests.support.waiting import wait_for


class Counts:
    def network_services(self) -> int:
        return 7

    def api_requests_total(self) -> int:
        return 42


def service_of(at: Bench) -> AgentService:
    unused: Any = None
    return AgentService(at.driver, unused, unused, unused, unused, unused, unused, unused, Counts(), unused)


def tell(at: Bench, *numbers: int) -> None:
    for number in numbers:
        at.driver.core.chronicle.tell(now(), "host", f"event {number}")
    at.driver.flush()


async def coordinating(at: Bench) -> AgentService:
    service = service_of(at)
    await at.coordinate()
    await asyncio.sleep(0)
    return service


async def test_a_listener_hears_from_now_on() -> None:
    async with bench() as at:
        service = await coordinating(at)
        async with aclosing(service.events(after=None)) as events:
            first = asyncio.create_task(anext(events))
            await asyncio.sleep(0)
            tell(at, 1)
            assert (await first).what == "event 1"


async def test_a_listener_that_comes_back_misses_nothing() -> None:
    async with bench() as at:
        service = await coordinating(at)
        tell(at, 1, 2, 3)
        kept = list(at.driver.core.chronicle.recent)
        last_seen = next(event.id for event in kept if event.what == "event 1")
        async with aclosing(service.events(after=last_seen)) as events:
            assert [(await anext(events)).what for _ in range(2)] == ["event 2", "event 3"]


async def test_the_core_follows_the_coordinator_while_anybody_listens() -> None:
    async with bench() as at:
        service = await coordinating(at)
        listening: list[bool] = []
        at.driver.core.listen = listening.append  # type: ignore[method-assign, assignment]  # watched
        one, two = service.events(after=None), service.events(after=None)
        waiting = [asyncio.create_task(anext(events)) for events in (one, two)]
        await asyncio.sleep(0)
        assert listening == [True, True]
        for task in waiting:
            task.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
        assert listening == [True, True, True, False]


async def test_a_listener_too_far_behind_is_cut_and_the_others_go_on() -> None:
    async with bench() as at:
        service = await coordinating(at)
        slow, quick = service.events(after=None), service.events(after=None)
        heard: list[Event] = []

        async def listen() -> None:
            async for event in quick:
                heard.append(event)

        first = asyncio.create_task(anext(slow))
        listening = asyncio.create_task(listen())
        await asyncio.sleep(0)
        tell(at, 0)
        await first
        for number in range(1, QUEUED_EVENTS + 2):
            tell(at, number)
            await asyncio.sleep(0)
        with pytest.raises(StopAsyncIteration):
            await anext(slow)
        await wait_for(lambda: len(heard) == QUEUED_EVENTS + 2)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await quick.aclose()


async def test_the_status_carries_this_agents_own_counts() -> None:
    async with bench() as at:
        service = await coordinating(at)
        status = await service.status()
        assert (status.network_services, status.api_requests_total) == (7, 42)


async def test_health_says_who_coordinates() -> None:
    async with bench() as at:
        assert not service_of(at).health().ok
        service = await coordinating(at)
        health = service.health()
        assert (health.ok, health.name, health.coordinator) == (True, "n1", "n1")


async def test_a_host_that_its_own_ledger_expelled_answers_by_its_name() -> None:
    async with bench() as at:
        service = await coordinating(at)
        context = at.driver.core.context
        context.state = replace(context.state, members={})
        assert (service.health().name, service.me.name) == ("n1", "n1")


async def test_logs_of_nothing_say_what_there_is() -> None:
    async with bench() as at:
        service = await coordinating(at)
        with pytest.raises(errors.NotFound, match="no stack 'shop'"):
            await anext(service.logs("shop", service=None, slot=None, tail=None, since=None, follow=False))


def logs_of(service: AgentService, follow: bool, name: str | None = None, slot: int | None = None) -> Any:
    return service.logs("shop", service=name, slot=slot, tail=None, since=None, follow=follow)


async def test_logs_of_what_has_not_run_yet_say_so_and_a_follow_waits_for_it() -> None:
    async with bench(members=1) as at:
        service = await coordinating(at)
        await at.driver.requests.submit(*signed_deploy(stack(web=shop_service(replicas=2))))
        with pytest.raises(errors.NotFound, match=r"nothing of shop/\* has run yet: shop is preparing") as told:
            await anext(logs_of(service, follow=False))
        assert "agent logs -f" in told.value.fix
        async with aclosing(logs_of(service, follow=True, name="web", slot=2)) as lines:
            waiting = asyncio.ensure_future(anext(lines))
            await asyncio.sleep(0.01)
            assert not waiting.done()
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        for name, slot in (("wob", None), ("web", 3)):  # a typing error isn't waited for
            with pytest.raises(errors.NotFound, match="no replica matches"):
                await anext(logs_of(service, follow=True, name=name, slot=slot))
