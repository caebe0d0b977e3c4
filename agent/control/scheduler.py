"""Which replica of a stack belongs on which host, with which ports. Pure and deterministic; coordinator only.

Filters with a written reason each (pin, labels, liveness, drain, runtime, resources, ports), then spread over region,
zone and host, then the least reserved. What is placed stays placed: a replica moves only when its host is lost, drained
or no longer allowed. *Unknown is not unhealthy*: a host that hasn't reported to this coordinator yet is waited for.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict

from msgspec import UNSET, Struct
from msgspec.structs import replace

from agent.control.facts import ClusterFacts
from agent.control.fit import (
    MAX_REASONS_SHOWN,
    conflicts,
    constraint_reason,
    fit,
    refusal,
    state_reason,
    unfit_for_good,
)
from agent.control.placements import Placements, bound_reason, bound_to_host, lone_reason
from agent.control.pool import Pool
from agent.model.cluster import Member
from agent.model.ledger import AssignedPort, Assignment, Predecessor
from agent.model.spec import ReplicaKey
from agent.model.stack import Role, Service
from agent.model.types import AgentId, Label
from agent.state import (
    ClusterState,
    StackState,
    deployed_stack,
    predecessor_of,
    rests,
    satisfies,
    service_of,
    wanted_replicas,
)

ROLES: tuple[Role, ...] = ("service", "main", "worker")


class Schedule(Struct, frozen=True, kw_only=True):
    """How a stack's assignments must change to be what its instructions say.

    `assign`: made or replaced; `release`: no longer wanted; any part of them can be carried out on its own. `later`:
    those of `assign` that have no room yet, where what is to leave goes on until its successor is healthy; what they
    wait for isn't among them. `pending`: why a replica has no host, or can't leave one that is lost ("n3: 512 MiB
    wanted, 300 MiB free"); `never`: those of them that no member can take, whatever comes back or free. `staying`: why
    one goes on where it is, though its host is drained.
    """

    assign: tuple[Assignment, ...] = ()
    later: frozenset[ReplicaKey] = frozenset()
    release: tuple[ReplicaKey, ...] = ()
    pending: dict[ReplicaKey, str] = {}
    never: frozenset[ReplicaKey] = frozenset()
    staying: dict[ReplicaKey, str] = {}


def schedule(state: ClusterState, stack: Label, facts: ClusterFacts, placements: Placements | None = None) -> Schedule:
    """What must change for the stack, which must exist. `placements` may be shared by all stacks of one decision."""
    return _Planner(state, state.stacks[stack], facts, placements or Placements(state)).plan()


def same_container(one: Service, other: Service) -> bool:
    """Whether a replica of the one runs as one of the other does: they differ in nothing but where and how many."""
    return _as_it_runs(one) == _as_it_runs(other)


def _as_it_runs(service: Service) -> Service:
    ports = tuple(replace(port, validation="all") for port in service.ports)
    return replace(service, host=None, labels={}, replicas=1, role="service", ports=ports, move_order=UNSET)


class _Planner:
    def __init__(self, state: ClusterState, stack: StackState, facts: ClusterFacts, placements: Placements) -> None:
        self._state = state
        self._stack = stack
        self._facts = facts
        self._placements = placements
        self._current = placements.by_stack.get(stack.name, {})
        self._slots: dict[Label, dict[int, Assignment]] = defaultdict(dict)
        for key, assignment in self._current.items():
            self._slots[key.service][key.slot] = assignment
        self._assign: list[Assignment] = []
        self._later: set[ReplicaKey] = set()
        self._pending: dict[ReplicaKey, str] = {}
        self._staying: dict[ReplicaKey, str] = {}
        self._kept: set[ReplicaKey] = set()

    def _hosts(self) -> list[Member]:
        return sorted(self._state.members.values(), key=lambda member: member.name)

    def plan(self) -> Schedule:
        if not self._stack.removing:
            services = deployed_stack(self._state, self._stack).services
            for name in sorted(services, key=lambda name: (ROLES.index(services[name].role), name)):
                self._service(name, services[name])
        release = sorted(self._current.keys() - self._kept)
        return Schedule(
            assign=tuple(self._assign),
            later=frozenset(self._later),
            release=tuple(release),
            pending=self._pending,
            never=self._never(),
            staying=self._staying,
        )

    def _service(self, name: Label, service: Service) -> None:
        wanted = wanted_replicas(self._stack, name, service)
        slots = self._slots.get(name, {})
        if wanted == "global":
            self._everywhere(name, service, slots)
            return
        spread = Counter[AgentId]()
        moving: list[ReplicaKey] = []
        for slot in range(1, wanted + 1):
            key = self._key(name, slot)
            self._kept.add(key)
            current = slots.get(slot)
            if current is not None and self._keep(key, service, current):
                spread[current.host] += 1
            else:
                moving.append(key)
        if moving:
            self._place(service, moving, spread)

    def _everywhere(self, name: Label, service: Service, slots: dict[int, Assignment]) -> None:
        """`global`: one replica on every host that fits, each with a slot number that it keeps while it is there.

        A drained host doesn't fit, but the last replica stays on one rather than having none.
        """
        by_host = {item.host: slot for slot, item in slots.items()}
        free = (slot for slot in itertools.count(1) if slot not in slots)
        reasons: dict[Label, str] = {}
        for member in self._hosts():
            host = self._facts.of(member.id)
            if not satisfies(member, service):
                continue
            slot = by_host.get(member.id)
            if slot is not None and host.drained and not host.lost:
                reasons[member.name] = state_reason(host)
                continue
            if slot is not None and not host.lost and self._keep(self._key(name, slot), service, slots[slot]):
                self._kept.add(self._key(name, slot))
                continue
            found = fit(self._key(name, 0), service, member, self._facts, self._placements)
            if reason := state_reason(host) or found.reason:
                reasons[member.name] = reason
                continue
            key = self._key(name, next(free))
            self._kept.add(key)
            self._add(key, service, member.id, found.ports)
        if any(key.service == name for key in self._kept):
            return
        nowhere = self._nowhere(service, reasons)
        left = min((slot for host, slot in by_host.items() if self._evacuates(service, slots[slot])), default=None)
        if left is None or not self._remain(self._key(name, left), service, slots[left], nowhere):
            self._pending[self._key(name, 1)] = nowhere
            return
        self._kept.add(self._key(name, left))

    def _keep(self, key: ReplicaKey, service: Service, current: Assignment) -> bool:
        """Leave the replica on its host if it may stay there, with pointer and ports brought up to date."""
        member = self._state.members[current.host]
        host = self._facts.of(member.id)
        if not satisfies(member, service):
            return False
        if host.lost:
            return self._stranded(key, service, member)
        if host.drained:
            bound = bound_reason(service, member)
            return bool(bound) and self._remain(key, service, current, bound)
        return self._update(key, service, current)

    def _evacuates(self, service: Service, current: Assignment) -> bool:
        """Whether the replica may be where it is but should leave: its host is drained."""
        host = self._facts.of(current.host)
        return host.drained and not host.lost and satisfies(self._state.members[current.host], service)

    def _remain(self, key: ReplicaKey, service: Service, current: Assignment, reason: str) -> bool:
        """Leave the replica on a drained host: better there than nowhere. Without `reason` it leaves once more is
        known.
        """
        if not self._update(key, service, current):
            return False
        if reason and key not in self._pending:
            self._staying[key] = reason
        return True

    def _update(self, key: ReplicaKey, service: Service, current: Assignment) -> bool:
        """Bring the replica's pointer and ports up to date where it is; False when it can't stay for that."""
        member = self._state.members[current.host]
        host = self._facts.of(member.id)
        pointed = (current.instruction, current.generation) == (self._stack.deployed, self._generation(key))
        conflicting = not conflicts(key, host.report).isdisjoint(port.host_port for port in current.ports)
        if pointed and not conflicting:
            return True
        before = service_of(self._state, current)
        if before is not None and same_container(before, service) and not conflicting:
            self._add(key, service, current.host, current.ports)
            return True
        if host.report is None:
            self._pending[key] = f"waiting for {member.name} to report"
            return True
        found = fit(key, service, member, self._facts, self._placements, current)
        if not found.reason:
            self._add(key, service, current.host, found.ports)
            return True
        if service.host is None and not bound_to_host(service):
            return False
        self._pending[key] = f"{member.name}: {found.reason}"
        return True

    def _stranded(self, key: ReplicaKey, service: Service, member: Member) -> bool:
        """A replica on a lost host moves, unless something keeps it there."""
        if bound := bound_reason(service, member):
            self._pending[key] = f"{bound} ({self._facts.of(member.id).liveness})"
        return bool(bound)

    def _place(self, service: Service, keys: list[ReplicaKey], spread: Counter[AgentId]) -> None:
        """Place each on the best host that fits; or note the reason why none does, and leave the replica as it is."""
        allowed = [member for member in self._hosts() if satisfies(member, service)]
        # Nothing goes to a drained host, whatever it will report.
        hosts = [(member.name, self._facts.of(member.id)) for member in allowed]
        awaited = [name for name, host in hosts if host.awaited and not host.drained]
        pool = Pool(service, allowed, self._state.members, spread, self._facts, self._placements)
        for key in keys:
            found = pool.draw(key, self._current.get(key)) if not awaited else None
            if found is not None:
                self._add(key, service, *found)
                continue
            waiting = f"waiting for {_listed(awaited)} to report"
            reason = waiting if awaited else self._nowhere(service, pool.reasons)
            current = self._current.get(key)
            if current is None:
                self._pending[key] = reason
                continue
            if self._evacuates(service, current) and self._remain(key, service, current, "" if awaited else reason):
                continue
            self._pending[key] = reason
            if self._violates(service, current):
                self._kept.discard(key)

    def _never(self) -> frozenset[ReplicaKey]:
        if not self._pending:  # as mostly
            return frozenset()
        services, members = deployed_stack(self._state, self._stack).services, self._state.members.values()
        impossible = {
            name
            for name in {key.service for key in self._pending}
            if all(unfit_for_good(one, services[name], self._facts.of(one.id).report) for one in members)
        }
        return frozenset(key for key in self._pending if key.service in impossible)

    def _violates(self, service: Service, current: Assignment) -> bool:
        """Whether the deploy in force forbids the replica's place: then it leaves even if nothing else fits."""
        return current.instruction == self._stack.deployed and not satisfies(self._state.members[current.host], service)

    def _nowhere(self, service: Service, reasons: dict[Label, str]) -> str:
        """Why no host takes it, in one sentence: first the hosts that could, then those that the operator's constraints
        exclude.
        """
        if service.host is not None:
            known = any(member.name == service.host for member in self._hosts())
            return (
                f"pinned to {service.host} ({reasons.get(service.host) or ('excluded' if known else 'not a member')})"
            )
        others = (member for member in self._hosts() if member.name not in reasons)
        excluded = {member.name: constraint_reason(member.name, member.labels, service) for member in others}
        return refusal((*sorted(reasons.items()), *excluded.items()))

    def _add(self, key: ReplicaKey, service: Service, host: AgentId, ports: tuple[AssignedPort, ...]) -> None:
        assignment = Assignment(
            stack=key.stack,
            service=key.service,
            slot=key.slot,
            host=host,
            instruction=self._stack.deployed,
            ports=ports,
            generation=self._generation(key),
            predecessor=self._predecessor(key, service, host),
        )
        self._placements.plan(assignment, service.resources)
        self._assign.append(assignment)
        if not self._stays_as_it_is(key, service, host) and not self._has_room_now(key, host):
            self._later.add(key)

    def _stays_as_it_is(self, key: ReplicaKey, service: Service, host: AgentId) -> bool:
        current = self._current.get(key)
        before = service_of(self._state, current) if current is not None and current.host == host else None
        return before is not None and same_container(before, service)

    def _has_room_now(self, key: ReplicaKey, host: AgentId) -> bool:
        """Whether it fits beside what is planned there and what is about to leave."""
        report, going = self._facts.of(host).report, self._placements.going(host, key)
        if report is None or not (going.memory_mib or going.cpu_millis):
            return True
        return (
            self._placements.memory_mib(host) + going.memory_mib <= report.resources.memory_mib
            and self._placements.cpu_millis(host) + going.cpu_millis <= report.resources.cpu_millis
        )

    def _predecessor(self, key: ReplicaKey, service: Service, host: AgentId) -> Predecessor | None:
        """The predecessor of a replica that moves to `host`: what runs of it now, unless only one may run.

        If it isn't healthy yet, that is its own predecessor, rather than where it is.
        """
        current = self._current.get(key)
        if current is None or rests(self._stack, key.service):
            return None
        if current.host == host:
            return current.predecessor
        for before in (current.predecessor, predecessor_of(current)):
            if before is not None and not self._facts.of(before.host).lost:
                lone = lone_reason(self._state, service, self._state.members[before.host])
                return None if lone or before.host == host else before
        return None

    def _generation(self, key: ReplicaKey) -> int:
        return self._stack.generations.get(key.service, 0)

    def _key(self, service: Label, slot: int) -> ReplicaKey:
        return ReplicaKey(stack=self._stack.name, service=service, slot=slot)


def _listed(names: list[Label]) -> str:
    more = len(names) - MAX_REASONS_SHOWN
    return ", ".join(names[:MAX_REASONS_SHOWN]) + (f" and {more} more" if more > 0 else "")
