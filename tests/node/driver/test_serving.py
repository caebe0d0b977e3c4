"""What peers ask of the host itself: one task a call, within bounds, ended with its asker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import pytest

from agent import errors
from agent.node.driver.serving import MAX_SERVED, Serving
from agent.node.effects import Serve, Unserve
from agent.node.messages import Ended, Failed, FetchBlob, FollowLogs, Logs, Reply, ReplyFrame
from tests.node.driver.parts import ASKED, Bench, bench
from tests.support.waiting import wait_for


class Answerer:
    """Tells `parts`, then ends, fails or waits."""

    def __init__(self, parts: int, *, end: BaseException | str = "end") -> None:
        self.parts, self.end = parts, end
        self.told = 0
        self.open = 0

    async def answer(self, _peer: str, _asked: object) -> AsyncGenerator[Reply]:
        self.open += 1
        try:
            for _ in range(self.parts):
                self.told += 1
                yield Logs(lines=())
            if isinstance(self.end, BaseException):
                raise self.end
            if self.end == "wait":
                await asyncio.Event().wait()
        finally:
            self.open -= 1


@asynccontextmanager
async def served(answerer: Answerer) -> AsyncIterator[tuple[Bench, Serving]]:
    async with bench() as at:
        serving = Serving(at.driver)
        serving.handle(FollowLogs, answerer.answer)
        try:
            yield at, serving
        finally:
            await serving.close()


def ask(at: Bench, serving: Serving, call: int, peer: str = "n2") -> None:
    serving.serve(Serve(peer=at.id(peer), call=call, request=ASKED))


def replies(at: Bench, call: int, peer: str = "n2") -> list[ReplyFrame]:
    return [frame for frame in at.frames_to(peer, ReplyFrame) if frame.id == call]


async def test_an_answer_is_told_part_by_part_and_ends() -> None:
    async with served(Answerer(2)) as (at, serving):
        ask(at, serving, 1)
        await wait_for(lambda: replies(at, 1) and replies(at, 1)[-1].end)
        assert [(type(frame.reply), frame.end) for frame in replies(at, 1)] == [
            (Logs, False),
            (Logs, False),
            (Ended, True),
        ]


@pytest.mark.parametrize(
    ("error", "kind"),
    [(errors.NotFound("nothing here"), "not-found"), (OSError(28, "No space left on device"), "error")],
)
async def test_an_error_ends_the_answer(error: Exception, kind: str) -> None:
    async with served(Answerer(1, end=error)) as (at, serving):
        ask(at, serving, 1)
        await wait_for(lambda: replies(at, 1) and replies(at, 1)[-1].end)
        last = replies(at, 1)[-1].reply
        assert isinstance(last, Failed)
        assert last.fault.kind == kind


async def test_what_nobody_foresaw_ends_the_agent() -> None:
    async with served(Answerer(0, end=RuntimeError("a bug"))) as (at, serving):
        ask(at, serving, 1)
        await wait_for(at.driver.failed.done)
        assert str(at.driver.failed.exception()) == "a bug"


async def test_what_nobody_answers_is_refused() -> None:
    async with served(Answerer(0)) as (at, serving):
        serving.serve(Serve(peer=at.id("n2"), call=1, request=FetchBlob(digest="0" * 64)))
        await wait_for(lambda: replies(at, 1))
        assert isinstance(replies(at, 1)[0].reply, Failed)


async def test_a_full_link_is_waited_for_and_nothing_is_lost() -> None:
    answerer = Answerer(50)
    async with served(answerer) as (at, serving):
        at.wire.room = False
        ask(at, serving, 1)
        await wait_for(lambda: answerer.told == 1)
        await asyncio.sleep(0.06)
        assert answerer.told == 1, "it reads no further than it can send"
        at.wire.room = True
        at.wire.sent.clear()
        await wait_for(lambda: replies(at, 1) and replies(at, 1)[-1].end)
        assert len(replies(at, 1)) == 51


async def test_a_cancelled_call_ends_alone() -> None:
    answerer = Answerer(0, end="wait")
    async with served(answerer) as (at, serving):
        ask(at, serving, 1)
        ask(at, serving, 2)
        await wait_for(lambda: answerer.open == 2)
        serving.unserve(Unserve(peer=at.id("n2"), call=1))
        await wait_for(lambda: answerer.open == 1)
        assert not replies(at, 1)


async def test_all_calls_of_a_lost_peer_end() -> None:
    answerer = Answerer(0, end="wait")
    async with served(answerer) as (at, serving):
        for call in (1, 2):
            ask(at, serving, call)
        ask(at, serving, 1, peer="n3")
        await wait_for(lambda: answerer.open == 3)
        serving.unserve(Unserve(peer=at.id("n2")))
        await wait_for(lambda: answerer.open == 1)


async def test_one_call_above_the_bound_is_refused_until_another_ends() -> None:
    answerer = Answerer(0, end="wait")
    async with served(answerer) as (at, serving):
        for call in range(1, MAX_SERVED + 1):
            ask(at, serving, call)
        ask(at, serving, 9999)
        (refused,) = replies(at, 9999)
        assert refused.end
        assert isinstance(refused.reply, Failed)
        assert refused.reply.fault.kind == "too-many"
        await wait_for(lambda: answerer.open == MAX_SERVED)
        serving.unserve(Unserve(peer=at.id("n2"), call=1))
        await wait_for(lambda: answerer.open == MAX_SERVED - 1)
        ask(at, serving, 10_000)
        await wait_for(lambda: answerer.open == MAX_SERVED)


async def test_the_next_life_of_a_peer_may_use_its_numbers_again() -> None:
    answerer = Answerer(0, end="wait")
    async with served(answerer) as (at, serving):
        ask(at, serving, 1)
        await wait_for(lambda: answerer.open == 1)
        serving.unserve(Unserve(peer=at.id("n2")))
        ask(at, serving, 1)
        await asyncio.sleep(0)
        await wait_for(lambda: answerer.open == 1)
        serving.unserve(Unserve(peer=at.id("n2"), call=1))
        await wait_for(lambda: answerer.open == 0)


async def test_closing_ends_every_call() -> None:
    answerer = Answerer(0, end="wait")
    async with served(answerer) as (at, serving):
        for call in range(5):
            ask(at, serving, call)
        await wait_for(lambda: answerer.open == 5)
        await serving.close()
        assert answerer.open == 0
