"""A stack's way from one revision to the next: what the coordinator proposes to the ledger. Pure.

All that a rollout has to remember is in the ledger (phase, assignments), so the next coordinator goes on where this one
stopped, and `decide` says the same twice if asked twice.

Order: every host that gets a replica says that it can run it (`preparation`); then services without a role, then main,
then workers; a class begins when the one before it is healthy; at last hosts say that they reach each other's replicas
(`validation`). A first deploy makes all replicas of a class at once; a replica that runs is replaced only if its
service changed, one slot of a service at a time. What only gets another pointer keeps its container. A drained host is
left in the same way, one replica of a service after another, also when no rollout is under way. The host that it
goes to says first that it can run it. What moves goes on where it was until its successor is healthy: its predecessor.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import islice
from types import MappingProxyType
from typing import TypeAlias

from msgspec import Struct
from msgspec.structs import replace

from agent.control.facts import ClusterFacts
from agent.control.placements import Placements
from agent.control.preparation import PLACE_DEADLINE_MS, judge_preparation, preparations
from agent.control.progress import HEALTHY_DEADLINE_MS, Progress, Reports, deadline_passed, judge
from agent.control.removal import Removal
from agent.control.scheduler import ROLES, Schedule, same_container, schedule
from agent.control.validation import judge_validation, may_be_asked, reaching, visit_of
from agent.model.errand import MAX_ERRANDS, Errand, errand_id
from agent.model.ledger import AssignEntry, Assignment, LedgerEntry, Phase, PhaseEntry, Slot
from agent.model.reason import with_note
from agent.model.spec import ReplicaKey
from agent.model.types import AgentId, Label, Millis
from agent.state import (
    PHASE_OF,
    ClusterState,
    StackState,
    deployed_stack,
    key_of,
    rests,
    service_of,
    wants_stopped,
)

MAX_CHANGES_PER_ENTRY = 1000  # assignments; a few ports each keep the entry far below what the log takes

_ORDER: tuple[Phase, ...] = ("preparing", "services", "main", "workers", "validating")


_HostErrands: TypeAlias = Mapping[AgentId, tuple[Errand, ...]]
_NOBODY_WAITS: Mapping[Label, _HostErrands] = MappingProxyType({})


class Decision(Struct, frozen=True, kw_only=True):
    """`entries` to propose; `errands`: everything that each host has to find out now; other hosts have none.

    `waiting`: the stacks that aren't as they should be yet, with the errands of each.
    """

    entries: tuple[LedgerEntry, ...] = ()
    errands: dict[AgentId, tuple[Errand, ...]] = {}
    waiting: dict[Label, _HostErrands] = {}


def decide(
    state: ClusterState,
    facts: ClusterFacts,
    now_ms: Millis,
    *,
    only: Container[Label] | None = None,
    waiting: Mapping[Label, _HostErrands] = _NOBODY_WAITS,
) -> Decision:
    """What to do now for all stacks; one index over the assignments serves them all.

    Decide again only when everything proposed before is applied: until then the answer would be the same. `only`: the
    stacks for which it may have changed since; for the others, `waiting` is what the last decision said.
    """
    placements, reports = Placements(state), Reports(facts)
    entries: list[LedgerEntry] = []
    errands: dict[AgentId, tuple[Errand, ...]] = {}
    still: dict[Label, _HostErrands] = {}
    for name in sorted(state.stacks):
        if only is None or name in only:
            rollout = _Rollout(state, name, reports, now_ms, placements)
            entries.extend(rollout.entries())
            if not rollout.is_settled:
                still[name] = rollout.errands
        elif name in waiting:
            still[name] = waiting[name]
    for wanted in still.values():
        for host, some in wanted.items():
            errands[host] = (*errands.get(host, ()), *some)[:MAX_ERRANDS]
    return Decision(entries=tuple(entries), errands=errands, waiting=still)


class _Rollout:
    def __init__(
        self, state: ClusterState, name: Label, reports: Reports, now_ms: Millis, placements: Placements
    ) -> None:
        self._state = state
        self._stack: StackState = state.stacks[name]
        self._reports = reports
        self._facts = reports.facts
        self._now_ms = max(now_ms, state.at)
        self._placements = placements
        self._current = dict(placements.by_stack.get(name, {}))
        self._services = deployed_stack(state, self._stack).services
        self._plan = Schedule()
        self._changes: dict[ReplicaKey, Assignment] = {}
        self._judged: dict[Label, list[tuple[ReplicaKey, Progress]]] = {}
        self.errands: dict[AgentId, tuple[Errand, ...]] = {}

    @property
    def is_settled(self) -> bool:
        """Whether nothing is waited for, so that neither time nor how far hosts are makes another decision."""
        plan = self._plan
        waits = plan.assign or plan.release or self.errands or any(item.predecessor for item in self._current.values())
        return self._stack.phase in ("healthy", "stopped") and not waits

    def entries(self) -> Iterator[LedgerEntry]:
        if self._stack.removing:
            removal = Removal(self._state, self._stack, self._facts)
            yield from self._assign((), removal.let_go(self._current))
            if not self._current and removal.is_over:
                yield self._entry((), ())
            return
        self._plan = schedule(self._state, self._stack.name, self._facts, self._placements)
        self._changes = {key_of(assignment): assignment for assignment in self._plan.assign}
        yield from self._assign(self._arrived(), ())
        if self._stack.phase in _ORDER:
            yield from self._roll()
        elif self._stack.phase == "failed":
            yield from self._mend()
        else:
            leaving = self._leaving()
            rest = [assignment for key, assignment in self._with_room().items() if key not in leaving]
            yield from self._assign(
                [*rest, *(self._changes[key] for key in sorted(self._next_out(leaving)))], self._plan.release
            )

    def _roll(self) -> Iterator[LedgerEntry]:
        """Forward to healthy: work on the first class that isn't done; the ones after it wait."""
        if self._stack.phase == "preparing":
            prepared = self._prepared()
            if prepared.verdict == "failed":
                yield self._phase("failed", f"preparation: {prepared.reason}; {self._unprepared()}")
            if prepared.verdict != "done":
                return
        early = {key for key in self._with_room() if self._undisturbed(key)}
        for role in ROLES:
            names = [name for name, service in sorted(self._services.items()) if service.role == role]
            reason = self._failure(names)
            if reason:
                yield self._phase("failed", with_note(reason, self._returning()))
                return
            if not self._done(names):
                if self._before(PHASE_OF[role]):
                    yield self._phase(PHASE_OF[role])
                allowed = early.union(*(self._allowed(name) for name in names))
                yield from self._assign((self._changes[key] for key in sorted(allowed)), self._plan.release)
                return
        if self._plan.release:
            yield from self._assign((), self._plan.release)
            return
        validated = self._validated()
        if self._before("validating"):
            yield self._phase("validating")
        elif validated.verdict == "failed":
            yield self._phase("failed", validated.reason + self._returning())
        elif validated.verdict == "done":
            yield self._phase(self._end())

    def _prepared(self) -> Progress:
        """Whether every host is ready for what it will start; where nothing is started, none has to be."""
        placeless = [key for key in self._plan.pending if self._waits_for_host(key)]
        if placeless:
            hopeless = [key for key in placeless if key in self._plan.never]
            late = deadline_passed(self._stack, self._facts, self._now_ms, PLACE_DEADLINE_MS)
            key = (hopeless or placeless)[0]
            reason = f"{key.service}.{key.slot} has no host: {self._plan.pending[key]}"
            return Progress(verdict="failed" if hopeless or late else "working", reason=reason)
        starts = [change for key, change in sorted(self._changes.items()) if self._starts(key)]
        held = [item for key, item in sorted(self._current.items()) if key.service in self._stack.held]
        asked = preparations(self._stack, [*starts, *(item for item in held if key_of(item) not in self._changes)])
        self.errands.update(asked)
        return judge_preparation(self._stack, self._state.members, asked, self._reports, self._now_ms)

    def _unprepared(self) -> str:
        """What becomes of a change that hosts aren't ready for; `_mend` starts the replicas that a
        proven stack lacks.
        """
        if self._stack.proven and self._changes.keys() - self._current.keys():
            return "what is missing is started all the same, where that works"
        return "nothing was changed"

    def _waits_for_host(self, key: ReplicaKey) -> bool:
        """Whether this change is what can't be placed; a replica that it leaves alone may have been so before."""
        current = self._current.get(key)
        if wants_stopped(self._stack, key.service):
            return False
        generation = self._stack.generations.get(key.service, 0)
        return current is None or (current.instruction, current.generation) != (self._stack.deployed, generation)

    def _starts(self, key: ReplicaKey) -> bool:
        """Whether a change makes another container or process, and not just another pointer."""
        if wants_stopped(self._stack, key.service):
            return False
        current = self._current.get(key)
        stays = current is not None and current.host == self._changes[key].host
        return key.service in self._stack.held or not (stays and self._undisturbed(key))

    def _validated(self) -> Progress:
        """Whether hosts reach what runs: requests go round all its replicas, from other hosts, and each answers."""
        main = next(
            (item.host for key, item in sorted(self._current.items()) if self._services[key.service].role == "main"),
            None,
        )
        visits = [
            visit
            for key, item in sorted(self._current.items())
            if self._runs(key, item) and (visit := visit_of(self._services[key.service], item, main)) is not None
        ]
        hosts = [
            member.id
            for member in sorted(self._state.members.values(), key=lambda member: member.name)
            if may_be_asked(self._facts, member.id)
        ]
        asked = reaching(self._stack, visits, hosts)
        self.errands.update(asked)
        return judge_validation(self._stack, self._state.members, asked, visits, self._reports, self._now_ms)

    def _runs(self, key: ReplicaKey, assignment: Assignment) -> bool:
        """Whether the replica runs; one that ended well isn't asked any more."""
        seen = self._reports.observed(assignment)
        return seen is not None and seen.state == "healthy" and not wants_stopped(self._stack, key.service)

    def _mend(self) -> Iterator[LedgerEntry]:
        """After a failure: go back if there is something to go back to, else keep what runs and replace nothing."""
        returned = self._stack.deployed == self._stack.previous
        leaving = self._leaving()
        out = self._next_out(leaving)
        allowed = [
            assignment
            for key, assignment in self._with_room().items()
            if key in out
            or (returned and key not in leaving)
            or self._undisturbed(key)
            or (self._stack.proven and key not in self._current)
        ]
        if allowed or self._plan.release:
            yield from self._assign(allowed, self._plan.release)
        elif not returned and self._done(list(self._services)) and self._validated().verdict == "done":
            yield self._phase(self._end())

    def _undisturbed(self, key: ReplicaKey) -> bool:
        """Whether a change ends no running container: another pointer, a port it couldn't have, a host that is lost."""
        change, current = self._changes[key], self._current.get(key)
        if current is None or current.generation != change.generation:
            return False
        before = service_of(self._state, current)
        stays = change.host == current.host or self._facts.of(current.host).lost
        return before is not None and stays and same_container(before, self._services[key.service])

    def _arrived(self) -> Iterator[Assignment]:
        """The replicas that no longer need their predecessor: they are healthy themselves, or aren't to run.

        If one is to move on, that is for the next decision: it is then its own successor's predecessor.
        """
        moving = {key: item for key, item in self._current.items() if item.predecessor is not None}
        for key, item in sorted(moving.items()):
            generation = self._stack.generations.get(key.service, 0)
            asked = (item.instruction, item.generation) == (self._stack.deployed, generation)
            changed = key in self._changes and self._changes[key].host == item.host
            if not asked or changed or key in self._plan.release:
                continue
            if rests(self._stack, key.service) or self._judge(item).verdict == "done":
                self._changes.pop(key, None)
                yield replace(item, predecessor=None)

    def _leaving(self) -> set[ReplicaKey]:
        """Replicas that leave a drained host with the container that they have there."""
        return {
            key
            for key in self._changes
            if (current := self._current.get(key)) is not None
            and current.host != self._changes[key].host
            and self._facts.of(current.host).drained
            and not self._facts.of(current.host).lost
        }

    def _next_out(self, leaving: set[ReplicaKey]) -> set[ReplicaKey]:
        """Which of them leave now: one of each service, while all its others are as they should be; an unhealthy one
        first.

        It leaves once its next host is ready: an image that takes minutes to pull, or that can't be had there, must not
        cost a running replica.
        """
        out: set[ReplicaKey] = set()
        next_ones: list[Assignment] = []
        for name in sorted({key.service for key in leaving}):
            going = sorted(key for key in leaving if key.service == name and key not in self._plan.later)
            if rests(self._stack, name):
                out.update(going)
            elif going and all(key in leaving for key in self._changes if key.service == name) and self._settled(name):
                first = min(going, key=lambda key: (self._judge(self._current[key]).verdict == "done", key))
                next_ones.append(self._changes[first])
        asked = preparations(self._stack, next_ones)
        self.errands.update(asked)
        for host, errands in asked.items():
            found = self._reports.findings(host)
            for errand in errands:
                finding = found.get(errand_id(errand))
                if finding is not None and finding.state == "ready":
                    out.update(map(key_of, errand.assignments))
        return out

    def _settled(self, name: Label) -> bool:
        """Whether every replica of the service that isn't to be changed is as it should be."""
        return all(progress.verdict == "done" for _, progress in self._progress(name))

    def _allowed(self, name: Label) -> list[ReplicaKey]:
        """Changes of a service that may be made now: new replicas all, running ones one at a time while all is well."""
        wanted = sorted(key for key in self._with_room() if key.service == name)
        if wants_stopped(self._stack, name):
            return wanted
        running = [key for key in wanted if key in self._current and not self._facts.of(self._current[key].host).lost]
        fresh = [key for key in wanted if key not in running]
        return fresh + (running[:1] if self._settled(name) else [])

    def _with_room(self) -> dict[ReplicaKey, Assignment]:
        """The changes that don't wait for others to leave their host."""
        if not self._plan.later:  # as mostly
            return self._changes
        return {key: change for key, change in self._changes.items() if key not in self._plan.later}

    def _done(self, names: Iterable[Label]) -> bool:
        wanted = set(names)
        if not self._stack.held.isdisjoint(wanted):  # their class's phase starts them
            return False
        placeless = {key for key in self._plan.pending if not wants_stopped(self._stack, key.service)}
        if any(key.service in wanted for key in (*self._changes, *placeless)):
            return False
        return all(progress.verdict == "done" for name in wanted for _, progress in self._progress(name))

    def _failure(self, names: Iterable[Label]) -> str:
        """Why the rollout can't succeed, or an empty string."""
        for name in names:
            for key, progress in self._progress(name):
                if progress.verdict == "failed":
                    host = self._state.members[self._current[key].host].name
                    return f"{key.service}.{key.slot} on {host}: {progress.reason}"
            for key, reason in self._plan.pending.items():
                late = deadline_passed(self._stack, self._facts, self._now_ms, HEALTHY_DEADLINE_MS)
                if key.service == name and late and not wants_stopped(self._stack, name):
                    return f"{key.service}.{key.slot} has no host: {reason}"
        return ""

    def _progress(self, name: Label) -> list[tuple[ReplicaKey, Progress]]:
        """Of the service's replicas that are assigned as they should be."""
        if not self._judged:
            released = set(self._plan.release)
            self._judged = {service: [] for service in self._services}
            for key, assignment in sorted(self._current.items()):
                if key not in self._changes and key not in released:
                    self._judged[key.service].append((key, self._judge(assignment)))
        return self._judged[name]

    def _judge(self, assignment: Assignment) -> Progress:
        stopped = wants_stopped(self._stack, assignment.service)
        return judge(self._stack, assignment, self._reports, self._now_ms, stopped=stopped)

    def _before(self, phase: Phase) -> bool:
        return _ORDER.index(self._stack.phase) < _ORDER.index(phase)

    def _end(self) -> Phase:
        return "stopped" if self._stack.stopped >= self._services.keys() else "healthy"

    def _returning(self) -> str:
        previous = self._stack.previous
        if previous is None or self._stack.proven or previous == self._stack.deployed:
            return ""
        return f"; back to revision {previous.revision}"

    def _phase(self, phase: Phase, reason: str = "") -> PhaseEntry:
        return PhaseEntry(
            at=self._now_ms, stack=self._stack.name, revision=self._stack.revision, phase=phase, reason=reason
        )

    def _assign(self, assign: Iterable[Assignment], release: Iterable[ReplicaKey]) -> Iterator[AssignEntry]:
        made = iter(assign)
        gone = (Slot(service=key.service, slot=key.slot) for key in release)
        while True:
            assigned = tuple(islice(made, MAX_CHANGES_PER_ENTRY))
            released = tuple(islice(gone, MAX_CHANGES_PER_ENTRY - len(assigned)))
            if not assigned and not released:
                return
            yield self._entry(assigned, released)

    def _entry(self, assign: tuple[Assignment, ...], release: tuple[Slot, ...]) -> AssignEntry:
        return AssignEntry(
            at=self._now_ms, stack=self._stack.name, revision=self._stack.revision, assign=assign, release=release
        )
