"""The state machine behind the log: applies committed entries, takes and judges snapshots."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import msgspec
from msgspec import Struct

from agent import errors, raft
from agent.control.clock import is_far_ahead
from agent.model.ledger import GenesisEntry, decode_entry
from agent.model.types import AgentId, Digest, Millis
from agent.node.auditing import audit_of
from agent.node.chains import Chains
from agent.node.effects import Audit
from agent.raft.messages import Append
from agent.state import (
    Applied,
    ClusterState,
    SnapshotRefused,
    UnknownEntry,
    apply,
    decode_snapshot,
    encode_snapshot,
    expelled_unproven,
    genesis_state,
    is_readable,
    stamp_of,
)

LATER_VERSION_FIX = (
    "Install the version that the other hosts run (`agent members` shows it), then start the agent again; what is on "
    "this host's disk stays as it is."
)
SNAPSHOT_EVERY_ENTRIES = 5_000  # replaying them at a start takes about a second
SNAPSHOT_STEP_ENTRIES = 100  # the state is encoded this often at most, however large the entries are
SNAPSHOT_LEAST_BYTES = 1_048_576  # of entries, before a snapshot is worth its write
KEPT_ENTRIES = 1_000  # behind a snapshot, so that a member that was away briefly needs no snapshot


class Compaction(Struct, frozen=True, kw_only=True):
    """When a snapshot replaces the beginning of the log: at `every_entries`, or earlier for large entries.

    The entries after the last snapshot shouldn't weigh more than it does, so that the disk holds a small multiple of
    the live state. This depends on the ledger alone, so all agents take the same snapshots, and an interrupted transfer
    continues at another voter. `kept_entries` stay behind a snapshot at most, or as many as weigh a quarter of it.
    """

    every_entries: int = SNAPSHOT_EVERY_ENTRIES
    step_entries: int = SNAPSHOT_STEP_ENTRIES
    least_bytes: int = SNAPSHOT_LEAST_BYTES
    kept_entries: int = KEPT_ENTRIES


class _Weight(Struct):
    """Bytes: of the last snapshot, and of the entries applied since it; and how many those are."""

    snapshot: int = 0
    behind: int = 0
    entries: int = 0

    def add(self, entry: raft.Entry) -> None:
        self.behind += len(entry.data)
        self.entries += 1

    def is_due(self, index: int, policy: Compaction) -> bool:
        if index % policy.every_entries == 0:
            return True
        return index % policy.step_entries == 0 and self.behind >= max(policy.least_bytes, self.snapshot)

    def kept(self, snapshot: int, policy: Compaction) -> int:
        """How many entries stay behind a snapshot of so many bytes."""
        allowed = max(policy.least_bytes, snapshot) // 4
        return min(policy.kept_entries, allowed * self.entries // max(self.behind, 1))


class _Due(Struct, frozen=True):
    """A snapshot that waits until consensus is done with the entries that it came from."""

    index: int
    data: bytes
    kept: int


class Taken(Struct, frozen=True):
    """A snapshot that was due, whether or not it is kept; `digest` is its data's sha256."""

    index: int
    digest: Digest


class Machine:
    """`state` is what the ledger says at `state.index`, `chains` by which history it got there. Signatures were checked
    up to `verified_through`.
    """

    def __init__(
        self,
        state: ClusterState,
        configuration: raft.Configuration,
        verified_through: int,
        compaction: Compaction,
        *,
        snapshot_bytes: int = 0,
    ) -> None:
        self.state = state
        self._compaction = compaction
        self.configuration = configuration
        self.verified_through = verified_through
        self._weight = _Weight(snapshot=snapshot_bytes)
        self._due: _Due | None = None
        self._taken: list[Taken] = []
        self._disbelieved: int | None = None
        self.chains = Chains(state.index, state.chain)

    @classmethod
    def boot(cls, genesis: bytes, boot: raft.Boot, compaction: Compaction) -> Machine:
        """The state on the disk: the snapshot's, or genesis'. Committed entries behind it come through the log.

        Raises NeedsRepair when the snapshot isn't one of ours.
        """
        entry = decode_entry(genesis)
        if not isinstance(entry, GenesisEntry):
            raise errors.NeedsRepair(
                "the first entry isn't a genesis", fix="Enrol this host again with `bootstrap install`."
            )
        if boot.snapshot is None:
            voters = tuple(sorted(entry.genesis.voters))
            configuration = raft.Configuration(voters=voters)
            return cls(genesis_state(genesis), configuration, boot.verified_through, compaction)
        try:
            state = decode_snapshot(boot.snapshot.data, verify=boot.snapshot.index > boot.verified_through)
        except SnapshotRefused as error:
            raise errors.NeedsRepair(
                f"the stored snapshot can't be vouched for: {error}", fix=LATER_VERSION_FIX
            ) from error
        weight = len(boot.snapshot.data)
        return cls(state, boot.snapshot.configuration, boot.verified_through, compaction, snapshot_bytes=weight)

    def apply(self, entry: raft.Entry) -> Applied | None:
        """The next committed entry; None for one of consensus' own.

        Raises InvariantBroken on a gap, NeedsRepair for an entry that only a later version can read: going on without
        it would make another state than the other hosts have.
        """
        if entry.index != self.state.index + 1:
            raise errors.InvariantBroken(f"entry {entry.index} behind state {self.state.index}")
        applied = self._apply(entry)
        self.chains.add(self.state.chain)
        self._weight.add(entry)
        if self._weight.is_due(entry.index, self._compaction):
            data = encode_snapshot(self.state)
            self._due = _Due(entry.index, data, self._weight.kept(len(data), self._compaction))
            self._taken.append(Taken(entry.index, hashlib.sha256(data).hexdigest()))
            self._weight = _Weight(snapshot=len(data))
        return applied

    def _apply(self, entry: raft.Entry) -> Applied | None:
        if entry.kind is not raft.EntryKind.NORMAL:
            self.state = msgspec.structs.replace(self.state, index=entry.index)
            return None
        verify = entry.index > self.verified_through
        try:
            self.state, applied = apply(self.state, entry.index, entry.data, verify=verify)
        except UnknownEntry as error:
            raise errors.NeedsRepair(
                f"entry {entry.index} of the ledger is of a later version than this agent: {error}",
                fix=LATER_VERSION_FIX,
            ) from error
        if applied.kind == "instruction" and applied.act is None:
            self._disbelieved = entry.index  # to be refused again at every start, until it is compacted away
        if self._disbelieved is None:
            self.verified_through = max(self.verified_through, entry.index)
        return applied

    def ahead(self, entries: Iterable[raft.Entry]) -> tuple[ClusterState, list[Audit]]:
        """What the state would be after these entries, and the result of each."""
        state, past = self.state, []
        for entry in entries:
            if entry.kind is raft.EntryKind.NORMAL:
                before = state.chain
                state, applied = apply(state, entry.index, entry.data)
                past.append(audit_of(entry.index, entry.data, before, applied.at, applied.result))
            else:
                state = msgspec.structs.replace(state, index=entry.index)
        return state, past

    def proven(self, snapshot: raft.Snapshot) -> ClusterState | None:
        """The state in a snapshot that a peer offers, if every signature in it holds and it takes nothing back."""
        try:
            offered = decode_snapshot(snapshot.data, verify=True, founded_as=self.state)
        except SnapshotRefused:
            return None
        ours = self.state
        sound = (
            (offered.cluster, offered.epoch, offered.index) == (ours.cluster, ours.epoch, snapshot.index)
            and ours.expelled <= offered.expelled
            and not expelled_unproven(ours, offered)
            and not _brings_back(ours, offered)
            and all(
                target in offered.targets and offered.targets[target].revision >= record.revision
                for target, record in ours.targets.items()
            )
        )
        return offered if sound else None

    def restore(self, snapshot: raft.Snapshot) -> None:
        """A snapshot that we vouched for replaces the state."""
        self.state = decode_snapshot(snapshot.data, verify=False)
        self.chains.begin(self.state.index, self.state.chain)
        self.verified_through = snapshot.index
        self._weight = _Weight(snapshot=len(snapshot.data))
        self._due = None
        self._disbelieved = None

    def take_taken(self) -> list[Taken]:
        """The snapshots since the last call; to be called before `compact`."""
        taken, self._taken = self._taken, []
        return taken

    def compact(self, core: raft.Raft) -> None:
        """Take a snapshot now and then, so that log and start stay short."""
        if self.state.index < core.first_index - 1:
            return  # a peer's snapshot has taken the log's place, and is still on its way to the disk and to us
        if self._due is not None:
            due, self._due = self._due, None
            core.compact(due.index, due.data, due.kept)
            if self._disbelieved is not None and core.first_index > self._disbelieved:
                self._disbelieved = None


def are_readable(entries: Iterable[raft.Entry]) -> bool:
    """Whether the state machine can apply all of them once they are committed; the genesis (term 0) is here already."""
    return all(is_readable(entry.data) for entry in entries if entry.kind is raft.EntryKind.NORMAL and entry.term > 0)


class JudgedAppend(NamedTuple):
    """What is left of a leader's message, None for nothing; `dropped`: why something isn't, as it is counted."""

    append: Append | None
    dropped: str = ""


def judge_append(append: Append, ledger_ms: Millis, own_ms: Millis) -> JudgedAppend:
    """A follower doesn't acknowledge what it can't read, nor a stamp that is far ahead of its own clock.

    If a majority has stored such an entry all the same (it is committed), it is this clock that is wrong.
    """
    for position, entry in enumerate(append.entries):
        if entry.kind is not raft.EntryKind.NORMAL or entry.term == 0:
            continue
        stamp = stamp_of(entry.data)
        if stamp is None:
            return JudgedAppend(None, "unreadable_entry")
        if entry.index > append.commit and is_far_ahead(stamp, own_ms, ledger_ms):
            return JudgedAppend(msgspec.structs.replace(append, entries=append.entries[:position]), "entry_far_ahead")
    return JudgedAppend(append)


def _brings_back(ours: ClusterState, offered: ClusterState) -> bool:
    """Whether authority differs although there was no instruction on it: e.g. of an operator that was revoked.

    Signatures can't show that: what an operator granted once stays signed.
    """

    def same_revision(target: str) -> bool:
        known, told = ours.targets.get(target), offered.targets.get(target)
        return (known.revision if known is not None else 0) == (told.revision if told is not None else 0)

    def is_another_member(id_: AgentId) -> bool:
        known, told = ours.members.get(id_), offered.members.get(id_)
        if known == told or not same_revision(f"member:{id_}"):
            return False
        if known is None or told is None or same_revision(f"host:{id_}"):
            return True
        return msgspec.structs.replace(known, labels=told.labels) != told  # `relabel` changes nothing else

    operators = ours.operators.keys() | offered.operators.keys()
    return (
        any(
            ours.operators.get(name) != offered.operators.get(name) and same_revision(f"operator:{name}")
            for name in operators
        )
        or any(
            ours.api_keys.get(name) != offered.api_keys.get(name) and same_revision(f"key:{name}")
            for name in ours.api_keys.keys() | offered.api_keys.keys()
        )
        or any(is_another_member(id) for id in ours.members.keys() | offered.members.keys())
        or any(same_revision(f"host:{id}") for id in (ours.drained ^ offered.drained) & offered.members.keys())
    )
