"""What this agent's own API, or another part of the driver, asks of the core, until it is answered."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

from agent.errors import TooMany, Unreachable
from agent.model.fault import Fault, error_of, fault_of
from agent.model.instruction import InstructionResult
from agent.model.status import Status
from agent.model.types import AgentId
from agent.node.core import NodeCore
from agent.node.driver.visits import unlinked
from agent.node.instant import Instant
from agent.node.messages import Failed, Reply, Request

QUEUED_REPLIES = 1_000  # parts of the answer to one call that nobody has read yet; a reader further behind is cut

_Replies = asyncio.Queue[tuple[Reply | None, bool]]


class Requests:
    """`bring` passes an input to the core, unless that has ended, and `flush` lets it act on one that it has already.

    `ended`: whether nothing more comes out of the core. `now` reads both clocks.
    """

    def __init__(
        self,
        core: NodeCore,
        *,
        bring: Callable[[Callable[[], None]], None],
        flush: Callable[[], None],
        ended: Callable[[], bool],
        now: Callable[[], Instant],
    ) -> None:
        self._core = core
        self._bring, self._flush, self._ended, self._now = bring, flush, ended, now
        self._answers: dict[int, asyncio.Future[InstructionResult | Status]] = {}
        self._replies: dict[int, _Replies] = {}
        self._next_request = 1

    async def submit(self, token: str, body: bytes) -> InstructionResult:
        """Raises the MusterError that the instruction is refused with, and Unreachable when this agent ends before its
        answer.
        """
        answer = await self._ask(lambda number: self._core.submit(number, token, body, self._now()))
        assert isinstance(answer, InstructionResult)
        return answer

    async def status(self) -> Status:
        """The coordinator's view, or this agent's own. Raises Unreachable when this agent ends."""
        answer = await self._ask(lambda number: self._core.ask_status(number, self._now()))
        assert isinstance(answer, Status)
        return answer

    async def _ask(self, ask: Callable[[int], None]) -> InstructionResult | Status:
        if self._ended():
            raise stopping(self._core)
        number = self._next_request
        self._next_request += 1
        future: asyncio.Future[InstructionResult | Status] = asyncio.get_running_loop().create_future()
        self._answers[number] = future
        try:
            self._bring(lambda: ask(number))
            return await future
        finally:
            self._answers.pop(number, None)

    def answered(self, request: int, answer: InstructionResult | Status | Fault) -> None:
        """From the core."""
        future = self._answers.get(request)
        if future is None or future.done():
            return
        if isinstance(answer, Fault):
            future.set_exception(error_of(answer))
        else:
            future.set_result(answer)

    async def call(self, peer: AgentId, request: Request) -> AsyncGenerator[Reply]:
        """The replies to a call to a linked peer, until its end; leaving the iterator cancels it.

        Raises Unreachable when the link isn't there or goes, TooMany for a reader that is QUEUED_REPLIES behind, and
        the MusterError the peer answers with.
        """
        if self._ended():
            raise stopping(self._core)
        if peer not in self._core.context.peers:
            raise unlinked(self._core, peer)
        replies: _Replies = asyncio.Queue(QUEUED_REPLIES)
        number = self._core.call(peer, request, self._now())
        self._replies[number] = replies
        self._flush()
        try:
            while True:
                reply, end = await replies.get()
                if reply is None:
                    raise stopping(self._core) if self._ended() else unlinked(self._core, peer)
                if isinstance(reply, Failed):
                    raise error_of(reply.fault)
                yield reply
                if end:
                    return
        finally:
            del self._replies[number]
            self._bring(lambda: self._core.cancel(number))

    def replied(self, call: int, reply: Reply | None, end: bool) -> None:
        """From the core; None: the peer is gone."""
        replies = self._replies.get(call)
        if replies is None:
            return
        if replies.full():
            self._core.cancel(call)
            behind = TooMany(f"{QUEUED_REPLIES} parts weren't read in time", fix="Read faster, or ask for less.")
            _cut(replies, Failed(fault=fault_of(behind)))
        else:
            replies.put_nowait((reply, end))

    def end(self) -> None:
        """Answers everybody who still waits."""
        for future in self._answers.values():
            if not future.done():
                future.set_exception(stopping(self._core))
        for replies in self._replies.values():
            _cut(replies, None)


def stopping(core: NodeCore) -> Unreachable:
    """The error once this agent ends; what was asked of it before may still happen."""
    here = core.context.own_name
    return Unreachable(f"the agent on {here} is stopping", fix="Ask another agent; send the same again there.")


def _cut(replies: _Replies, last: Reply | None) -> None:
    while not replies.empty():
        replies.get_nowait()
    replies.put_nowait((last, True))
