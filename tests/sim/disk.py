"""A simulated disk: a transaction is on it whole or not at all, and not before its write has ended."""

from __future__ import annotations

from dataclasses import dataclass, field

from agent.node.core import NodeBoot
from agent.raft import Entry, HardState, Persist, Snapshot


@dataclass(slots=True)
class SimDisk:
    """What survives a crash. `log` is by index, contiguous."""

    genesis: Entry
    hard_state: HardState = field(default_factory=HardState)
    log: dict[int, Entry] = field(default_factory=dict)
    snapshot: Snapshot | None = None
    commit: int = 1
    verified_through: int = 1

    def __post_init__(self) -> None:
        self.log[1] = self.genesis

    def write(self, persist: Persist, verified_through: int) -> None:
        """One transaction, in the order that `Persist` documents."""
        if persist.hard_state is not None:
            self.hard_state = persist.hard_state
        if persist.truncate_from is not None:
            self.log = {index: entry for index, entry in self.log.items() if index < persist.truncate_from}
        if persist.snapshot is not None:
            self.snapshot = persist.snapshot
        self.log |= {entry.index: entry for entry in persist.entries}
        if persist.compact_to is not None:
            self.log = {index: entry for index, entry in self.log.items() if index > persist.compact_to}
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
