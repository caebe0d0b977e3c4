"""The cluster's status, asked of the coordinator where one answers in time; else it is this agent's own view."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct, field

from agent.model.status import Status
from agent.node.context import Context
from agent.node.effects import Answer
from agent.node.instant import Instant
from agent.node.messages import CallFrame, CancelFrame, GetStatus, Reply, StatusIs

STATUS_WAIT_S = 1.0  # an answer takes milliseconds; then a person is served better with what this agent sees


class _Inquiry(Struct, frozen=True):
    request: int
    until: float


class Inquiries(Struct):
    """Open ones by call. Invariant: each gets exactly one answer. `own`: this agent's view."""

    context: Context
    own: Callable[[Instant], Status]
    _open: dict[int, _Inquiry] = field(default_factory=dict)

    def ask(self, request: int, when: Instant) -> None:
        """Of the API; answered by an `Answer` effect."""
        context, leader = self.context, self.context.leader
        if leader is None or leader == context.id or leader not in context.peers:
            context.emit(Answer(request=request, answer=self.own(when)))
            return

        def on_reply(reply: Reply | None, _end: bool, at: Instant) -> None:
            self._answer(call, reply, at)

        call = context.calls.open(leader, on_reply)
        self._open[call] = _Inquiry(request, when.mono + STATUS_WAIT_S)
        context.send(leader, CallFrame(id=call, request=GetStatus()))

    def pump(self, when: Instant) -> None:
        """Wait no longer than that."""
        if not self._open:
            return
        for call in [call for call, inquiry in self._open.items() if when.mono >= inquiry.until]:
            if (peer := self.context.calls.close(call)) is not None:
                self.context.send(peer, CancelFrame(id=call))
            self._answer(call, None, when)

    def deadline(self) -> float:
        """When `pump` is next wanted."""
        return min([inquiry.until for inquiry in self._open.values()]) if self._open else float("inf")

    def _answer(self, call: int, reply: Reply | None, when: Instant) -> None:
        inquiry = self._open.pop(call, None)
        if inquiry is not None:
            status = reply.status if isinstance(reply, StatusIs) else self.own(when)
            self.context.emit(Answer(request=inquiry.request, answer=status))
