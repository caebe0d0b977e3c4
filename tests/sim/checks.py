"""What must hold after every event (Raft fig. 3.2), checked against what was ever seen, not against one moment.

The judge sees all disks. Two of its checks ask what *could* happen next, so that a fault shows before bad luck makes a
loss of it: a committed entry is on the disks of a majority, and nobody that lacks it could be elected by those disks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.model.instruction import InstructionResult
from agent.node.core import NodeCore
from agent.raft import Configuration, Entry, EntryKind, Persist, Raft, RaftTiming, Role, Snapshot
from agent.raft.messages import Message, Vote, VoteResponse
from agent.raft.quorum import majority
from agent.state import ClusterState, encode_snapshot
from tests.sim.disk import SimDisk

DIGEST_EVERY = 16  # entries between two comparisons of whole states
VOTING = (Vote, VoteResponse)  # what `Checks.says` has to hear


class Violated(AssertionError):
    """A safety property doesn't hold: the world's seed is a test case."""


@dataclass(slots=True)
class _Seen:
    """What one agent had when it last moved."""

    term: int
    applied: int
    commit: int
    checked: int = 1
    led_term: int = 0


@dataclass(slots=True)
class Checks:
    """Of one epoch. Remembers votes, leaders by term, committed entries, states and configurations by index, and
    answers.

    `logged`: each entry that was ever on a disk, by index and term, and the term of the one before it there.
    `put_back`: whose disk somebody put an older copy in the place of. By that disk alone a sole voter could be elected.
    """

    disks: dict[str, SimDisk] = field(default_factory=dict)
    leaders: dict[int, str] = field(default_factory=dict)
    votes: dict[tuple[str, int], str] = field(default_factory=dict)
    logged: dict[tuple[int, int], tuple[int | None, Entry]] = field(default_factory=dict)
    committed: dict[int, Entry] = field(default_factory=dict)
    committed_in: dict[int, int] = field(default_factory=dict)
    configurations: list[tuple[int, Configuration]] = field(default_factory=list)
    chains: dict[int, str] = field(default_factory=dict)
    digests: dict[int, bytes] = field(default_factory=dict)
    heard: dict[tuple[str, str], float] = field(default_factory=dict)
    leads_since: dict[str, tuple[tuple[int, Configuration], float]] = field(default_factory=dict)
    revisions: dict[tuple[str, int], tuple[str, int]] = field(default_factory=dict)
    put_back: set[str] = field(default_factory=set)
    term: int = 0
    last: int = 1
    _seen: dict[str, _Seen] = field(default_factory=dict)

    def restarted(self, name: str, disk: SimDisk) -> None:
        """What wasn't on the disk was never said, so it may be forgotten."""
        self.disks[name] = disk
        known = self._seen.get(name)
        if known is None:  # of an epoch before it may know a later term than anybody in this one
            self.term = max(self.term, disk.hard_state.term)
        self._seen[name] = _Seen(disk.hard_state.term, 0, disk.commit, known.checked if known else 1)

    # Epochs

    def next(self, name: str, disk: SimDisk, snapshot: Snapshot, state: ClusterState) -> Checks:
        """The judge of the epoch that begins with `snapshot`, which holds `state`, on `name`, whose disk is this.

        What it had of what was committed is kept; all else that comes in this epoch counts in no other.
        """
        kept = max((index for index, entry in self.committed.items() if disk.holds(entry)), default=1)
        if snapshot.index <= kept:
            raise Violated(
                f"an epoch begins on {name} at {snapshot.index}, without committed entry {kept}, which it had"
            )
        for (target, revision), (_, index) in self.revisions.items():
            record = state.targets.get(target)
            if index <= kept and (record is None or record.revision < revision):
                raise Violated(f"an epoch begins on {name} without {target} revision {revision}, which it had applied")
        return Checks(
            configurations=[(snapshot.index, snapshot.configuration)], term=snapshot.term, last=snapshot.index
        )

    # Disks and messages

    def written(self, name: str, disk: SimDisk, persist: Persist) -> None:
        """Before the transaction: what is committed stays where it is."""
        if persist.hard_state is not None and persist.hard_state.term < disk.hard_state.term:
            raise Violated(f"{name}: the disk's term goes back from {disk.hard_state.term}")
        if persist.truncate_from is not None and persist.snapshot is None:
            for index in range(persist.truncate_from, self.last + 1):
                committed, mine = self.committed.get(index), disk.log.get(index)
                if committed is not None and mine is not None and mine.term == committed.term:
                    kept = [entry for entry in persist.entries if entry.index == index]
                    if not kept or kept[0].term != committed.term:
                        raise Violated(f"{name} truncates committed entry {index}")

        self._log_matching(name, disk, persist)

    def _log_matching(self, name: str, disk: SimDisk, persist: Persist) -> None:
        """Raft §5.3: the same index and term is the same entry, behind the same term; and so on back to the first."""
        snapshot = persist.snapshot or disk.snapshot
        before: int | None = None
        for entry in persist.entries:
            if entry is persist.entries[0]:
                mine = disk.log.get(entry.index - 1)
                is_snapshot = snapshot is not None and snapshot.index == entry.index - 1
                before = snapshot.term if is_snapshot and snapshot is not None else mine.term if mine else None
            known, same = self.logged.setdefault((entry.index, entry.term), (before, entry))
            if same != entry or (known is not None and before is not None and known != before):
                where = f"entry {entry.index} of term {entry.term}"
                raise Violated(
                    f"log matching (Raft §5.3): {name}'s {where} is another, or behind another, than was seen"
                )
            before = entry.term

    def says(self, name: str, to: str, message: Message) -> None:
        """One vote a term and member, over all its lives (Raft §5.2)."""
        if isinstance(message, Vote):
            self._votes(name, message.term, name)
        elif isinstance(message, VoteResponse) and message.granted:
            self._votes(name, message.term, to)

    def _votes(self, name: str, term: int, candidate: str) -> None:
        voted = self.votes.setdefault((name, term), candidate)
        if voted != candidate:
            raise Violated(f"{name} votes for {voted} and for {candidate} in term {term} (Raft §5.2)")

    # Agents

    def after_event(self, name: str, core: NodeCore) -> None:
        """The properties that the one agent that moved can have broken."""
        raft, state, seen = core.context.raft, core.context.state, self._seen[name]
        term, commit = raft.term, raft.commit
        if term < seen.term or state.index < seen.applied or commit < seen.commit:
            raise Violated(
                f"{name} went back: term {seen.term} → {term}, state {seen.applied} → {state.index}, "
                f"commit {seen.commit} → {commit}"
            )
        if term > self.term:
            if raft.role not in (Role.CANDIDATE, Role.LEADER):
                raise Violated(f"{name} is in term {term}, which no candidate began (Raft §9.6)")
            self.term = term
        if raft.is_leader and seen.led_term != term:
            seen.led_term = term
            self._election_safety(name, term)
            self._leader_completeness(name, core)
        if commit > seen.checked:
            self._committed(name, core, seen.checked + 1)
            seen.checked = commit
        if state.index > seen.applied:
            self._applied(name, core)
        seen.term, seen.applied, seen.commit = term, state.index, commit

    def hears_a_majority(self, name: str, core: NodeCore, timing: RaftTiming, now: float) -> None:
        """After a timer: nobody leads on who hasn't heard a majority for longer than an election takes (Raft §6.2)."""
        raft, oldest = core.context.raft, now - timing.election_timeout_max_s - 2 * timing.heartbeat_s
        if not raft.is_leader:
            return
        leads, since = self.leads_since.get(name, (None, 0.0))
        if leads != (raft.term, raft.configuration):  # who comes has an election's time to be heard
            self.leads_since[name] = (raft.term, raft.configuration), now
        elif since < oldest:
            voters = raft.configuration.voters
            silent = [v for v in voters if v != name and self.heard.get((name, v), 0.0) < oldest]
            if len(voters) - len(silent) < majority(len(voters)):
                raise Violated(f"{name} leads term {raft.term} on, {', '.join(silent)} being silent (Raft §6.2)")

    def _election_safety(self, name: str, term: int) -> None:
        leader = self.leaders.setdefault(term, name)
        if leader != name:
            raise Violated(f"election safety (Raft §5.2): {leader} and {name} both lead term {term}")

    def _leader_completeness(self, name: str, core: NodeCore) -> None:
        """Of entries committed in earlier terms: who hears late of its election leads while a later term commits."""
        raft = core.context.raft
        for index in range(raft.first_index, self.last + 1):
            entry = self.committed.get(index)
            if entry is not None and self.committed_in[index] < raft.term and raft.term_at(index) != entry.term:
                raise Violated(f"leader completeness (Raft §5.4.3): {name} leads without committed entry {index}")

    def _committed(self, name: str, core: NodeCore, first: int) -> None:
        raft, disk = core.context.raft, self.disks[name]
        # What was committed, applied and compacted at once is still on the disk; what a snapshot is about to replace is
        # there too, and never was committed.
        gone = range(first, raft.first_index) if core.context.state.index >= raft.first_index - 1 else ()
        compacted = [disk.log[index] for index in gone if index in disk.log]
        for entry in (*compacted, *raft.entries_between(max(first, raft.first_index), raft.commit, 1 << 30)):
            known = self.committed.get(entry.index)
            if known is None:
                self._newly_committed(name, core, entry)
            elif (known.term, known.kind, known.data) != (entry.term, entry.kind, entry.data):
                raise Violated(f"state machine safety (Raft §5.4.3): {name} committed another entry {entry.index}")

    def _newly_committed(self, name: str, core: NodeCore, entry: Entry) -> None:
        if entry.kind is EntryKind.CONFIG and entry.term > 0:
            self.configurations.append((entry.index, Configuration.decode(entry.data)))
        self.committed[entry.index], self.committed_in[entry.index] = entry, core.context.raft.term
        self.last = max(self.last, entry.index)
        if entry.index > 1:
            self._durable(name, entry, core.context.raft)
            self._nobody_electable_without(entry)

    def _durable(self, name: str, entry: Entry, raft: Raft) -> None:
        """A leader counts by the newest configuration in its log, which may be later than the entry (Raft §4.1).

        That is the one at its commit index where it went on to the next at once.
        """
        in_force = (raft.configuration, raft.configuration_at(raft.commit), self.configuration_at(entry.index))
        for voters in (configuration.voters for configuration in in_force):
            keeping = [voter for voter in voters if voter in self.disks and self.disks[voter].holds(entry)]
            if len(keeping) >= majority(len(voters)):
                return
        raise Violated(f"{name} commits {entry.index}, which only {', '.join(keeping)} of {voters} have on disk")

    def _nobody_electable_without(self, entry: Entry) -> None:
        """Raft §5.4.2, fig. 8, and §4.1: should all crash now, could somebody be elected who lacks the entry?"""
        for name, disk in self.disks.items():
            if disk.holds(entry) or name in self.put_back:
                continue
            voters, last = disk.configuration.voters, disk.last
            if name not in voters:
                continue
            for_it = sum(1 for voter in voters if voter in self.disks and self.disks[voter].last <= last)
            if for_it >= majority(len(voters)):
                raise Violated(f"{name} could be elected without entry {entry.index}, which is committed (Raft §5.4.2)")

    def configuration_at(self, index: int) -> Configuration:
        """What the committed log says; a configuration counts from its own entry on."""
        said = [configuration for start, configuration in self.configurations if start <= index]
        return said[-1] if said else next(iter(self.disks.values())).founders

    def _applied(self, name: str, core: NodeCore) -> None:
        state = core.context.state
        if self.chains.setdefault(state.index, state.chain) != state.chain:
            raise Violated(f"{name}: another state at index {state.index} than somebody had")
        if state.index % DIGEST_EVERY == 0:
            whole = encode_snapshot(state)
            if self.digests.setdefault(state.index, whole) != whole:
                raise Violated(f"{name}: the same log made another state at {state.index}")
        for target, record in state.targets.items():
            told = (record.digest, record.result.index)
            if self.revisions.setdefault((target, record.revision), told) != told:
                raise Violated(f"{name}: {target} revision {record.revision} happened twice")
        snapshot = core.context.raft.snapshot
        if snapshot is not None and snapshot.configuration != self.configuration_at(snapshot.index):
            raise Violated(f"{name}: the snapshot at {snapshot.index} has another configuration than the log")

    # Answers

    def acknowledge(self, result: InstructionResult) -> None:
        """An operator was told that this applied: then it is committed, for ever."""
        told = (result.digest, result.index)
        if result.index not in self.committed:
            raise Violated(f"{result.target} revision {result.revision} was acknowledged before it was committed")
        if self.revisions.setdefault((result.target, result.revision), told) != told:
            raise Violated(f"{result.target} revision {result.revision} was acknowledged, and another one applied")

    def agree_at_last(self, cores: Iterable[tuple[str, NodeCore]], settled: int) -> None:
        """Once faults have stopped: everyone has everything up to `settled`, committed a while ago.

        That they have the same there is checked all the time; what was committed just now may be on its way.
        """
        states: Mapping[str, int] = {name: core.context.state.index for name, core in cores}
        if any(index < settled for index in states.values()):
            raise Violated(f"the agents never agreed on entry {settled} after the faults stopped: {states}")
