"""What of a stack that is being removed may be released, by what its hosts report. Pure; coordinator only.

A stack goes with its last assignment (`agent.state.stacks.forget_removed`), or by an entry of its own if it has none.
Until then its ports and volumes aren't free, and its hosts know what they have to stop and delete.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from agent.control.facts import ClusterFacts, HostFacts
from agent.model.ledger import Assignment
from agent.model.report import ObservedReplica
from agent.model.spec import ReplicaKey
from agent.model.stack import Service
from agent.model.types import AgentId
from agent.state import REMOVAL_LEVEL, ClusterState, StackState, hosts_of, service_of


class Removal(Struct, frozen=True):
    """One stack that is being removed; `facts` are the coordinator's."""

    state: ClusterState
    stack: StackState
    facts: ClusterFacts

    def let_go(self, assigned: Mapping[ReplicaKey, Assignment]) -> list[ReplicaKey]:
        """The assignments to release now; `assigned` are all of the stack.

        The last one stays while something that isn't assigned any more is still ending.
        """
        gone = self.gone(assigned)
        if len(gone) == len(assigned) and self._may_be_ending(assigned):
            return gone[:-1]
        return gone

    @property
    def is_over(self) -> bool:
        """For a stack without assignments: whether its hosts have nothing of it."""
        return self.state.level >= REMOVAL_LEVEL and not self._may_be_ending(())

    def gone(self, assigned: Mapping[ReplicaKey, Assignment]) -> list[ReplicaKey]:
        """The assignments whose replicas are gone by their hosts' reports, or whose hosts are lost and can't report."""
        there = {(found.service, found.slot) for _, found in self._reported()}
        return [
            key
            for key, item in assigned.items()
            if (key.service, key.slot) not in there and all(self._is_done(host, item) for host in hosts_of(item))
        ]

    @property
    def unheard(self) -> list[AgentId]:
        """Hosts that may have something of it by their reports, apart from what is assigned to them."""
        return [id_ for id_, host in self.facts.hosts.items() if host.awaited or self._may_have_volumes(host)]

    def holds(self, host: AgentId, assignment: Assignment) -> str:
        """Why a replica that its host (which isn't lost) doesn't report isn't known to be gone there."""
        report, service = self.facts.of(host).report, service_of(self.state, assignment)
        if report is None or report.applied < self.stack.moved_index:
            return "its host hasn't heard of it yet"
        # An agent that has just started and whose engine doesn't answer has seen nothing yet, and so reports nothing.
        away = {runtime.name for runtime in report.runtimes if not runtime.available}
        if service is not None and service.runtime in away:
            return f"the {service.runtime} runtime there doesn't answer"
        return ""

    def unassigned(self, assigned: Iterable[ReplicaKey]) -> Iterator[tuple[AgentId, ObservedReplica]]:
        """What hosts still report of slots that were given up before the removal."""
        known = {(key.service, key.slot) for key in assigned}
        for host, found in self._reported():
            if (found.service, found.slot) not in known:
                yield host, found

    def _may_be_ending(self, assigned: Iterable[ReplicaKey]) -> bool:
        return bool(self.unheard) or next(self.unassigned(assigned), None) is not None

    def _may_have_volumes(self, host: HostFacts) -> bool:
        """Whether the host doesn't know yet that volumes are to be deleted: slots that were given up leave theirs
        behind.
        """
        known = host.lost or host.report is None or host.report.applied >= self.stack.moved_index
        return self.stack.delete_volumes and not known

    def _reported(self) -> Iterator[tuple[AgentId, ObservedReplica]]:
        for host, facts in self.facts.hosts.items():
            if facts.report is not None and not facts.lost:
                yield from ((host, found) for found in facts.report.replicas if found.stack == self.stack.name)

    def _is_done(self, host: AgentId, assignment: Assignment) -> bool:
        """Whether what the host doesn't report of the replica isn't there, or the host can't report any more.

        A lost host isn't released before it has deleted the volumes that it has to delete: once the stack is gone from
        the ledger, nothing would tell it when it comes back.
        """
        if self.facts.of(host).lost:
            service = service_of(self.state, assignment)
            return not (self.stack.delete_volumes and service is not None and _keeps_data(service))
        return not self.holds(host, assignment)


def _keeps_data(service: Service) -> bool:
    """Whether something that `delete_volumes` deletes is left of a replica: processes have their working directory."""
    return service.runtime == "process" or any(not volume.source.startswith("/") for volume in service.volumes)
