"""A disk in memory: a transaction is on it whole, and what is on it survives a crash."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.errors import InvariantBroken
from agent.raft import Boot, Entry, HardState, Life, Persist, Snapshot, SnapshotName


@dataclass(slots=True)
class MemoryDisk:
    """`log` by index, contiguous, written in order; `starts` counts the lives of its agent.

    The ledger file (agent.storage) does the same, with fsync: tests/storage/contract.py holds for both.
    """

    genesis: Entry
    hard_state: HardState = field(default_factory=HardState)
    log: dict[int, Entry] = field(default_factory=dict)
    snapshot: Snapshot | None = None
    commit: int = 1
    verified_through: int = 0
    starts: int = 0
    lives: tuple[Life, ...] = ()
    names: tuple[SnapshotName, ...] = ()

    def __post_init__(self) -> None:
        self.log[1] = self.genesis

    def write(self, persist: Persist, verified_through: int) -> None:
        """One transaction, in the order that `Persist` documents. Raises InvariantBroken, and changes nothing then."""
        self._check(persist)
        if persist.hard_state is not None:
            self.hard_state = persist.hard_state
        if persist.truncate_from is not None:
            for index in [index for index in self.log if index >= persist.truncate_from]:
                del self.log[index]
            self.verified_through = min(self.verified_through, persist.truncate_from - 1)
        if persist.snapshot is not None:
            self.snapshot = persist.snapshot
        for entry in persist.entries:
            self.log[entry.index] = entry
        if persist.compact_to is not None:
            for index in [index for index in self.log if index <= persist.compact_to]:
                del self.log[index]
        self.commit = max(self.commit, persist.commit or 0)
        self.verified_through = max(self.verified_through, verified_through)
        if persist.lives is not None:
            self.lives = persist.lives
        if persist.names is not None:
            self.names = persist.names

    def _check(self, persist: Persist) -> None:
        cut, snapshot = persist.truncate_from, persist.snapshot or self.snapshot
        if cut is not None and cut <= self.commit and persist.snapshot is None:
            raise InvariantBroken(f"entry {cut} is committed and can't be truncated")
        if persist.compact_to is not None and (snapshot is None or snapshot.index < persist.compact_to):
            raise InvariantBroken(f"no snapshot covers the entries up to {persist.compact_to}")
        if persist.entries:
            behind = snapshot.index if snapshot is not None else 0
            last = next((index for index in reversed(self.log) if cut is None or index < cut), behind)
            if persist.entries[0].index != last + 1:
                raise InvariantBroken(f"entry {persist.entries[0].index} doesn't follow on {last}")

    def begin_epoch(self, snapshot: Snapshot) -> None:
        """One transaction: the snapshot instead of everything."""
        if snapshot.term > self.hard_state.term:
            self.hard_state = HardState(term=snapshot.term, vote=None)
        self.log.clear()
        self.snapshot, self.commit, self.verified_through = snapshot, snapshot.index, snapshot.index
        self.lives, self.names = (), ()

    def boot(self) -> Boot:
        """What a start reads."""
        return Boot(
            hard_state=self.hard_state,
            entries=tuple(self.log[index] for index in sorted(self.log)),
            snapshot=self.snapshot,
            commit=self.commit,
            verified_through=self.verified_through,
            starts=self.starts,
            lives=self.lives,
            names=self.names,
        )
