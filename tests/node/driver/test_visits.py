"""Links that are needed for a while: made, waited for, and let go."""

from __future__ import annotations

import asyncio

import pytest

from agent import errors
from agent.node.driver import loop, visits
from tests.node.driver.parts import bench
from tests.support.waiting import wait_for


async def test_a_link_to_a_member_nobody_keeps_one_with_is_made_and_let_go() -> None:
    async with bench() as at:
        await at.coordinate()
        peer = at.id("n3")
        kept = at.wire.wants[-1]
        assert peer not in kept
        async with asyncio.timeout(2.0):
            opening = at.driver.visits.linked(peer)
            entering = asyncio.create_task(opening.__aenter__())
            await wait_for(lambda: peer in at.wire.wants[-1])
            at.link("n3")
            await entering
        async with at.driver.visits.linked(peer):
            assert peer in at.wire.wants[-1]
        assert peer in at.wire.wants[-1], "the first one still needs it"
        await opening.__aexit__(None, None, None)
        assert at.wire.wants[-1] == kept


async def test_a_link_that_doesnt_come_isnt_waited_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visits, "LINK_WAIT_S", 0.02)
    async with bench() as at:
        await at.coordinate()
        with pytest.raises(errors.Unreachable, match="n3"):
            async with at.driver.visits.linked(at.id("n3")):
                pytest.fail("there is no link")
        assert at.id("n3") not in at.wire.wants[-1]


async def test_members_that_come_meanwhile_dont_end_a_visit() -> None:
    async with bench() as at:
        await at.coordinate()
        at.link("n3")
        async with at.driver.visits.linked(at.id("n3")):
            at.driver.core.membership.changed(loop.now())
            at.driver.flush()
            count = len(at.wire.wants)
            await wait_for(lambda: len(at.wire.wants) > count)
            assert at.id("n3") in at.wire.wants[-1]
