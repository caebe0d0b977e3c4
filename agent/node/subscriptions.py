"""Observers: agents that don't vote follow one voter's committed entries (DESIGN "Consensus", observers).

Both sides: an observer picks its voter by rendezvous hash, so that observers spread evenly and only those of a lost
voter move; a voter streams what it has committed, a snapshot first where its log begins later, and who coordinates.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.model.types import AgentId
from agent.node.context import Context, Lead
from agent.node.instant import Instant
from agent.node.machine import are_readable
from agent.node.messages import CallFrame, CancelFrame, FollowLedger, Ledger, Reply
from agent.raft import Compacted, ObservationRefused, Snapshot

PART_BYTES = 524_288  # one part stays well inside a frame and doesn't hold up a heartbeat for long
RETRY_S = 0.5  # after a voter ended the stream, or said what can't be; another one is picked then, if there is one
LEADERLESS_S = 2.0  # a voter without a leader for so long may have been removed while it was away: it asks others

# A voter that names no coordinator for so long may be cut off itself; one that doesn't know us as a member yet says
# nothing at all. Another one is asked.
SILENT_S = 2.0


@dataclass(slots=True)
class Following:
    """The observer's side. Idle on a voter that has a leader. `vouches_for`: whether a snapshot's signatures hold.

    `_patient_until`: by then the voter that we follow has to name a coordinator; None while it does. `_avoided`: voters
    that were no good, until none is left.
    """

    context: Context
    vouches_for: Callable[[Snapshot], bool]
    _voter: AgentId | None = None
    _call: int = 0
    _retry_at: float = 0.0
    _avoided: set[AgentId] = field(default_factory=set)
    _patient_until: float | None = None
    _leaderless_since: float | None = None
    _pumped_at: float = float("-inf")

    def pump(self, when: Instant) -> None:
        """Follow the right voter, or nobody where we vote ourselves."""
        self._pumped_at = when.mono
        if self._voter is not None and self._patient_until is not None and when.mono >= self._patient_until:
            self._avoided.add(self._voter)
            self._leave()
        wanted = self._choice(when) if when.mono >= self._retry_at else self._voter
        if wanted == self._voter:
            return
        self._leave()
        if wanted is None:
            return

        def on_reply(reply: Reply | None, end: bool, at: Instant) -> None:
            self._on_reply(reply, end, at)

        self._voter, self._patient_until = wanted, when.mono + SILENT_S
        self._call = self.context.calls.open(wanted, on_reply)
        request = FollowLedger(index=self.context.raft.commit + 1)
        self.context.send(wanted, CallFrame(id=self._call, request=request))

    def deadline(self) -> float:
        """When `pump` is next wanted without other cause."""
        moments = [self._retry_at]
        if self._leaderless_since is not None:
            moments.append(self._leaderless_since + LEADERLESS_S)
        if self._patient_until is not None:
            moments.append(self._patient_until)
        return min((moment for moment in moments if moment > self._pumped_at), default=float("inf"))

    def _choice(self, when: Instant) -> AgentId | None:
        configuration = self.context.raft.configuration
        if self.context.id in configuration.members and not self._left_behind(when):
            return None
        linked = {voter for voter in configuration.voters if voter in self.context.peers}
        if linked <= self._avoided:
            self._avoided.clear()
        good = linked - self._avoided
        return max(good, key=lambda voter: hashlib.sha256(f"{voter} {self.context.id}".encode()).digest(), default=None)

    def _left_behind(self, when: Instant) -> bool:
        """Whether nobody has led us for long. Who was removed meanwhile hears nothing of it from any leader."""
        if self.context.raft.leader is not None:
            self._leaderless_since = None
        elif self._leaderless_since is None:
            self._leaderless_since = when.mono
        since = self._leaderless_since
        return since is not None and when.mono >= since + LEADERLESS_S

    def _leave(self) -> None:
        if self._call and (peer := self.context.calls.close(self._call)) is not None:
            self.context.send(peer, CancelFrame(id=self._call))
        self._voter, self._call, self._patient_until, self.context.told = None, 0, None, None

    def _on_reply(self, reply: Reply | None, end: bool, when: Instant) -> None:
        believed = isinstance(reply, Ledger) and self._take(reply, when)
        if believed and not end:
            return
        if reply is not None and self._voter is not None:
            self._avoided.add(self._voter)
        self._leave()
        self._retry_at = when.mono + RETRY_S

    def _take(self, part: Ledger, when: Instant) -> bool:
        raft = self.context.raft
        try:
            if part.snapshot is not None:
                if not self.vouches_for(part.snapshot):
                    return False
                raft.observe_snapshot(part.snapshot, when.mono)
            if not are_readable(part.entries):
                return False
            if part.entries:
                raft.observe(part.entries, part.commit, when.mono)
        except ObservationRefused:
            return False
        if part.leader is not None:
            self.context.told, self._patient_until = Lead(part.leader, part.term), None
        else:
            self.context.told = None
            self._patient_until = self._patient_until or when.mono + SILENT_S
        return True


@dataclass(slots=True)
class _Follower:
    """Invariant: everything below `next` was sent on `call`, and `told` with it."""

    call: int
    next: int
    told: Lead | None = None


@dataclass(slots=True)
class Followers:
    """The voter's side: where each subscriber stands; one subscription a peer."""

    context: Context
    _followers: dict[AgentId, _Follower] = field(default_factory=dict)

    def serve(self, peer: AgentId, call: int, request: FollowLedger) -> None:
        """A peer subscribes, instead of what it subscribed to before."""
        self._followers[peer] = _Follower(call, max(1, request.index))
        self.pump()

    def cancelled(self, peer: AgentId, call: int) -> None:
        """The peer follows somebody else now."""
        if peer in self._followers and self._followers[peer].call == call:
            del self._followers[peer]

    def peer_lost(self, peer: AgentId) -> None:
        """The peer subscribes again when it is back."""
        self._followers.pop(peer, None)

    def pump(self) -> None:
        """Send what was committed since, and who coordinates."""
        commit, lead = self.context.raft.commit, self.context.lead
        for peer, follower in self._followers.items():
            while follower.next <= commit:
                part = self._part(follower.next, commit, lead)
                follower.next, follower.told = part.commit + 1, lead
                self.context.reply(peer, follower.call, part, end=False)
            if follower.told != lead:
                follower.told = lead
                self.context.reply(peer, follower.call, _news(lead), end=False)

    def _part(self, start: int, commit: int, lead: Lead | None) -> Ledger:
        raft = self.context.raft
        leader, term = lead or (None, 0)
        try:
            entries = raft.entries_between(start, commit, PART_BYTES)
        except Compacted:
            assert raft.snapshot is not None, "a log that begins later has a snapshot before it"
            return Ledger(snapshot=raft.snapshot, commit=raft.snapshot.index, leader=leader, term=term)
        return Ledger(entries=entries, commit=entries[-1].index, leader=leader, term=term)


def _news(lead: Lead | None) -> Ledger:
    leader, term = lead or (None, 0)
    return Ledger(leader=leader, term=term)
