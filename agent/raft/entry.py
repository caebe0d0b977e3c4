"""What a ledger's log consists of, as it goes to disk and over the wire."""

import enum
from typing import Annotated

import msgspec

# SQLite and msgpack both keep signed 64-bit integers; half of that leaves room to add without a check.
MAX_INDEX = 2**62

# The largest instruction (a body of 1 MiB and its token), with room for what the coordinator stamps on it.
MAX_ENTRY_BYTES = 1024 * 1024 + 64 * 1024

# An agent id is a name in a certificate (RFC 5280 ub-common-name).
MAX_ID_BYTES = 64

# Majorities are of five; room for every host of a cluster to be a learner at once is not needed.
MAX_MEMBERS = 64

Index = Annotated[int, msgspec.Meta(ge=0, le=MAX_INDEX)]
Term = Annotated[int, msgspec.Meta(ge=0, le=MAX_INDEX)]
AgentId = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_BYTES)]
Members = Annotated[tuple[AgentId, ...], msgspec.Meta(max_length=MAX_MEMBERS)]


class EntryKind(enum.IntEnum):
    """What an entry's data is. The numbers are on disk and on the wire: never reused."""

    NORMAL = 0
    """Bytes of the state machine."""
    NOOP = 1
    """Nothing: a leader's first entry of its term (Raft §5.4.2, §6.4)."""
    CONFIG = 2
    """An encoded `Configuration`, in force from the moment it's in the log (Raft §4.1)."""


class Entry(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One entry of the log. The entry of term 0 (index 1) is the genesis: its data is opaque whatever its kind."""

    index: Annotated[int, msgspec.Meta(ge=1, le=MAX_INDEX)]
    term: Term
    kind: EntryKind
    data: Annotated[bytes, msgspec.Meta(max_length=MAX_ENTRY_BYTES)]


class HardState(msgspec.Struct, frozen=True):
    """What must be on disk before a member speaks: stored in one transaction with the entries (Raft fig. 3.1)."""

    term: int = 0
    vote: str | None = None


class Configuration(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Who counts for majorities, and who only gets the log. Sorted, without repeats, disjoint; at least one voter.

    Raises ValueError when built otherwise.
    """

    voters: Members
    learners: Members = ()

    def __post_init__(self) -> None:
        if not self.voters:
            raise ValueError("a configuration needs a voter")
        for ids in (self.voters, self.learners):
            if list(ids) != sorted(set(ids)):
                raise ValueError("members must be sorted and named once")
        if set(self.voters) & set(self.learners):
            raise ValueError("a member is a voter or a learner, not both")

    @classmethod
    def of(cls, voters: list[str] | tuple[str, ...], learners: list[str] | tuple[str, ...] = ()) -> "Configuration":
        """The configuration of these ids, in any order."""
        return cls(tuple(sorted(voters)), tuple(sorted(learners)))

    @property
    def members(self) -> tuple[str, ...]:
        """All that get the log, sorted."""
        return tuple(sorted(self.voters + self.learners)) if self.learners else self.voters

    def __contains__(self, id: str) -> bool:
        """Whether `id` gets the log."""
        return id in self.voters or id in self.learners

    def encode(self) -> bytes:
        """The data of a CONFIG entry."""
        return _encoder.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> "Configuration":
        """Raises ValueError when `data` isn't an encoded configuration."""
        try:
            return _decoder.decode(data)
        except msgspec.DecodeError as error:
            raise ValueError(f"not a configuration: {error}") from None


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The state machine at `index`, instead of the entries up to it. `data` is the state machine's own affair."""

    index: Index
    term: Term
    configuration: Configuration
    data: bytes


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Configuration)


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """What a member remembers of another one's disk, by that one's own statements.

    It has started at least `starts` times, and in its start number `boot` its entries up to `up_to` were on its disk
    for good; `word` is its own signature for that. `went_back`: it came with less.
    """

    agent: str
    starts: int = 0
    boot: int = 0
    up_to: int = 0
    word: bytes = b""
    went_back: bool = False


class SnapshotName(msgspec.Struct, frozen=True):
    """What a snapshot that this member had at `index` is called: the state machine's own affair, as its data is."""

    index: Index
    name: str


class Boot(msgspec.Struct, frozen=True, kw_only=True):
    """What the disk held when it was opened: what a `Raft` starts from. At first that is one entry, committed.

    `entries` are contiguous and end at the last index; the first is at most `snapshot.index + 1`. Entries up to
    `verified_through` had their signatures checked. `starts` counts openings, this one included: it orders this
    agent's lives without a clock. `lives`: what is remembered of the other members' disks. `names`: of this member's
    newest snapshots.
    """

    hard_state: HardState
    snapshot: Snapshot | None
    entries: tuple[Entry, ...]
    commit: int
    verified_through: int
    starts: int
    lives: tuple[Life, ...] = ()
    names: tuple[SnapshotName, ...] = ()
