"""A follow of a stack: who joins it, where reading goes on, and what is said of a host that doesn't answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

import pytest
from msgspec.structs import replace

from agent import errors
from agent.model.events import LogLine
from agent.model.ledger import LevelEntry, Predecessor
from agent.model.spec import ReplicaKey
from agent.node.driver.following import Following, Placed, Placements
from agent.node.messages import FollowLogs
from agent.state import PREDECESSOR_LEVEL
from tests.support.ledger import Ledger, service, stack
from tests.support.waiting import wait_for

FIRST, SECOND = ReplicaKey(stack="shop", service="web", slot=1), ReplicaKey(stack="shop", service="web", slot=2)

Step = str | Exception
"""A line's text (`<time>|<text>`, the time may be empty), or how the read ends."""


class Where:
    """The placements: a test changes them."""

    def __init__(self, *placed: Placed) -> None:
        self.placed = set(placed)
        self.over = False

    def now(self) -> frozenset[Placed]:
        return frozenset(self.placed)


class Logs:
    """Each read of a (replica, host) takes the next of its scripts; without one it is quiet until it isn't there."""

    def __init__(self, where: Where, **scripts: list[list[Step]]) -> None:
        self.where = where
        self.scripts = scripts
        self.asked: list[tuple[str, FollowLogs]] = []

    async def read(self, wanted: FollowLogs, host: str) -> AsyncGenerator[LogLine]:
        self.asked.append((host, wanted))
        scripts = self.scripts.get(f"{host}_{wanted.slot}", [])
        key = ReplicaKey(stack=wanted.stack, service=wanted.service, slot=wanted.slot)
        while not scripts and (key, host) in self.where.placed:  # noqa: ASYNC110 as the real ones do
            await asyncio.sleep(0.001)
        for step in scripts.pop(0) if scripts else ():
            if isinstance(step, Exception):
                raise step
            at, _, text = step.partition("|")
            yield self._line(wanted, host, at, text)

    def complaint(self, wanted: FollowLogs, host: str, error: errors.MusterError) -> LogLine:
        return self._line(wanted, host, "", f"muster: {error.what}")

    @staticmethod
    def _line(wanted: FollowLogs, host: str, at: str, text: str) -> LogLine:
        return LogLine(
            stack=wanted.stack, service=wanted.service, slot=wanted.slot, host=host, at=at, stream="stdout", line=text
        )


@pytest.fixture(autouse=True)
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("agent.node.driver.following.LOOK_INTERVAL_S", 0.001)
    monkeypatch.setattr("agent.node.driver.following.RETRY_S", 0.001)


async def shown(
    logs: Logs, until: Callable[[list[str]], object], *meanwhile: Callable[[list[str]], None], **asked: Any
) -> list[str]:
    """What a follow has shown once `until` holds; `meanwhile` is called with what was shown so far, again and again."""
    following = Following(logs, logs.where, tail=asked.get("tail"), since=asked.get("since"))  # type: ignore[arg-type]  # as far as it needs them
    found: list[str] = []

    async def listen() -> None:
        async with aclosing(following.lines()) as lines:
            async for line in lines:
                found.append(f"{line.host}.{line.slot} {line.line}")

    task = asyncio.create_task(listen())

    def looked() -> bool:
        for each in meanwhile:
            each(found)
        return task.done() or bool(until(found))

    try:
        await wait_for(looked)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    return found


def test_one_that_moves_is_read_where_it_runs_and_where_it_is_to_run() -> None:
    ledger = Ledger("n1", "n2")
    ledger.deploy(stack(web=service(replicas=2)))
    ledger.propose(LevelEntry(at=ledger.now_ms, level=PREDECESSOR_LEVEL))
    ledger.assign(ledger.assignment("n1"), ledger.assignment("n2", slot=2))
    placements = Placements(ledger, "shop", service="web", slot=None)  # type: ignore[arg-type]  # it has a state, too
    n1, n2 = ledger.id("n1"), ledger.id("n2")
    assert placements.now() == {(FIRST, n1), (SECOND, n2)}
    ledger.assign(replace(ledger.assignment("n2"), predecessor=Predecessor(host=n1)))
    assert placements.now() == {(FIRST, n1), (FIRST, n2), (SECOND, n2)}


async def test_a_replica_that_is_placed_later_joins_with_all_it_says() -> None:
    where = Where((FIRST, "n1"))
    logs = Logs(where, n1_1=[["|a"]], n2_2=[["|b"]])

    def place(found: list[str]) -> None:
        if found:
            where.placed.add((SECOND, "n2"))

    assert await shown(logs, lambda found: len(found) == 2, place, tail=0) == ["n1.1 a", "n2.2 b"]
    (first, *_), (second, *_) = ([ask for host, ask in logs.asked if host == name] for name in ("n1", "n2"))
    assert (first.tail, first.within_ms) == (0, None)
    assert (second.tail, second.follow) == (None, True)
    assert second.within_ms is not None, "what an earlier life of it there has written isn't shown"


async def test_a_lost_link_goes_on_behind_the_last_line_and_is_told_once() -> None:
    lost = errors.Unreachable("n1 has no link with n2")
    where = Where((FIRST, "n2"))
    logs = Logs(where, n2_1=[["01|a", "02|b", lost], [lost], [lost], ["02|b", "03|c"]])
    found = await shown(logs, lambda found: "n2.1 c" in found, tail=5)
    assert found == ["n2.1 a", "n2.1 b", "n2.1 muster: n1 has no link with n2", "n2.1 c"]
    assert [(ask.tail, ask.since) for _, ask in logs.asked[:4]] == [(5, None), (None, "02"), (None, "02"), (None, "02")]


async def test_lines_without_times_are_not_shown_again_after_a_lost_link() -> None:
    where = Where((FIRST, "n2"))
    logs = Logs(where, n2_1=[["|a", errors.Unreachable("lost")], ["|b"]])
    await shown(logs, lambda found: "n2.1 b" in found)
    assert (logs.asked[1][1].tail, logs.asked[1][1].since) == (0, None)


async def test_a_host_that_has_not_heard_of_its_replica_yet_is_asked_again_quietly() -> None:
    where = Where((FIRST, "n1"))
    unknown = errors.NotFound("this host doesn't run it")
    assert await shown(Logs(where, n1_1=[[unknown], [unknown], ["|a"]]), bool) == ["n1.1 a"]
    never = Logs(where, n1_1=[[unknown] for _ in range(30)])
    found = await shown(never, lambda _: len(never.asked) > 8)
    assert found == ["n1.1 muster: this host doesn't run it"]


async def test_a_moved_replicas_last_words_come_and_then_its_next_hosts_lines() -> None:
    where = Where((FIRST, "n1"))
    logs = Logs(where, n1_1=[["|a", "|bye"]], n2_1=[["|b"]])

    def move(found: list[str]) -> None:
        if found:
            where.placed = {(FIRST, "n2")}

    assert await shown(logs, lambda found: "n2.1 b" in found, move) == ["n1.1 a", "n1.1 bye", "n2.1 b"]


async def test_it_ends_with_the_stack() -> None:
    where = Where((FIRST, "n1"))

    def remove(found: list[str]) -> None:
        if found:
            where.placed, where.over = set(), True

    assert await shown(Logs(where, n1_1=[["|a"]]), lambda _: False, remove) == ["n1.1 a"]
