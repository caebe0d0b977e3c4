"""Events: what happened, told as sentences to people and as fields to programs.

The coordinator tells of ledger and hosts, because it alone sees all soft state; every agent tells its own listeners who
coordinates. An agent with listeners follows the coordinator's stream.
"""

from __future__ import annotations

from collections import deque

import msgspec
from msgspec import Struct, field

from agent.formats.timestamps import rfc3339
from agent.model.events import MAX_WHAT_CHARACTERS, Event, EventKind
from agent.model.types import AgentId
from agent.node.context import Context
from agent.node.effects import Publish
from agent.node.instant import Instant
from agent.node.messages import CallFrame, CancelFrame, Events, FollowEvents, Reply

KEPT_EVENTS = 1000  # what `agent events` can show of the past after it connects


class Chronicle(Struct):
    """This agent's events, its peers that follow them, and the coordinator that it follows itself."""

    context: Context
    recent: deque[Event] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))
    _next: int = 1
    _listening: bool = False
    _followers: dict[AgentId, int] = field(default_factory=dict)
    _source: AgentId | None = None
    _call: int = 0

    def tell(self, when: Instant, kind: EventKind, what: str, **fields: str | int) -> None:
        """One event of this agent's own."""
        if len(what) > MAX_WHAT_CHARACTERS:
            what = what[: MAX_WHAT_CHARACTERS - 1] + "…"
        event = Event(id=self._next, at=rfc3339(when.wall_ms), kind=kind, what=what, **fields)  # type: ignore[arg-type]  # fields are Event's
        self._spread((event,))

    def listen(self, listening: bool) -> None:
        """Whether anybody listens at this agent's API."""
        self._listening = listening
        self.pump()

    def serve(self, peer: AgentId, call: int) -> None:
        """A peer has listeners; one call a peer, the newest."""
        self._followers[peer] = call

    def cancelled(self, peer: AgentId, call: int) -> None:
        """The peer's listeners are gone."""
        if self._followers.get(peer) == call:
            del self._followers[peer]

    def peer_lost(self, peer: AgentId) -> None:
        """The peer follows again when it is back."""
        self._followers.pop(peer, None)

    def pump(self) -> None:
        """Follow the coordinator while somebody listens here and we aren't it."""
        if not self._listening and self._source is None:
            return
        wanted = self._coordinator_elsewhere() if self._listening else None
        if wanted == self._source:
            return
        if self._call and (peer := self.context.calls.close(self._call)) is not None:
            self.context.send(peer, CancelFrame(id=self._call))
        self._source, self._call = wanted, 0
        if wanted is not None:
            self._call = self.context.calls.open(wanted, self._on_reply)
            self.context.send(wanted, CallFrame(id=self._call, request=FollowEvents()))

    def _coordinator_elsewhere(self) -> AgentId | None:
        leader = self.context.leader
        return leader if leader != self.context.id and leader in self.context.peers else None

    def _on_reply(self, reply: Reply | None, end: bool, _when: Instant) -> None:
        if isinstance(reply, Events):
            self._spread(reply.events)
        if end:
            self._source, self._call = None, 0

    def _spread(self, events: tuple[Event, ...]) -> None:
        numbered = []
        for event in events:
            numbered.append(msgspec.structs.replace(event, id=self._next))
            self._next += 1
        self.recent.extend(numbered)
        told = tuple(numbered)
        self.context.emit(Publish(events=told))
        if self.context.raft.is_leader:
            for peer, call in self._followers.items():
                self.context.reply(peer, call, Events(events=told), end=False)
