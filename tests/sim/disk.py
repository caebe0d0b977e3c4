"""A simulated disk: a transaction is on it whole or not at all, and not before its write has ended."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from agent.node.core import NodeBoot
from agent.node.effects import Store
from agent.raft import Configuration, Entry, EntryKind, HardState, Persist, Snapshot


@dataclass(slots=True)
class SimDisk:
    """What survives a crash. `log` is by index, contiguous. `waiting` is handed over and not synced yet."""

    genesis: Entry
    founders: Configuration
    hard_state: HardState = field(default_factory=HardState)
    log: dict[int, Entry] = field(default_factory=dict)
    snapshot: Snapshot | None = None
    commit: int = 1
    verified_through: int = 1
    waiting: deque[Store] = field(default_factory=deque)

    def __post_init__(self) -> None:
        self.log[1] = self.genesis

    def write(self, persist: Persist, verified_through: int) -> None:
        """One transaction, in the order that `Persist` documents."""
        if persist.hard_state is not None:
            self.hard_state = persist.hard_state
        if persist.truncate_from is not None:
            for index in [index for index in self.log if index >= persist.truncate_from]:
                del self.log[index]
        if persist.snapshot is not None:
            self.snapshot = persist.snapshot
        for entry in persist.entries:
            self.log[entry.index] = entry
        if persist.compact_to is not None:
            for index in [index for index in self.log if index <= persist.compact_to]:
                del self.log[index]
        self.commit = max(self.commit, persist.commit or 0)
        self.verified_through = max(self.verified_through, verified_through)

    def boot(self) -> NodeBoot:
        """What a restarted agent reads."""
        return NodeBoot(
            hard_state=self.hard_state,
            log=tuple(self.log[index] for index in sorted(self.log)),
            snapshot=self.snapshot,
            commit=self.commit,
            verified_through=self.verified_through,
        )

    # What an omniscient judge asks

    @property
    def last(self) -> tuple[int, int]:
        """(term, index) of the last entry, as elections compare logs (Raft §5.4.1)."""
        index = next(reversed(self.log), 0)  # they were written in order
        if self.snapshot is not None and index <= self.snapshot.index:
            return self.snapshot.term, self.snapshot.index
        return self.log[index].term, index

    def holds(self, entry: Entry) -> bool:
        """Whether this very entry is here, or a snapshot took its place."""
        if self.snapshot is not None and entry.index <= self.snapshot.index:
            return True
        mine = self.log.get(entry.index)
        return mine is not None and mine.term == entry.term

    @property
    def configuration(self) -> Configuration:
        """The one in force after a restart: the newest in the log (Raft §4.1)."""
        base = self.snapshot.index if self.snapshot is not None else 1
        for index in reversed(self.log):
            if index <= base:
                break
            if self.log[index].kind is EntryKind.CONFIG:
                return Configuration.decode(self.log[index].data)
        return self.snapshot.configuration if self.snapshot is not None else self.founders
