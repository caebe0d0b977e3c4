"""What must hold after every event (Raft fig. 3.2), checked against what was ever seen, not against one moment."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field

from agent.model.instruction import InstructionResult
from agent.node.core import NodeCore


class Violated(AssertionError):
    """A safety property doesn't hold: the world's seed is a test case."""


@dataclass(slots=True)
class Checks:
    """Remembers leaders by term, committed entries by index, states by index, and acknowledged instructions."""

    leaders: dict[int, str] = field(default_factory=dict)
    committed: dict[int, bytes] = field(default_factory=dict)
    chains: dict[int, str] = field(default_factory=dict)
    acknowledged: dict[tuple[str, int], InstructionResult] = field(default_factory=dict)
    _checked: dict[str, tuple[int, int]] = field(default_factory=dict)

    def restarted(self, name: str, term_on_disk: int) -> None:
        """What wasn't on the disk was never said, so it may be forgotten."""
        self._checked[name] = (term_on_disk, 0)

    def after_event(self, name: str, core: NodeCore) -> None:
        """The properties that the one agent that moved can have broken."""
        raft, state = core.context.raft, core.context.state
        term, applied = self._checked.get(name, (0, 0))
        if raft.term < term:
            raise Violated(f"{name}: the term went back from {term} to {raft.term}")
        if state.index < applied:
            raise Violated(f"{name}: the state went back from {applied} to {state.index}")
        if raft.is_leader:
            self._election_safety(name, raft.term)
            if raft.term > term:
                self._leader_completeness(name, core)
        self._log_matching(name, core, max(applied, raft.first_index - 1) + 1)
        if self.chains.setdefault(state.index, state.chain) != state.chain:
            raise Violated(f"{name}: another state at index {state.index} than somebody had")
        self._nothing_acknowledged_lost(name, core)
        self._checked[name] = (raft.term, state.index)

    def _election_safety(self, name: str, term: int) -> None:
        leader = self.leaders.setdefault(term, name)
        if leader != name:
            raise Violated(f"election safety (Raft §5.2): {leader} and {name} both lead term {term}")

    def _leader_completeness(self, name: str, core: NodeCore) -> None:
        raft = core.context.raft
        last = max(self.committed, default=0)
        if raft.last_index < last:
            raise Violated(
                f"leader completeness (Raft §5.4.3): {name} leads with {raft.last_index} of {last} committed"
            )

    def _log_matching(self, name: str, core: NodeCore, first: int) -> None:
        raft = core.context.raft
        if raft.commit < first:
            return
        for entry in raft.entries_between(first, raft.commit, 1 << 30):
            seen = hashlib.sha256(f"{entry.index} {entry.term} {entry.kind} ".encode() + entry.data).digest()
            if self.committed.setdefault(entry.index, seen) != seen:
                raise Violated(f"state machine safety (Raft §5.4.3): {name} committed another entry {entry.index}")

    def _nothing_acknowledged_lost(self, name: str, core: NodeCore) -> None:
        state = core.context.state
        for (target, revision), result in self.acknowledged.items():
            if result.index > state.index:
                continue
            record = state.targets.get(target)
            if record is None or record.revision < revision:
                raise Violated(
                    f"{name} at {state.index} lost {target} revision {revision}, acknowledged at {result.index}"
                )
            if record.revision == revision and record.digest != result.digest:
                raise Violated(f"{name} has another body for {target} revision {revision} than was acknowledged")

    def acknowledge(self, result: InstructionResult) -> None:
        """An operator was told that this applied."""
        known = self.acknowledged.setdefault((result.target, result.revision), result)
        if known.digest != result.digest:
            raise Violated(f"two instructions were acknowledged as {result.target} revision {result.revision}")

    def agree_at_last(self, cores: Iterable[NodeCore]) -> None:
        """Once faults have stopped: everyone has everything."""
        states = {core.context.id: (core.context.state.index, core.context.state.chain) for core in cores}
        if len(set(states.values())) > 1:
            raise Violated(f"the agents never agreed after the faults stopped: {states}")
