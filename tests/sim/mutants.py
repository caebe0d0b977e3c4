"""`python -m tests.sim.mutants [NAME …]`: known bugs, switched on one at a time; the simulator must catch every one.

Each replaces a function of the real code for the length of a run; nothing in the agent knows of it.
"""

from __future__ import annotations

import gc
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from unittest import mock

import click
import msgspec

import agent.control.rollout
import agent.control.scheduler
import agent.node.coordination
import agent.node.machine
import agent.node.vouching
import agent.raft.leadership
from agent.control.progress import Progress
from agent.errors import InvariantBroken, MusterError
from agent.node.consensus import Consensus
from agent.node.epochs import Epochs
from agent.node.machine import Machine
from agent.node.submissions import Submissions
from agent.raft import Configuration, Persist, Raft, RaftError, RaftLimits, RaftTiming
from agent.raft.election import Election
from agent.raft.follower import Follower
from agent.raft.leadership import Leadership
from agent.raft.log import RaftLog
from agent.raft.membership import check_change
from agent.raft.messages import Append, AppendResponse, Heartbeat, PreVote, Vote, VoteResponse
from agent.raft.quorum import committed_index
from agent.raft.reads import PendingReads
from agent.raft.replication import Replication
from agent.raft.roles import Roles
from agent.raft.state import Outbox
from agent.swim import SwimConfig
from tests.sim.batch import in_time, processes
from tests.sim.disk import SimDisk
from tests.sim.scenes import (
    a_disk_that_went_back,
    a_disk_that_went_back_beside_one_that_was_away,
    a_doctored_snapshot,
    a_no_by_a_deposed_leader,
    a_sole_voters_disk_that_went_back,
    an_acknowledgement_of_an_earlier_term,
    changes_by_two_leaders,
    moves,
)
from tests.sim.world import World
from tests.support.memory_disk import MemoryDisk

MAX_SEEDS = 60
CAUGHT = (AssertionError, InvariantBroken, MusterError, RaftError, ValueError, LookupError)
# `agent.state.apply` names the function; this is its module.
APPLYING = sys.modules["agent.state.apply"]
Mutation = Callable[[Any], Any]


def _vote_not_persisted(write: Any) -> Any:
    def mutant(self: SimDisk, persist: Persist, verified_through: int) -> None:
        if persist.hard_state is not None:
            hard_state = msgspec.structs.replace(persist.hard_state, vote=None)
            persist = msgspec.structs.replace(persist, hard_state=hard_state)
        write(self, persist, verified_through)

    return mutant


def _vote_persisted_after_the_term(write: Any) -> Any:
    def mutant(self: SimDisk, persist: Persist, verified_through: int) -> None:
        wanted = persist.hard_state
        if wanted is not None and wanted.term > self.hard_state.term:
            persist = msgspec.structs.replace(persist, hard_state=msgspec.structs.replace(wanted, vote=None))
        write(self, persist, verified_through)

    return mutant


def _append_acknowledged_before_persist(send: Any) -> Any:
    def mutant(self: Outbox, to: str, message: Any) -> None:
        (self.send_now if isinstance(message, AppendResponse) else lambda *a: send(self, *a))(to, message)

    return mutant


def _always(answer: object) -> Mutation:
    return lambda _original: lambda *_args, **_how: answer


def _commits_older_terms_by_counting(_original: Any) -> Any:
    def mutant(self: Replication) -> bool:
        state = self._state
        voters = state.configuration.voters
        index = committed_index([state.log.persisted if v == state.id else self.progress[v].match for v in voters])
        return index > state.log.commit and state.log.commit_to(index)

    return mutant


def _counts_learners(_original: Any) -> Any:
    def mutant(self: Replication) -> bool:
        state = self._state
        members = state.configuration.members
        index = committed_index([state.log.persisted if m == state.id else self.progress[m].match for m in members])
        return index > state.log.commit and state.log.term_at(index) == state.term and state.log.commit_to(index)

    return mutant


def _pre_vote_bumps_terms(on_pre_vote: Any) -> Any:
    def mutant(self: Election, sender: str, request: PreVote, leader_trusted: bool) -> None:
        on_pre_vote(self, sender, request, leader_trusted)
        if request.term > self._state.term and not leader_trusted:
            self._state.follow(request.term, None)

    return mutant


def _same_timeout_for_everybody(_original: Any) -> Any:
    def mutant(self: Election, now: float) -> None:
        self._timeout = self._state.timing.election_timeout_max_s
        self._due = now + self._timeout
        self._short_delays_left = 0

    return mutant


def _appends_behind_anything(take: Any) -> Any:
    def mutant(self: Follower, leader: str, append: Append) -> None:
        mine = self._state.log.term_at(append.prev_index)
        if mine is not None and mine != append.prev_term:
            append = msgspec.structs.replace(append, prev_term=mine)
        take(self, leader, append)

    return mutant


def _truncates_what_is_there(_original: Any) -> Any:
    def mutant(self: RaftLog, entries: Any) -> int | None:
        entries = [entry for entry in entries if entry.index > self.base_index]
        if not entries:
            return None
        first, cut = entries[0].index, entries[0].index <= self.last_index
        if cut:
            commit, self.commit = self.commit, 0
            self._truncate(first, entries[0].term)
            self.commit = commit
        self._entries.extend(entries)
        self.commit = min(self.commit, self.last_index)
        return first if cut else None

    return mutant


def _two_changes_at_once(_original: Any) -> Any:
    def mutant(self: Leadership, configuration: Configuration, now: float) -> int:
        self._check_transfer()
        if not self.term_committed:
            raise agent.raft.ConfigurationRefused("no entry of this term is committed yet")
        check_change(self._state.configuration, configuration)
        index = self._append(agent.raft.EntryKind.CONFIG, configuration.encode())
        self.replication.reconfigure(now, first_guess=self._state.log.commit + 1)
        return index

    return mutant


def _change_before_own_commit(propose: Any) -> Any:
    def mutant(self: Leadership, configuration: Configuration, now: float) -> int:
        with mock.patch.object(Leadership, "term_committed", True):
            return int(propose(self, configuration, now))

    return mutant


def _counts_acknowledgements_of_other_terms(settle_term: Any) -> Any:
    def mutant(self: Roles, sender: str, message: Any, now: float) -> bool:
        if isinstance(message, AppendResponse) and message.accepted and message.term < self._state.term:
            return True
        return bool(settle_term(self, sender, message, now))

    return mutant


def _reads_without_a_round(take: Any) -> Any:
    return lambda self, _round: take(self, 1 << 60)


def _heartbeat_commits_beyond_match(flush: Any) -> Any:
    def mutant(self: Leadership, now: float) -> None:
        commit = self._state.log.commit
        with mock.patch("agent.raft.leadership.Heartbeat", lambda **how: Heartbeat(**(how | {"commit": commit}))):
            flush(self, now)

    return mutant


def _append_commits_beyond_match(on_append: Any) -> Any:
    def mutant(self: Follower, leader: str, append: Append) -> None:
        on_append(self, leader, append)
        self._state.log.commit_to(append.commit)

    return mutant


def _snapshot_loses_configuration(compact: Any) -> Any:
    def mutant(self: Raft, index: int, data: bytes, keep_entries: int) -> None:
        alone = Configuration.of(self.configuration.voters[:1])
        with mock.patch.object(self._state.membership, "at", return_value=alone):
            compact(self, index, data, keep_entries)

    return mutant


def _snapshot_of_older_state(encode: Any) -> Any:
    before: dict[str, Any] = {}

    def mutant(state: Any) -> bytes:
        older = before.get(state.cluster, state)
        before[state.cluster] = state
        return bytes(encode(msgspec.structs.replace(older, index=state.index)))

    return mutant


def _applies_twice_after_restart(boot: Any) -> Any:
    def mutant(cls: Any, *args: Any) -> Any:
        machine = boot.__func__(cls, *args)
        apply = machine.apply

        def twice(entry: Any) -> Any:
            apply(entry)
            machine.apply = apply
            machine.state = msgspec.structs.replace(machine.state, index=entry.index - 1)
            return apply(entry)

        machine.apply = twice
        return machine

    return classmethod(mutant)


def _answers_before_apply(admit: Any) -> Any:
    def mutant(self: Submissions, number: int, pending: Any, when: Any, clock_ms: int) -> None:
        state = self.context.state
        admit(self, number, pending, when, clock_ms)
        if pending.state == "proposed" and number in self._pending:
            claims = pending.verified.claims
            foretold = APPLYING._result(state, claims, by="ops")
            self._answer(number, msgspec.structs.replace(foretold, index=self.context.raft.last_index))

    return mutant


def _forgets_waiters(advance: Any) -> Any:
    def mutant(self: Submissions, number: int, pending: Any, when: Any, clock_ms: int | None) -> None:
        if pending.state == "proposed" and not self.context.raft.is_leader:
            del self._pending[number]
        else:
            advance(self, number, pending, when, clock_ms)

    return mutant


def _votes_for_everybody(_original: Any) -> Any:
    def mutant(self: Election, sender: str, request: Vote, now: float) -> None:
        state = self._state
        granted = request.term == state.term and state.log.is_up_to_date(request.last_index, request.last_term)
        state.outbox.send_after_persist(sender, VoteResponse(term=state.term, granted=granted))

    return mutant


def _wiped_voter_comes_back(crash: Any) -> Any:
    def mutant(self: World, host: Any) -> None:
        was_up = host.core is not None
        crash(self, host)
        if was_up and self.rng.random() < 0.2:
            host.disk = SimDisk(host.disk.genesis, founders=host.disk.founders)
            self.checks.restarted(host.id, host.disk)

    return mutant


def _forgets_at_a_restart(boot: Any) -> Any:
    return lambda self: msgspec.structs.replace(boot(self), lives=())


def _done(_original: Any) -> Any:
    return lambda *_asked, **_how: Progress(verdict="done")


def _keeps_what_is_known_to_be_committed(ahead: Any) -> Any:
    return lambda self, _entries: ahead(self, ())


MUTANTS: dict[str, tuple[Any, str, Mutation]] = {
    "vote not persisted": (MemoryDisk, "write", _vote_not_persisted),
    "term and vote persisted apart": (MemoryDisk, "write", _vote_persisted_after_the_term),
    "append acknowledged before persist": (Outbox, "send_after_persist", _append_acknowledged_before_persist),
    "vote for a log that is behind": (RaftLog, "is_up_to_date", _always(True)),
    "two votes in a term": (Election, "on_vote", _votes_for_everybody),
    "older term committed by counting": (Replication, "advance_commit", _commits_older_terms_by_counting),
    "pre-vote bumps terms": (Election, "on_pre_vote", _pre_vote_bumps_terms),
    "election timeout the same for all, once": (Election, "wait", _same_timeout_for_everybody),
    "no CheckQuorum": (Leadership, "quorum_active", _always(True)),
    "append behind another entry": (Follower, "_take", _appends_behind_anything),
    "late append truncates": (RaftLog, "merge", _truncates_what_is_there),
    "change before an own-term commit": (Leadership, "propose_configuration", _change_before_own_commit),
    "two changes at once": (Leadership, "propose_configuration", _two_changes_at_once),
    "acknowledgements counted across terms": (Roles, "_settle_term", _counts_acknowledgements_of_other_terms),
    "stale ReadIndex": (PendingReads, "take_confirmed", _reads_without_a_round),
    "heartbeat commits beyond match": (Leadership, "flush", _heartbeat_commits_beyond_match),
    "append commits beyond match": (Follower, "on_append", _append_commits_beyond_match),
    "snapshot loses the configuration": (Raft, "compact", _snapshot_loses_configuration),
    "snapshot of an older state": (agent.node.machine, "encode_snapshot", _snapshot_of_older_state),
    "apply twice after a restart": (Machine, "boot", _applies_twice_after_restart),
    "revision not checked": (APPLYING, "_answered", _always(None)),
    "answer before apply": (Submissions, "_admit", _answers_before_apply),
    "learner counted in the majority": (Replication, "advance_commit", _counts_learners),
    "wiped voter comes back": (World, "crash", _wiped_voter_comes_back),
    "snapshot not compared": (agent.node.vouching, "is_vouched_for", _always(True)),
    "a disk that went back counts": (Consensus, "kept", _always(None)),
    "sole voter leads before it met the others": (Election, "await_peers", _always(None)),
    "others' disks forgotten at a restart": (MemoryDisk, "boot", _forgets_at_a_restart),
    "act before its level": (APPLYING, "_comes_later", _always(False)),
    "level raised too early": (agent.node.coordination, "next_level", lambda _original: lambda _now, own, *_told: own),
    "ends before its successor runs": (agent.control.scheduler._Planner, "_predecessor", _always(None)),
    "ends when its successor is assigned": (agent.control.rollout, "judge", _done),
    "members of another epoch count": (Epochs, "link_up", _always(False)),
    "an epoch begins without the log's end": (Machine, "ahead", _keeps_what_is_known_to_be_committed),
    "lost waiters": (Submissions, "_advance", _forgets_waiters),
}


@contextmanager
def switched_on(name: str) -> Iterator[None]:
    """The bug `name`, for the length of the block."""
    owner, attribute, mutation = MUTANTS[name]
    original = owner.__dict__[attribute]
    with mock.patch.object(owner, attribute, mutation(original)):
        yield


# Where the bugs that need a rare meeting are looked for: weather that a seed draws too, only seldom all of it at once.
ELECTIONS = ("crash", "crash_leader", "cut", "one_way", "pause", "jump", "chain")
STORM: Mapping[str, object] = {
    "weights": dict.fromkeys(ELECTIONS, 1.0),
    "fault_every_s": 0.6,
    "upstart": 0.7,
    "timing": RaftTiming.lan(),
    "swim": SwimConfig.lan(),
    "limits": RaftLimits(append_entries=1, inflight_messages=2),
    "pace_s": 0.3,
}
TIES: Mapping[str, object] = {"steady": True, "loss": 0.0, "delay_s": 0.03, "left_out": "dead"}
HASTE: Mapping[str, object] = {**STORM, "weights": {"meddle": 3.0, "cut": 1.0, "crash_leader": 1.0, "one_way": 1.0}}
VOTES: Mapping[str, object] = {**STORM, "crash_voting": 0.5, "pace_s": 3.0}
UPGRADES: Mapping[str, object] = {
    "mixed": 1.0,
    "weights": {"crash": 2.0, "drain": 2.0, "crash_leader": 1.0, "cut": 1.0},
}
BEREFT: Mapping[str, object] = {"bereft": 1.0, "pace_s": 0.3}
FOCUS: dict[str, Mapping[str, object]] = {
    "vote not persisted": VOTES,
    "term and vote persisted apart": VOTES,
    "vote for a log that is behind": STORM,
    "older term committed by counting": STORM,
    "election timeout the same for all, once": TIES,
    "two changes at once": HASTE,
    "heartbeat commits beyond match": STORM,
    "append commits beyond match": STORM,
    "members of another epoch count": BEREFT,
    "an epoch begins without the log's end": BEREFT,
    "act before its level": UPGRADES,
    "level raised too early": UPGRADES,
}


SCENES: dict[str, Callable[[], World]] = {
    "change before an own-term commit": changes_by_two_leaders,
    "acknowledgements counted across terms": an_acknowledgement_of_an_earlier_term,
    "stale ReadIndex": a_no_by_a_deposed_leader,
    "snapshot not compared": a_doctored_snapshot,
    "a disk that went back counts": a_disk_that_went_back,
    "sole voter leads before it met the others": a_sole_voters_disk_that_went_back,
    "others' disks forgotten at a restart": a_disk_that_went_back_beside_one_that_was_away,
    "ends before its successor runs": moves,
    "ends when its successor is assigned": moves,
}


def worlds_for(name: str, seeds: int) -> Iterator[World]:
    """Where the bug `name` should show: its scene, if it has one, else worlds of all sizes."""
    if name in SCENES:
        yield SCENES[name]()
    else:
        for seed in range(seeds):
            yield World(seed, size=(3, 5, 4, 3)[seed % 4], focus=FOCUS.get(name, {}))


def worlds_until_caught(name: str, seeds: int = MAX_SEEDS) -> tuple[int, str] | None:
    """How many worlds it took, and what they said; None when all of them passed."""
    with switched_on(name):
        for number, world in enumerate(worlds_for(name, seeds), 1):
            try:
                with in_time():
                    world.run()
            except CAUGHT as caught:
                return number, f"{type(caught).__name__}: {caught}"
    return None


def _hunt(task: tuple[str, int]) -> tuple[str, tuple[int, str] | None, float]:
    name, seeds = task
    begin = time.process_time()
    return name, worlds_until_caught(name, seeds), time.process_time() - begin


@click.command()
@click.argument("names", nargs=-1)
@click.option("--seeds", default=MAX_SEEDS, show_default=True, help="Worlds before a bug counts as not caught.")
@click.option("--jobs", default=2, show_default=True, help="Processes.")
def main(names: tuple[str, ...], seeds: int, jobs: int) -> None:
    """Switch each bug on and count the worlds until it is caught."""
    missed, begin = 0, time.monotonic()
    tasks = [(name, seeds) for name in names or MUTANTS]
    click.echo(f"{'bug':42} worlds  seconds  what showed it")
    with processes(jobs, gc.freeze) as pool:
        for name, caught, took_s in pool.map(_hunt, tasks):
            missed += caught is None
            worlds, how = caught or (seeds, "NOT CAUGHT")
            click.echo(f"{name:42} {worlds:6}  {took_s:7.1f}  {how[:110]}")
    click.echo(f"{len(tasks) - missed} of {len(tasks)} caught in {time.monotonic() - begin:.0f} s")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
