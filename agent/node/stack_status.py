"""Stacks, services and replicas for people: what the ledger wants beside what the hosts report. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct
from msgspec.structs import replace

from agent.control.facts import ClusterFacts
from agent.control.placements import bound_reason, lone_reason
from agent.control.removal import Removal
from agent.control.scheduler import Schedule, schedule
from agent.formats.timestamps import rfc3339
from agent.host.facts import container_name
from agent.model.errand import ErrandKind
from agent.model.ledger import Assignment, Phase
from agent.model.reason import with_note
from agent.model.report import ObservedReplica, ReplicaState
from agent.model.spec import ReplicaKey
from agent.model.stack import Service
from agent.model.status import HostCheck, ImageStatus, ReplicaStatus, ServiceStatus, StackStatus
from agent.model.types import AgentId, Label
from agent.state import ClusterState, StackState, deployed_stack, key_of, service_of, wanted_replicas, wants_stopped

_CHECKED: dict[Phase, ErrandKind] = {"preparing": "prepare", "validating": "reach"}
_SETTLED: tuple[Phase, ...] = ("healthy", "failed", "stopped")


class StackViews(Struct, frozen=True):
    """The stacks of one state. `decides`: this agent coordinates, so it can say why a slot has no host."""

    state: ClusterState
    facts: ClusterFacts
    decides: bool

    def all(self) -> tuple[StackStatus, ...]:
        """Every stack, by name."""
        by_stack: dict[Label, list[Assignment]] = defaultdict(list)
        for _, assignment in sorted(self.state.assignments.items()):
            by_stack[assignment.stack].append(assignment)
        seen = self._observed()
        left = self._left(seen)
        return tuple(
            self._stack(stack, by_stack[name], seen, left) for name, stack in sorted(self.state.stacks.items())
        )

    def _observed(self) -> dict[tuple[AgentId, ReplicaKey], ObservedReplica]:
        return {
            (host, ReplicaKey(stack=item.stack, service=item.service, slot=item.slot)): item
            for host, facts in self.facts.hosts.items()
            if facts.report is not None
            for item in facts.report.replicas
        }

    def _left(self, seen: Iterable[tuple[AgentId, ReplicaKey]]) -> dict[ReplicaKey, AgentId]:
        """For each replica that moved: the host that still has some of it, by the ledger or by its own report."""
        hosts = {key: item.predecessor.host for key, item in self.state.assignments.items() if item.predecessor}
        for host, key in seen:
            placed = self.state.assignments.get(key)
            if placed is not None and placed.host != host and not self.facts.of(host).lost:
                hosts.setdefault(key, host)
        return {key: host for key, host in hosts.items() if host in self.state.members}

    def _stack(
        self,
        stack: StackState,
        assignments: list[Assignment],
        seen: dict[tuple[AgentId, ReplicaKey], ObservedReplica],
        left: Mapping[ReplicaKey, AgentId],
    ) -> StackStatus:
        planned = deployed_stack(self.state, stack).services
        by_service: dict[Label, list[Assignment]] = defaultdict(list)
        for assignment in self._left_of_removed(stack, assignments) if stack.removing else assignments:
            by_service[assignment.service].append(assignment)
        plan = self._plan(stack, planned, by_service)
        pending = self._pending(stack, plan)
        services = []
        # What a rollout is about to release is still there, and still shown.
        for name in (*planned, *sorted(by_service.keys() - planned.keys())):
            service = planned.get(name)
            wanted = 0 if service is None else _wanted(stack, name, service, len(by_service[name]))
            replicas = tuple(self._replica(stack, item, seen, plan.staying, left) for item in by_service[name])
            healthy = sum(replica.state == "healthy" for replica in replicas)
            services.append(
                ServiceStatus(
                    name=name,
                    wanted=wanted,
                    healthy=min(healthy, wanted),
                    unknown=min(sum(map(self._unheard, by_service[name])), wanted - min(healthy, wanted)),
                    replicas=replicas,
                    pending=pending.get(name, ""),
                )
            )
        return StackStatus(
            name=stack.name,
            revision=stack.revision,
            phase=stack.phase,
            reason=stack.reason or self._unheard_of_removed(stack, by_service),
            changed_by=stack.changed_by,
            changed_at=rfc3339(stack.changed_at),
            services=tuple(services),
            checks=self._checks(stack),
        )

    def _left_of_removed(self, stack: StackState, assignments: list[Assignment]) -> Iterator[Assignment]:
        """What isn't known to be gone, and what is still ending of slots that were given up before."""
        removal = Removal(self.state, stack, self.facts)
        assigned = {key_of(item): item for item in assignments}
        gone = set(removal.gone(assigned))
        yield from (item for key, item in assigned.items() if key not in gone)
        for host, found in removal.unassigned(assigned):
            yield Assignment(
                stack=stack.name,
                service=found.service,
                slot=found.slot,
                host=host,
                instruction=replace(stack.deployed, revision=found.revision),
                ports=found.ports,
            )

    def _unheard_of_removed(self, stack: StackState, left: Mapping[Label, list[Assignment]]) -> str:
        """The hosts that a removed stack waits for although nothing is left there, as far as is known."""
        if not stack.removing or any(left.values()):
            return ""
        hosts = Removal(self.state, stack, self.facts).unheard
        names = sorted(self.state.members[host].name for host in hosts if host in self.state.members)
        return f"waiting to hear from {', '.join(names)}" if names else ""

    def _checks(self, stack: StackState) -> tuple[HostCheck, ...]:
        """By host; what is left in reports of a rollout that is over is ignored."""
        kind = _CHECKED.get(stack.phase)
        if stack.phase in _SETTLED and any(facts.drained for facts in self.facts.hosts.values()):
            kind = "prepare"
        found = [
            HostCheck(
                host=self.state.members[host].name if host in self.state.members else host,
                kind=finding.kind,
                service=finding.service,
                state=finding.state,
                detail=finding.detail,
            )
            for host, facts in self.facts.hosts.items()
            if kind is not None and facts.report is not None
            for finding in facts.report.findings
            if (finding.stack, finding.kind) == (stack.name, kind)
        ]
        return tuple(sorted(found, key=lambda check: (check.host, check.service)))

    def _plan(
        self, stack: StackState, planned: dict[Label, Service], by_service: dict[Label, list[Assignment]]
    ) -> Schedule:
        """The plan, computed again for its reasons. That costs something, so only if a replica
        lacks a host to stay on.
        """
        if not self.decides or stack.removing or not any(self._unplaced(stack, planned, by_service)):
            return Schedule()
        return schedule(self.state, stack.name, self.facts)

    @staticmethod
    def _pending(stack: StackState, plan: Schedule) -> dict[Label, str]:
        """The first reason per service."""
        reasons: dict[Label, str] = {}
        for key, reason in sorted(plan.pending.items()):
            if not wants_stopped(stack, key.service):
                reasons.setdefault(key.service, reason)
        return reasons

    def _unplaced(
        self, stack: StackState, planned: dict[Label, Service], by_service: dict[Label, list[Assignment]]
    ) -> Iterator[bool]:
        for name, service in planned.items():
            placed = by_service[name]
            yield len(placed) < _wanted(stack, name, service, len(placed))
            hosts = [self.facts.of(assignment.host) for assignment in placed]
            yield any(host.lost or host.drained for host in hosts)

    def _replica(
        self,
        stack: StackState,
        assignment: Assignment,
        seen: dict[tuple[AgentId, ReplicaKey], ObservedReplica],
        staying: Mapping[ReplicaKey, str],
        left: Mapping[ReplicaKey, AgentId],
    ) -> ReplicaStatus:
        key = ReplicaKey(stack=assignment.stack, service=assignment.service, slot=assignment.slot)
        member = self.state.members.get(assignment.host)
        service = service_of(self.state, assignment)
        found = self._judged(stack, assignment, seen.get((assignment.host, key)))
        image = service.image.ref if service is not None and service.image is not None else ""
        ref = found.image_ref or image
        before = left.get(key)
        there = seen.get((before, key)) if before is not None else None
        stays = staying.get(key, "") or (bound_reason(service, member) if service and member else "")
        return ReplicaStatus(
            slot=assignment.slot,
            host=member.name if member is not None else assignment.host,
            state=found.state,
            reason=found.reason,
            container_id=found.container_id,
            container_name=found.container_name or (container_name(service, assignment) if service else ""),
            image=ImageStatus(ref=ref, id=found.image_id) if ref else None,
            revision=assignment.instruction.revision,
            ports=found.ports or assignment.ports,
            restarts=found.restarts,
            stays=stays,
            alone=lone_reason(self.state, service, member) if service and member and not stays else "",
            predecessor=self.state.members[before].name if before is not None else "",
            predecessor_state=there.state if there is not None else None,
            predecessor_ports=there.ports if there is not None else (),
        )

    def _unheard(self, assignment: Assignment) -> bool:
        """Whether nothing is known of the replica. Only a coordinator may conclude that one went with its host."""
        host = self.facts.of(assignment.host)
        return not self.decides if host.lost else host.report is None

    def _judged(self, stack: StackState, assignment: Assignment, found: ObservedReplica | None) -> ObservedReplica:
        """What is known of the replica: unknown is not unhealthy, and an old report says nothing
        about a later change.
        """
        host = self.facts.of(assignment.host)
        if host.lost or host.report is None:
            liveness = "" if host.liveness in ("alive", "unknown") else f"its host is {host.liveness}"
            if host.lost and stack.removing and stack.delete_volumes:
                liveness += "; its volumes there go once it is back"
            return _unseen(assignment, "unknown", liveness or "its host hasn't reported to this agent")
        settled = stack.phase == "healthy" or host.report.applied >= stack.moved_index
        if found is None and stack.removing:
            removal = Removal(self.state, stack, self.facts)
            return _unseen(assignment, "pending", removal.holds(assignment.host, assignment))
        if found is None or (not settled and found.revision != assignment.instruction.revision):
            return _unseen(assignment, "pending", "" if found is None else "its host hasn't begun")
        if found.state == "stopped" and assignment.service in stack.held:
            return replace(found, reason="its turn hasn't come")
        before = self.state.members.get(assignment.predecessor.host) if assignment.predecessor is not None else None
        if before is not None and found.state not in ("healthy", "stopped"):
            note = f"{before.name} runs it until it is healthy"
            return replace(found, reason=with_note(found.reason, f"; {note}") if found.reason else note)
        return found


def _unseen(assignment: Assignment, state: ReplicaState, reason: str) -> ObservedReplica:
    return ObservedReplica(
        stack=assignment.stack,
        service=assignment.service,
        slot=assignment.slot,
        state=state,
        reason=reason,
        revision=assignment.instruction.revision,
        spec_hash="",
    )


def _wanted(stack: StackState, name: Label, service: Service, placed: int) -> int:
    """How many replicas should run. `global` wants what it has: which hosts fit is only known by placing."""
    if wants_stopped(stack, name):
        return 0
    wanted = wanted_replicas(stack, name, service)
    return max(placed, 1) if wanted == "global" else wanted
