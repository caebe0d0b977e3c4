"""The cluster's status: the coordinator's if it answers in time, else this agent's own view."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct, field

from agent.model.status import Status
from agent.model.types import AgentId
from agent.node.context import Context
from agent.node.effects import Answer
from agent.node.instant import Instant
from agent.node.messages import GetStatus, Reply, StatusIs

STATUS_WAIT_S = 1.0  # an answer takes milliseconds; then a person is served better with what this agent sees
MAX_OPEN = 1000  # questions under way through one agent; above it this agent answers itself
MAX_OPEN_OF_A_PEER = 8  # passed on for one host: the answers share our link with the coordinator with consensus


class _Inquiry(Struct, frozen=True):
    """`origin`: a request of our own API, or (peer, call)."""

    origin: int | tuple[AgentId, int]
    until: float


class Inquiries(Struct):
    """Open ones by call. Invariant: each gets exactly one answer, or its origin is gone. `own`: this agent's view."""

    context: Context
    own: Callable[[Instant], Status]
    _open: dict[int, _Inquiry] = field(default_factory=dict)

    def ask(self, request: int, when: Instant) -> None:
        """Of the API; answered by an `Answer` effect."""
        way = self.context.way
        self._ask(request, way, GetStatus(pass_on=way != self.context.leader), when)

    def serve(self, peer: AgentId, call: int, request: GetStatus, when: Instant) -> None:
        """A peer asks us: it takes us for the coordinator, or asks the coordinator through us."""
        way = self.context.way if request.pass_on and self._open_of(peer) < MAX_OPEN_OF_A_PEER else None
        self._ask((peer, call), way, GetStatus(), when)

    def cancelled(self, peer: AgentId, call: int) -> None:
        """The peer no longer waits."""
        self._forget(lambda origin: origin == (peer, call))

    def peer_lost(self, peer: AgentId) -> None:
        """Nobody is left to answer."""
        self._forget(lambda origin: isinstance(origin, tuple) and origin[0] == peer)

    def _open_of(self, peer: AgentId) -> int:
        return sum(isinstance(inquiry.origin, tuple) and inquiry.origin[0] == peer for inquiry in self._open.values())

    def _forget(self, gone: Callable[[int | tuple[AgentId, int]], bool]) -> None:
        for call in [call for call, inquiry in self._open.items() if gone(inquiry.origin)]:
            del self._open[call]
            self.context.hang_up(call)

    def _ask(self, origin: int | tuple[AgentId, int], way: AgentId | None, request: GetStatus, when: Instant) -> None:
        context = self.context
        if way is None or way == context.id or len(self._open) >= MAX_OPEN:
            self._tell(origin, self.own(when))
            return

        def on_reply(reply: Reply | None, _end: bool, at: Instant) -> None:
            self._answer(call, reply, at)

        call = context.call(way, request, on_reply)
        self._open[call] = _Inquiry(origin, when.mono + STATUS_WAIT_S)

    def pump(self, when: Instant) -> None:
        """Wait no longer than that."""
        if not self._open:
            return
        for call in [call for call, inquiry in self._open.items() if when.mono >= inquiry.until]:
            self.context.hang_up(call)
            self._answer(call, None, when)

    def deadline(self) -> float:
        """When `pump` is next wanted."""
        return min([inquiry.until for inquiry in self._open.values()]) if self._open else float("inf")

    def _answer(self, call: int, reply: Reply | None, when: Instant) -> None:
        inquiry = self._open.pop(call, None)
        if inquiry is not None:
            self._tell(inquiry.origin, reply.status if isinstance(reply, StatusIs) else self.own(when))

    def _tell(self, origin: int | tuple[AgentId, int], status: Status) -> None:
        if isinstance(origin, int):
            self.context.emit(Answer(request=origin, answer=status))
        else:
            self.context.reply(*origin, StatusIs(status=status))
