"""A cluster without machines: hosts that do what the ledger says, as far as the test lets them."""

from __future__ import annotations

from collections.abc import Iterable

from agent.control import ClusterFacts, HostFacts, step
from agent.model.cluster import Member
from agent.model.ledger import AssignEntry, Assignment, LedgerEntry
from agent.model.report import (
    HostReport,
    HostResources,
    ObservedReplica,
    PortConflict,
    ReplicaState,
    RuntimeInfo,
)
from agent.model.spec import ReplicaKey
from agent.model.status import HostState
from agent.model.types import AgentId, Label
from agent.state import ClusterState, service_of, wants_stopped
from tests.support.ledger import Ledger

DOCKER = (RuntimeInfo(name="docker", available=True), RuntimeInfo(name="process", available=True))


def report(
    host: AgentId,
    *,
    applied: int = 0,
    memory_mib: int = 8192,
    cpu_millis: int = 8000,
    runtimes: tuple[RuntimeInfo, ...] = DOCKER,
    replicas: Iterable[ObservedReplica] = (),
    busy: Iterable[PortConflict] = (),
    linked: Iterable[AgentId] = (),
) -> HostReport:
    return HostReport(
        host=host,
        boot=1,
        sequence=1,
        at=0,
        applied=applied,
        agent_version="1",
        runtimes=runtimes,
        resources=HostResources(memory_mib=memory_mib, cpu_millis=cpu_millis),
        replicas=tuple(replicas),
        busy_ports=tuple(busy),
        linked=tuple(linked),
    )


def all_well(state: ClusterState, **reports: HostReport) -> ClusterFacts:
    """Every member alive and reporting; `reports` by host name replace the plain ones."""
    hosts = {
        item.id: HostFacts(liveness="alive", report=reports.get(item.name) or report(item.id, applied=state.index))
        for item in state.members.values()
    }
    return ClusterFacts(hosts=hosts)


def seen(assignment: Assignment, state: ReplicaState, **more: object) -> ObservedReplica:
    return ObservedReplica(
        stack=assignment.stack,
        service=assignment.service,
        slot=assignment.slot,
        state=state,
        revision=assignment.instruction.revision,
        spec_hash="x",
        **more,  # type: ignore[arg-type]  # any field of it
    )


class World:
    """`ledger` and its hosts. What runs on a host is what its assignments say; the test sets what is wrong.

    `sick`: (service, command) → state of replicas that don't get healthy. `dead`, `silent` (never reported): names of
    hosts. `taken`: (host name, port) that something foreign listens on. `history`: every entry that `step` proposed.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.sick: dict[tuple[Label, tuple[str, ...]], ReplicaState] = {}
        self.dead: dict[str, HostState] = {}
        self.silent: set[str] = set()
        self.taken: set[tuple[str, int]] = set()
        self.memory: dict[str, int] = {}
        self.history: list[LedgerEntry] = []

    @property
    def state(self) -> ClusterState:
        return self.ledger.state

    def facts(self) -> ClusterFacts:
        return ClusterFacts(hosts={item.id: self._host(item) for item in self.state.members.values()})

    def step(self, stack: str = "shop") -> tuple[LedgerEntry, ...]:
        """One decision, applied; hosts follow before the next."""
        entries = step(self.state, stack, self.facts(), self.ledger.now_ms)
        self.history.extend(entries)
        for applied in self.ledger.propose(*entries):
            assert not applied.ignored, applied.ignored
        return entries

    def settle(self, stack: str = "shop", steps: int = 200) -> None:
        """Until nothing is left to propose."""
        for _ in range(steps):
            self.ledger.now_ms += 10
            if not self.step(stack):
                return
        raise AssertionError(f"still proposing after {steps} steps: {self.history[-3:]}")

    def later(self, seconds: float) -> None:
        self.ledger.now_ms += int(seconds * 1000)

    def phase(self, stack: str = "shop") -> str:
        return self.state.stacks[stack].phase

    def hosts_of(self, service: str, stack: str = "shop") -> dict[int, str]:
        """slot → host name."""
        return {
            key.slot: self.state.members[item.host].name
            for key, item in sorted(self.state.assignments.items())
            if (key.stack, key.service) == (stack, service)
        }

    def batches(self) -> list[list[ReplicaKey]]:
        """The replicas of each AssignEntry so far."""
        return [
            [ReplicaKey(stack=entry.stack, service=item.service, slot=item.slot) for item in entry.assign]
            for entry in self.history
            if isinstance(entry, AssignEntry)
        ]

    def _host(self, member: Member) -> HostFacts:
        if member.name in self.dead:
            return HostFacts(liveness=self.dead[member.name], lost=True)
        if member.name in self.silent:
            return HostFacts(liveness="unknown", awaited=True)
        mine = [item for item in self.state.assignments.values() if item.host == member.id]
        busy = [conflict for item in mine for conflict in self._conflicts(member, item)]
        told = report(
            member.id,
            applied=self.state.index,
            memory_mib=self.memory.get(member.name, 8192),
            replicas=[one for item in mine if (one := self._replica(item, busy)) is not None],
            busy=busy,
        )
        return HostFacts(liveness="alive", report=told)

    def _conflicts(self, member: Member, item: Assignment) -> list[PortConflict]:
        return [
            PortConflict(stack=item.stack, service=item.service, slot=item.slot, host_port=port.host_port)
            for port in item.ports
            if (member.name, port.host_port) in self.taken
        ]

    def _replica(self, item: Assignment, busy: list[PortConflict]) -> ObservedReplica | None:
        stack = self.state.stacks[item.stack]
        if stack.removing:
            return None
        if wants_stopped(stack, item.service):
            return seen(item, "stopped")
        if any((one.stack, one.service, one.slot) == (item.stack, item.service, item.slot) for one in busy):
            return seen(item, "backoff", reason="port is taken")
        service = service_of(self.state, item)
        assert service is not None
        return seen(item, self.sick.get((item.service, service.command), "healthy"), reason="")
