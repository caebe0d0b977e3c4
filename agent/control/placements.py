"""What the hosts hold by the ledger: replicas, ports and reserved resources."""

from __future__ import annotations

from collections import defaultdict
from typing import TypeAlias

from agent.model.cluster import Member
from agent.model.ledger import Assignment
from agent.model.spec import ReplicaKey
from agent.model.stack import Resources, Service
from agent.model.types import AgentId, Label
from agent.state import PREDECESSOR_LEVEL, ClusterState, key_of, service_of

PortKey: TypeAlias = tuple[str, int]
"""(protocol, host port)"""

_NOTHING = Resources()


class Placements:
    """An index over a state's assignments, with planned ones on top.

    A port stays held by what the ledger says *and* by what is planned, so that any part of a plan can be carried out
    without two replicas on one port. Resources are counted where they are planned; what is used elsewhere until then is
    `going`. Meant to live for one decision; what hosts hold is counted in one pass, and only when something is to be
    placed, which is rare.
    """

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self.by_stack: dict[Label, dict[ReplicaKey, Assignment]] = defaultdict(dict)
        self._at: dict[ReplicaKey, dict[AgentId, Resources]] = {}
        self._going: dict[AgentId, dict[ReplicaKey, Resources]] = defaultdict(dict)
        self._holders: dict[AgentId, dict[PortKey, set[ReplicaKey]]] = defaultdict(lambda: defaultdict(set))
        self._memory_mib: dict[AgentId, int] = defaultdict(int)
        self._cpu_millis: dict[AgentId, int] = defaultdict(int)
        self._replicas: dict[AgentId, int] = defaultdict(int)
        self._counted = False
        for key, assignment in state.assignments.items():
            self.by_stack[key.stack][key] = assignment

    def _count_all(self) -> None:
        if self._counted:
            return
        self._counted = True
        for assignment in self._state.assignments.values():
            service = service_of(self._state, assignment)
            before = assignment.predecessor
            resources = service.resources if service is not None else _NOTHING
            self._count(assignment, resources, before.host if before is not None else None)

    def plan(self, assignment: Assignment, resources: Resources) -> None:
        """Count an assignment at its new place, no longer at its old one; its old ports stay held.

        What it has at its old place is `going`: used until this is carried out and its predecessor is gone.
        """
        self._count_all()
        key = key_of(assignment)
        was = self._at.get(key, {})
        self._count(assignment, resources)
        for host, had in was.items():
            kept = resources if host == assignment.host else _NOTHING
            more = Resources(
                memory_mib=max(had.memory_mib - kept.memory_mib, 0), cpu_millis=max(had.cpu_millis - kept.cpu_millis, 0)
            )
            if more != _NOTHING:
                self._going[host][key] = more

    def _count(self, assignment: Assignment, resources: Resources, also_on: AgentId | None = None) -> None:
        """`also_on`: the predecessor's host, where it runs until its successor is healthy."""
        key = key_of(assignment)
        self._release(key)
        hosts = (assignment.host,) if also_on is None else (assignment.host, also_on)
        self._at[key] = dict.fromkeys(hosts, resources)
        for host in self._at[key]:
            self._memory_mib[host] += resources.memory_mib
            self._cpu_millis[host] += resources.cpu_millis
            self._replicas[host] += 1
        before = assignment.predecessor
        for at in (assignment, before) if before is not None else (assignment,):
            for port in at.ports:
                self._holders[at.host][port.protocol, port.host_port].add(key)

    def _release(self, key: ReplicaKey) -> None:
        """No longer count a replica; its ports stay held until the ledger says that it is gone."""
        for host, resources in self._at.pop(key, {}).items():
            self._memory_mib[host] -= resources.memory_mib
            self._cpu_millis[host] -= resources.cpu_millis
            self._replicas[host] -= 1

    def free_for(self, key: ReplicaKey, host: AgentId, port: PortKey) -> bool:
        """Whether no other replica holds the port."""
        self._count_all()
        holders = self._holders[host].get(port)
        return not holders or holders == {key}

    def memory_mib(self, host: AgentId, but: ReplicaKey | None = None) -> int:
        """What is reserved there, not counting the replica `but`."""
        self._count_all()
        return self._memory_mib[host] - self._own(host, but).memory_mib

    def cpu_millis(self, host: AgentId, but: ReplicaKey | None = None) -> int:
        """What is reserved there, not counting the replica `but`."""
        self._count_all()
        return self._cpu_millis[host] - self._own(host, but).cpu_millis

    def going(self, host: AgentId, but: ReplicaKey | None = None) -> Resources:
        """What is still used there by replicas that are planned elsewhere, or with less; not counting the replica
        `but`.
        """
        leaving = [resources for key, resources in self._going[host].items() if key != but]
        return Resources(
            memory_mib=sum(each.memory_mib for each in leaving), cpu_millis=sum(each.cpu_millis for each in leaving)
        )

    def replicas(self, host: AgentId) -> int:
        """How many replicas of all stacks are there."""
        self._count_all()
        return self._replicas[host]

    def _own(self, host: AgentId, key: ReplicaKey | None) -> Resources:
        return self._at.get(key, {}).get(host, _NOTHING) if key is not None else _NOTHING


def bound_reason(service: Service, member: Member) -> str:
    """What keeps a replica on its host, or an empty string. A `global` one goes and comes with its host."""
    if service.replicas == "global":
        return ""
    if service.host is not None:
        return f"pinned to {member.name}"
    return f"its volume is on {member.name}" if bound_to_host(service) else ""


def lone_reason(state: ClusterState, service: Service, host: Member) -> str:
    """Why a replica that leaves its host has to end before its successor starts, or an empty string.

    Otherwise both run for a moment, so that no request is refused meanwhile.
    """
    if service.move_order == "stop-first":
        return "its plan says stop-first"
    for volume in service.volumes:
        if volume.source.startswith("/") and not volume.read_only:
            return f"it writes to {volume.source}, which hosts may share"
    if service.runtime == "docker" and host.address.startswith("127."):
        return "hosts on one machine share its Docker, where names are unique"
    if state.level < PREDECESSOR_LEVEL:
        return "not all members have told that their version can keep it until then"
    return ""


def bound_to_host(service: Service) -> bool:
    """Whether a placed replica can't leave its host: a named volume stays where it is, so its replica does too.

    Sources that begin with `.` or `/` are paths, not names.
    """
    return any(not volume.source.startswith((".", "/")) for volume in service.volumes)
