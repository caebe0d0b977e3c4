"""What the core wants done; the type carries the order of disk and network (as etcd raft's `Ready`)."""

from __future__ import annotations

import enum

import msgspec

from agent.raft.entry import Configuration, Entry, HardState, Life, Snapshot, SnapshotName
from agent.raft.messages import Message


class Role(enum.Enum):
    """What a member is just now (Raft fig. 3.3, with §9.6's pre-candidate). Learners and observers are followers."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


class Envelope(msgspec.Struct, frozen=True):
    """One message on its way to the member `to`. The network may lose, repeat, delay and reorder it."""

    to: str
    message: Message


class Persist(msgspec.Struct, frozen=True, kw_only=True):
    """One transaction, in this order, on disk (fsync) before `send_after_persist` leaves and `advance` is called.

    `snapshot`: keep it instead of the one before. `truncate_from`: delete entries from this index on (0: all).
    `entries`: write them. `compact_to`: entries up to and including this index may go, now or later.
    `commit`: keep it along; it never comes alone, since a stale one is harmless. `lives`, `names`: keep these instead
    of those before; a driver adds them, no `Raft` does.
    """

    hard_state: HardState | None = None
    truncate_from: int | None = None
    entries: tuple[Entry, ...] = ()
    snapshot: Snapshot | None = None
    compact_to: int | None = None
    commit: int | None = None
    lives: tuple[Life, ...] | None = None
    names: tuple[SnapshotName, ...] | None = None


class ReadState(msgspec.Struct, frozen=True):
    """The read asked for with `context` may be served once `index` is applied."""

    context: bytes
    index: int


class SoftState(msgspec.Struct, frozen=True):
    """Who leads, as this member sees it. Sent when it changed; reads open at that moment are lost: ask again."""

    role: Role
    leader: str | None
    term: int
    configuration: Configuration


class Ready(msgspec.Struct, frozen=True, kw_only=True):
    """One step's work for the driver; see the package's docstring for the loop.

    `send_now` may leave before the disk. `persist` next, then `send_after_persist`. `restore`: load this snapshot into
    the state machine, before `committed`, whose entries all are on this member's disk already. `reads` are served once
    their index is applied. `offered`: a whole snapshot to be judged; answer with `accept_snapshot` or
    `refuse_snapshot` (only with `verify_snapshots=True`).
    """

    send_now: tuple[Envelope, ...] = ()
    persist: Persist | None = None
    send_after_persist: tuple[Envelope, ...] = ()
    restore: Snapshot | None = None
    committed: tuple[Entry, ...] = ()
    reads: tuple[ReadState, ...] = ()
    offered: Snapshot | None = None
    soft: SoftState | None = None

    @property
    def has_news(self) -> bool:
        """Whether it has work beyond network and disk; otherwise nothing that others look at has changed."""
        news = self.restore, self.offered, self.soft
        return bool(self.committed or self.reads) or any(each is not None for each in news)
