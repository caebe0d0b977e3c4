"""The voter's side of observers' subscriptions: committed entries, a snapshot first if its log begins later, and who
coordinates (ARCHITECTURE.md "Membership and links").

Each subscriber is sent at most `WINDOW_PARTS` parts ahead of what it said it took. So one that reads slowly costs this
much memory and no more, and holds nobody else up.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from msgspec import Struct, field

from agent import errors
from agent.model.fault import fault_of
from agent.model.types import AgentId, Digest
from agent.node.context import Context, Lead
from agent.node.instant import Instant
from agent.node.messages import FollowLedger, Ledger, SnapshotPart
from agent.raft import Compacted, Snapshot

PART_BYTES = 262_144  # on a 10 Mbit/s link one part holds a heartbeat up for 0.2 s
WINDOW_PARTS = 4  # on their way to one subscriber; 1 MiB fills a LAN's link over its round trip many times

# A subscriber that takes nothing for so long while a snapshot is on its way to it is let go: else each would keep its
# own old snapshot in memory.
STALLED_S = 30.0


class Parts(Struct):
    """Cuts snapshots into parts; their sha256, which each part names, is computed once."""

    _named: tuple[Snapshot, str] | None = None

    def digest(self, snapshot: Snapshot) -> str:
        if self._named is None or self._named[0] is not snapshot:
            self._named = snapshot, hashlib.sha256(snapshot.data).hexdigest()
        return self._named[1]

    def at(self, snapshot: Snapshot, offset: int) -> SnapshotPart:
        """The part from there on."""
        return SnapshotPart(
            index=snapshot.index,
            term=snapshot.term,
            configuration=snapshot.configuration,
            digest=self.digest(snapshot),
            total=len(snapshot.data),
            offset=offset,
            data=snapshot.data[offset : offset + PART_BYTES],
        )


class _Follower(Struct):
    """Invariants: everything below `next` was sent on `call`, and `told` with it; sent <= taken + WINDOW_PARTS.

    `snapshot` with `offset`: what is being sent instead of entries, and from where. `resumes`: what it asked for.
    `moved_at`: when it last took a part, in seconds. `compared`: its ledger so far is known to be ours.
    """

    call: int
    next: int
    moved_at: float
    resumes: FollowLedger
    compared: bool = False
    told: Lead | None = None
    snapshot: Snapshot | None = None
    offset: int = 0
    sent: int = 0
    taken: int = 0

    @property
    def has_room(self) -> bool:
        return self.sent < self.taken + WINDOW_PARTS


class Followers(Struct):
    """Where each subscriber stands; one subscription a peer.

    `_behind`: those that may be sent something now; `_loading`: those that a snapshot is on its way to.
    """

    context: Context
    chain_at: Callable[[int], Digest | None]
    _followers: dict[AgentId, _Follower] = field(default_factory=dict)
    _behind: set[AgentId] = field(default_factory=set)
    _loading: set[AgentId] = field(default_factory=set)
    _pumped: tuple[int, Lead | None] = (0, None)
    _parts: Parts = field(default_factory=Parts)

    def serve(self, peer: AgentId, call: int, request: FollowLedger, when: Instant) -> None:
        """A peer subscribes, instead of what it subscribed to before."""
        self.peer_lost(peer)
        self._followers[peer] = _Follower(call, max(1, request.index), when.mono, request)
        self._behind.add(peer)
        self.pump(when)

    def taken(self, peer: AgentId, call: int, parts: int, when: Instant) -> None:
        """The peer has taken that many parts of its subscription."""
        follower = self._followers.get(peer)
        if follower is not None and follower.call == call and follower.taken < parts <= follower.sent:
            follower.taken, follower.moved_at = parts, when.mono
            self._behind.add(peer)

    def cancelled(self, peer: AgentId, call: int) -> None:
        """The peer follows somebody else now."""
        if peer in self._followers and self._followers[peer].call == call:
            self.peer_lost(peer)

    def peer_lost(self, peer: AgentId) -> None:
        """The peer subscribes again when it is back."""
        self._followers.pop(peer, None)
        self._behind.discard(peer)
        self._loading.discard(peer)

    def pump(self, when: Instant) -> None:
        """Send what was committed since, and who coordinates, as far as each one's window allows."""
        if not self._followers:
            return
        commit, lead = self.context.raft.commit, self.context.lead
        if (commit, lead) != self._pumped:
            self._pumped = commit, lead
            self._behind.update(self._followers)
        for peer in sorted(self._behind):
            follower = self._followers[peer]
            if not follower.compared:
                self._compare(peer, follower)
            through, named = commit if follower.compared else 0, lead if self._may_name(lead, peer) else None
            while peer in self._followers and follower.has_room:
                if (part := self._next_part(peer, follower, through, named)) is None:
                    break
                follower.sent, follower.told = follower.sent + 1, named
                self.context.reply(peer, follower.call, part, end=False)
        kept = self._behind & self._followers.keys()
        self._behind = {peer for peer in kept if not self._followers[peer].compared}
        for peer in [peer for peer in self._loading if when.mono >= self._followers[peer].moved_at + STALLED_S]:
            fault = fault_of(errors.TooMany(f"nothing of a snapshot was taken for {STALLED_S:.0f} s"))
            self.context.fail(peer, self._followers[peer].call, fault)
            self.peer_lost(peer)

    def _may_name(self, lead: Lead | None, peer: AgentId) -> bool:
        """Whether we may pass on who coordinates: an observer may only if it was told by a voter, as our ledger has it.

        Hosts that find no voter, or were removed without knowing, follow any agent. If some of these follow each other
        in a ring, each would pass on what comes round, and an old name would never end.
        """
        context, configuration = self.context, self.context.raft.configuration
        if lead is not context.told:
            return True
        observes = context.id not in configuration and context.followed in configuration.voters
        return observes and peer != context.followed

    def _compare(self, peer: AgentId, follower: _Follower) -> None:
        """Whether the subscriber's history is ours: entries after it are identified by their index alone.

        A host whose disk was put back may have continued alone. It gets a snapshot, and takes that if it loses nothing
        by it; if there is none, it gets nothing. One that is ahead of us is compared when we get there.
        """
        before, snapshot = follower.resumes.index - 1, self.context.raft.snapshot
        if self.context.state.index < before:
            return
        follower.compared = True
        chain = self.chain_at(before)
        if follower.resumes.chain in ("", chain):
            return
        if snapshot is not None and snapshot.index > before:
            self._begin_snapshot(peer, follower)
        elif chain is not None:
            apart = errors.Conflict(f"the ledger up to entry {before} is of another history", where="ledger")
            self.context.fail(peer, follower.call, fault_of(apart))
            self.peer_lost(peer)

    def _next_part(self, peer: AgentId, follower: _Follower, commit: int, lead: Lead | None) -> Ledger | None:
        """None once the subscriber was told everything."""
        leader, term = lead or (None, 0)
        if follower.snapshot is None and follower.next <= commit:
            try:
                entries = self.context.raft.entries_between(follower.next, commit, PART_BYTES)
            except Compacted:
                self._begin_snapshot(peer, follower)
            else:
                follower.next = entries[-1].index + 1
                return Ledger(entries=entries, commit=entries[-1].index, leader=leader, term=term)
        if follower.snapshot is not None:
            return Ledger(snapshot=self._snapshot_part(peer, follower, follower.snapshot), leader=leader, term=term)
        return Ledger(leader=leader, term=term) if follower.told != lead else None

    def _begin_snapshot(self, peer: AgentId, follower: _Follower) -> None:
        """From where the subscriber said that it has it, if it is this one."""
        snapshot = self.context.raft.snapshot
        assert snapshot is not None, "a log that begins later has a snapshot before it"
        resumes = follower.resumes
        has_it = (resumes.snapshot, resumes.digest) == (snapshot.index, self._parts.digest(snapshot))
        follower.snapshot = snapshot
        follower.offset = min(resumes.offset, len(snapshot.data)) if has_it else 0
        self._loading.add(peer)

    def _snapshot_part(self, peer: AgentId, follower: _Follower, snapshot: Snapshot) -> SnapshotPart:
        start = follower.offset
        follower.offset = min(start + PART_BYTES, len(snapshot.data))
        if follower.offset == len(snapshot.data):
            follower.next, follower.snapshot = snapshot.index + 1, None
            self._loading.discard(peer)
        return self._parts.at(snapshot, start)
