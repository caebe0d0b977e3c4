"""Timing and bounds of the consensus core. All times are seconds."""

from __future__ import annotations

import msgspec


class RaftTiming(msgspec.Struct, frozen=True, kw_only=True):
    """How patient a cluster is. Members should have the same timing, but needn't.

    Invariants, checked: 0 < heartbeat_s; 2 × heartbeat_s < election_timeout_min_s < election_timeout_max_s; 0 <=
    link_loss_delay_min_s < link_loss_delay_max_s <= election_timeout_min_s. Raises ValueError otherwise.
    """

    heartbeat_s: float = 0.150
    """A leader speaks to everyone this often. Bytes while idle ∝ members / heartbeat_s; a lower value finds loss of
    messages sooner, and costs wake-ups on every host."""

    election_timeout_min_s: float = 0.500
    """A member that heard its leader within this refuses to help to depose it. ≥ 3 × heartbeat_s + one round trip, so
    that two lost heartbeats are forgiven; lower finds a silent leader sooner, and deposes a slow one for nothing."""

    election_timeout_max_s: float = 1.000
    """Each campaign waits a time drawn from [min, max) anew (Raft §9.3); a leader steps down when a majority was silent
    for this long. max − min ≫ one round trip + one fsync keeps ties rare; a wider range finds a dead leader later."""

    link_loss_delay_min_s: float = 0.020
    """When the link to the leader closes, wait at least this: everybody must have noticed, else they refuse. About
    10 round trips."""

    link_loss_delay_max_s: float = 0.150
    """… and at most this. Recovery from a leader's crash takes about max / (voters + 1) more on average; ties grow
    with (round trip + fsync) / (max − min)."""

    link_loss_attempts: int = 3
    """How often the short delay may be drawn for one lost leader, so that a tie doesn't cost a full timeout. More of
    them disturb a cluster whose members are up but can't agree."""

    first_election_delay_max_s: float = 0.150
    """A voter that was linked to a majority and has heard no leader since its start campaigns within this: a leader
    would have greeted it (for that, one who isn't at term 0 waits link_loss_delay_min_s at least). Longer makes ties
    rarer, and every start of a whole cluster slower."""

    snapshot_retry_s: float = 1.000
    """A chunk of a snapshot not answered for this long is sent again, with the next heartbeat's answer; each time after
    twice as long, and later ones after as long as the ones before took."""

    snapshot_retry_max_s: float = 60.000
    """… and at most this: a chunk that a link dropped would cost as much, so none does (agent.net.link). ≥ the time one
    takes on the slowest link, 33 s at 64 kbit/s."""

    unbelieved_s: float = 4.000
    """A leader whose whole snapshot a member can't believe for this long isn't protected by it from another's campaign
    any more: who has got to another entry may have one that it can. Twice what it takes to know a voter for gone
    (agent.node.vouching), whose word then isn't waited for."""

    slow_persist_s: float = 1.000
    """A leader whose disk took this long hands over: a disk that stalls once mostly stalls again, and whoever waits
    for its answer waits with it (etcd #13527). ≫ an fsync on a busy disk."""

    def __post_init__(self) -> None:
        if not 0 < 2 * self.heartbeat_s < self.election_timeout_min_s < self.election_timeout_max_s:
            raise ValueError("timing must keep 0 < 2 × heartbeat_s < election_timeout_min_s < election_timeout_max_s")
        if not 0 <= self.link_loss_delay_min_s < self.link_loss_delay_max_s <= self.election_timeout_min_s:
            raise ValueError("timing must keep 0 <= link_loss_delay_min_s < link_loss_delay_max_s <= election timeout")
        if min(self.first_election_delay_max_s, self.link_loss_attempts) < 0:
            raise ValueError("timing must not be negative")
        if min(self.snapshot_retry_s, self.unbelieved_s, self.slow_persist_s) <= 0:
            raise ValueError("timing must be positive")
        if self.snapshot_retry_max_s < self.snapshot_retry_s:
            raise ValueError("timing must keep snapshot_retry_s <= snapshot_retry_max_s")

    @classmethod
    def lan(cls) -> RaftTiming:
        """One site, round trips of a millisecond or so: a silent leader is replaced in about a second."""
        return cls()

    @classmethod
    def wan(cls) -> RaftTiming:
        """Sites up to 300 ms apart, links that stall for a second: 3 to 6 s to replace a leader, few false alarms."""
        return cls(
            heartbeat_s=0.6,
            election_timeout_min_s=3.0,
            election_timeout_max_s=6.0,
            link_loss_delay_min_s=0.3,
            link_loss_delay_max_s=1.5,
            first_election_delay_max_s=1.0,
            snapshot_retry_s=5.0,
        )

    @classmethod
    def local(cls) -> RaftTiming:
        """All agents on one machine: 2.5 times faster than `lan`, still forgiving a 90 ms scheduling stall."""
        return cls(
            heartbeat_s=0.050,
            election_timeout_min_s=0.200,
            election_timeout_max_s=0.400,
            link_loss_delay_min_s=0.005,
            link_loss_delay_max_s=0.060,
            first_election_delay_max_s=0.050,
            snapshot_retry_s=0.5,
        )


class RaftLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Bounds of memory and of bursts. Each trades throughput against what one slow or hostile member can hold."""

    append_bytes: int = 256 * 1024
    """Data in one Append, unless a single entry is larger. About 10 ms of a 200 Mbit/s link, which heartbeats wait
    behind."""

    append_entries: int = 1024
    """Entries in one Append; ≤ messages.MAX_ENTRIES_PER_APPEND."""

    inflight_bytes: int = 4 * 1024 * 1024
    """Unanswered data per follower. ≥ bandwidth × (round trip + fsync) keeps the pipe full."""

    inflight_messages: int = 64
    """Unanswered Appends per follower; bounds the follower's queue when entries are small."""

    uncommitted_bytes: int = 8 * 1024 * 1024
    """Data a leader takes before a majority stored it; beyond it proposals are dropped, not kept without a bound."""

    uncommitted_entries: int = 4096
    """The same in entries."""

    committed_bytes: int = 1024 * 1024
    """Data handed to the state machine in one Ready: a long catch-up must not starve messages."""

    chunk_bytes: int = 256 * 1024
    """One piece of a snapshot; ≤ messages.MAX_CHUNK_BYTES. One is on its way at a time."""

    snapshot_bytes: int = 256 * 1024 * 1024
    """The largest snapshot a follower gathers in memory."""

    pending_reads: int = 4096
    """Reads waiting for a heartbeat round; beyond, they are dropped."""
