"""A simulated disk: a transaction is on it whole or not at all, and not before its write has ended."""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field

from agent.node.effects import Store
from agent.raft import Configuration, Entry, EntryKind
from tests.support.memory_disk import MemoryDisk


@dataclass(slots=True)
class SimDisk(MemoryDisk):
    """What survives a crash. `waiting` is handed over and not synced yet. `epoch` is the ledger's."""

    founders: Configuration = field(kw_only=True)
    epoch: int = 1
    waiting: deque[Store] = field(default_factory=deque)

    def copied(self) -> SimDisk:
        """As it is now, whatever is written on it later."""
        twin = copy.copy(self)
        twin.log = dict(self.log)
        return twin

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
