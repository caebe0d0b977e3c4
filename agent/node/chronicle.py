"""Events: what happened, as sentences for people and as fields for programs.

The coordinator reports on ledger and hosts, because only it sees all soft state; every agent tells its own listeners
who coordinates. An agent with listeners follows the coordinator's stream, an observer through its voter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import msgspec
from msgspec import Struct, field

from agent.formats.timestamps import rfc3339
from agent.model.events import MAX_WHAT_CHARACTERS, Event, EventKind
from agent.model.types import AgentId
from agent.node.context import Context
from agent.node.effects import Publish
from agent.node.instant import Instant
from agent.node.messages import Events, FollowEvents, Reply

KEPT_EVENTS = 1000  # what `agent events` can show of the past after it connects


class Chronicle(Struct):
    """This agent's events, the peers that follow them, and the coordinator's events, which it follows itself.

    `_followers`: each one's call, and whether it also gets another coordinator's events from us. `_source`: whom we
    follow, and whether that one relays the coordinator's events.
    """

    context: Context
    recent: deque[Event] = field(default_factory=lambda: deque(maxlen=KEPT_EVENTS))
    _next: int = 1
    _listening: bool = False
    _followers: dict[AgentId, tuple[int, bool]] = field(default_factory=dict)
    _source: tuple[AgentId, bool] | None = None
    _call: int = 0

    def tell(self, when: Instant, kind: EventKind, what: str, **fields: str | int) -> None:
        """One event of this agent's own."""
        if len(what) > MAX_WHAT_CHARACTERS:
            what = what[: MAX_WHAT_CHARACTERS - 1] + "…"
        event = Event(id=self._next, at=rfc3339(when.wall_ms), kind=kind, what=what, **fields)  # type: ignore[arg-type]  # fields are Event's
        self._spread((event,), to=self._followers if self.context.raft.is_leader else ())

    def listen(self, listening: bool) -> None:
        """Whether anybody listens at this agent's API."""
        self._listening = listening
        self.pump()

    def serve(self, peer: AgentId, call: int, request: FollowEvents) -> None:
        """A peer has listeners; one call a peer, the newest."""
        self._followers[peer] = call, request.pass_on

    def cancelled(self, peer: AgentId, call: int) -> None:
        """The peer's listeners are gone."""
        if peer in self._followers and self._followers[peer][0] == call:
            del self._followers[peer]

    def peer_lost(self, peer: AgentId) -> None:
        """The peer follows again when it is back."""
        self._followers.pop(peer, None)

    def pump(self) -> None:
        """Follow the coordinator, unless that is us, while somebody listens here or at a peer that follows us."""
        if not self._listening and self._source is None and not self._followers:
            return
        wanted = self._wanted()
        if wanted == self._source:
            return
        self.context.hang_up(self._call)
        self._source, self._call = wanted, 0
        if wanted is not None:
            way, pass_on = wanted
            self._call = self.context.call(way, FollowEvents(pass_on=pass_on), self._on_reply)

    def _wanted(self) -> tuple[AgentId, bool] | None:
        """Whom to follow, and whether it has to relay; nothing that was relayed is relayed again, so nothing loops."""
        way, leader = self.context.way, self.context.leader
        if way is None or way == self.context.id:
            return None
        if self._listening or (way == leader and self._passed_on_to()):
            return way, way != leader
        return None

    def _passed_on_to(self) -> list[AgentId]:
        return [peer for peer, (_, pass_on) in self._followers.items() if pass_on]

    def _on_reply(self, reply: Reply | None, end: bool, _when: Instant) -> None:
        if isinstance(reply, Events):
            straight = self._source is not None and not self._source[1]
            self._spread(reply.events, to=self._passed_on_to() if straight else ())
        if end:
            self._source, self._call = None, 0

    def _spread(self, events: tuple[Event, ...], *, to: Iterable[AgentId]) -> None:
        numbered = []
        for event in events:
            numbered.append(msgspec.structs.replace(event, id=self._next))
            self._next += 1
        self.recent.extend(numbered)
        told = tuple(numbered)
        self.context.emit(Publish(events=told))
        for peer in to:
            self.context.reply(peer, self._followers[peer][0], Events(events=told), end=False)
