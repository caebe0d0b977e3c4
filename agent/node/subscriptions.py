"""Observers: agents that don't vote follow one voter's committed entries (DESIGN "Consensus", observers).

Both sides: an observer picks its voter by rendezvous hash, so that observers spread evenly and only those of a lost
voter move; a voter streams what it has committed, a snapshot first where its log begins later.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field

from agent.model.types import AgentId
from agent.node.context import Context
from agent.node.instant import Instant
from agent.node.messages import CallFrame, CancelFrame, FollowLedger, Ledger, Reply
from agent.raft import Compacted, ObservationRefused

PART_BYTES = 524_288  # one part stays well inside a frame and doesn't hold up a heartbeat for long
RETRY_S = 0.5  # after a voter ended the stream; another one may be picked by then


@dataclass(slots=True)
class Following:
    """The observer's side. Idle on a voter."""

    context: Context
    _voter: AgentId | None = None
    _call: int = 0
    _retry_at: float = 0.0

    def pump(self, when: Instant) -> None:
        """Follow the right voter, or nobody where we vote ourselves."""
        if when.mono >= self._retry_at:
            self._retry_at = 0.0
        wanted = self._choice() if not self._retry_at else self._voter
        if wanted == self._voter:
            return
        self._leave()
        if wanted is None:
            return

        def on_reply(reply: Reply | None, end: bool, at: Instant) -> None:
            self._on_reply(reply, end, at)

        self._voter = wanted
        self._call = self.context.calls.open(wanted, on_reply)
        request = FollowLedger(index=self.context.raft.commit + 1)
        self.context.send(wanted, CallFrame(id=self._call, request=request))

    def deadline(self) -> float:
        """When `pump` is next wanted without other cause."""
        return self._retry_at if self._voter is None and self._retry_at else float("inf")

    def _choice(self) -> AgentId | None:
        configuration = self.context.raft.configuration
        if self.context.id in (*configuration.voters, *configuration.learners):
            return None
        linked = [voter for voter in configuration.voters if voter in self.context.peers]
        return max(
            linked, key=lambda voter: hashlib.sha256(f"{voter} {self.context.id}".encode()).digest(), default=None
        )

    def _leave(self) -> None:
        if self._call and (peer := self.context.calls.close(self._call)) is not None:
            self.context.send(peer, CancelFrame(id=self._call))
        self._voter, self._call = None, 0

    def _on_reply(self, reply: Reply | None, end: bool, when: Instant) -> None:
        refused = not isinstance(reply, Ledger)
        if isinstance(reply, Ledger):
            try:
                if reply.snapshot is not None:
                    self.context.raft.observe_snapshot(reply.snapshot, when.mono)
                if reply.entries or reply.commit > self.context.raft.commit:
                    self.context.raft.observe(reply.entries, reply.commit, when.mono)
            except ObservationRefused:
                refused = True
        if refused or end:
            if not end:
                self._leave()
            self._voter, self._call, self._retry_at = None, 0, when.mono + RETRY_S


@dataclass(slots=True)
class Followers:
    """The voter's side: where each subscriber stands. Invariant: everything below `next` was sent on its call."""

    context: Context
    _next: dict[tuple[AgentId, int], int] = field(default_factory=dict)

    def serve(self, peer: AgentId, call: int, request: FollowLedger) -> None:
        """A peer subscribes."""
        self._next[peer, call] = max(1, request.index)
        self.pump()

    def cancelled(self, peer: AgentId, call: int) -> None:
        """The peer follows somebody else now."""
        self._next.pop((peer, call), None)

    def peer_lost(self, peer: AgentId) -> None:
        """The peer subscribes again when it is back."""
        for key in [key for key in self._next if key[0] == peer]:
            del self._next[key]

    def pump(self) -> None:
        """Send what was committed since."""
        commit = self.context.raft.commit
        for (peer, call), start in list(self._next.items()):
            while start <= commit:
                part = self._part(start, commit)
                start = part.commit + 1
                self.context.reply(peer, call, part, end=False)
            self._next[peer, call] = start

    def _part(self, start: int, commit: int) -> Ledger:
        raft = self.context.raft
        try:
            entries = raft.entries_between(start, commit, PART_BYTES)
        except Compacted:
            assert raft.snapshot is not None, "a log that begins later has a snapshot before it"
            return Ledger(snapshot=raft.snapshot, commit=raft.snapshot.index)
        return Ledger(entries=entries, commit=entries[-1].index)
