"""A cluster without machines: hosts that do what the ledger says, as far as the test lets them."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec.structs import replace

from agent.control import ClusterFacts, Decision, HostFacts, Schedule, decide, schedule
from agent.model.cluster import Member
from agent.model.errand import Errand, ErrandFinding, Prepare, Unreached, errand_id
from agent.model.ledger import AssignEntry, Assignment, LedgerEntry, LevelEntry
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
from agent.state import STATE_LEVEL, ClusterState, key_of, rests, service_of, serving
from tests.support.ledger import Ledger

DOCKER = (RuntimeInfo(name="docker", available=True), RuntimeInfo(name="process", available=True))

NO_DOCKER = (RuntimeInfo(name="docker", available=False), RuntimeInfo(name="process", available=True))


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
    findings: Iterable[ErrandFinding] = (),
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
        findings=tuple(findings),
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


def arrives(before: Assignment | None, after: Assignment) -> bool:
    """Whether the one only lets the predecessor of the other go."""
    return before is not None and before != after and replace(before, predecessor=None) == after


class World:
    """`ledger` and its hosts. What runs on a host is what its assignments say; the test sets what is wrong.

    `sick`: (service, command) → state of replicas that don't get healthy; `sick_slots`: the same by (service, slot).
    `dead`, `silent` (never reported): names of hosts. `taken`: (host name, port) that something foreign listens on.
    `stopping`: hosts that are still at it when a stack is to go; `without_engine`: their Docker doesn't answer.
    `behind`: they haven't heard of the newest entry yet.
    `ending`: what isn't assigned any more, and that its host hasn't ended yet.
    `unfit`: (host name, service) → why it can't be prepared there, `pulling`: what is still under way there;
    `blocked`: (host name, host name) where the first doesn't reach the other. `mute` hosts don't answer errands.
    `history`: every entry that `step` proposed; `arrivals`: those that only let predecessors go; `errands`: what hosts
    are asked now.
    """

    def __init__(self, ledger: Ledger, *, level: int = STATE_LEVEL) -> None:
        self.ledger = ledger
        ledger.propose(LevelEntry(at=ledger.now_ms, level=level))
        self.sick: dict[tuple[Label, tuple[str, ...]], ReplicaState] = {}
        self.sick_slots: dict[tuple[Label, int], ReplicaState] = {}
        self.dead: dict[str, HostState] = {}
        self.silent: set[str] = set()
        self.taken: set[tuple[str, int]] = set()
        self.stopping: set[str] = set()
        self.behind: set[str] = set()
        self.ending: list[Assignment] = []
        self.without_engine: set[str] = set()
        self.memory: dict[str, int] = {}
        self.unfit: dict[tuple[str, Label], str] = {}
        self.pulling: set[tuple[str, Label]] = set()
        self.blocked: set[tuple[str, str]] = set()
        self.mute: set[str] = set()
        self.history: list[LedgerEntry] = []
        self.arrivals: list[AssignEntry] = []
        self.errands: dict[AgentId, tuple[Errand, ...]] = {}
        self.refused: dict[AgentId, dict[PortConflict, None]] = {}

    @property
    def state(self) -> ClusterState:
        return self.ledger.state

    def facts(self) -> ClusterFacts:
        return ClusterFacts(hosts={item.id: self._host(item) for item in self.state.members.values()})

    def decide(self) -> Decision:
        """One decision; what hosts are asked, they answer before the next."""
        decision = decide(self.state, self.facts(), self.ledger.now_ms)
        if decision.errands != self.errands:
            self.errands = decision.errands
            self._try_ports()
            return self.decide() if not decision.entries else decision
        return decision

    def step(self) -> tuple[LedgerEntry, ...]:
        """One decision, applied; hosts follow before the next."""
        entries = self.decide().entries
        self.history.extend(entries)
        for entry in entries:
            if isinstance(entry, AssignEntry):
                known = self.state.assignments
                if entry.assign and all(arrives(known.get(key_of(item)), item) for item in entry.assign):
                    self.arrivals.append(entry)
            (applied,) = self.ledger.propose(entry)
            assert not applied.ignored, applied.ignored
        return entries

    def settle(self, steps: int = 200) -> None:
        """Until nothing is left to propose."""
        for _ in range(steps):
            self.ledger.now_ms += 10
            if not self.step():
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

    def runs(self, service: Label, stack: str = "shop") -> bool:
        """Whether its hosts are to run it."""
        return bool(self.hosts_of(service, stack)) and not rests(self.state.stacks[stack], service)

    def plan(self, stack: str = "shop") -> Schedule:
        """What the scheduler says now."""
        return schedule(self.state, stack, self.facts())

    def assigned(self) -> list[AssignEntry]:
        """The AssignEntries so far."""
        return [entry for entry in self.history if isinstance(entry, AssignEntry)]

    def batches(self) -> list[list[ReplicaKey]]:
        """The replicas of each AssignEntry so far, but for those that only let their predecessors go."""
        return [[key_of(item) for item in entry.assign] for entry in self.assigned() if entry not in self.arrivals]

    def _host(self, member: Member) -> HostFacts:
        drained = member.id in self.state.drained
        if member.name in self.dead:
            return HostFacts(liveness=self.dead[member.name], lost=True, drained=drained)
        if member.name in self.silent:
            return HostFacts(liveness="unknown", awaited=True, drained=drained)
        mine = [item for item in self.state.assignments.values() if item.host == member.id]
        busy = [conflict for item in mine for conflict in self._conflicts(member, item)]
        replicas = [one for item in mine if (one := self._replica(item, busy)) is not None]
        told = report(
            member.id,
            applied=self.state.index - (member.name in self.behind),
            memory_mib=self.memory.get(member.name, 8192),
            runtimes=NO_DOCKER if member.name in self.without_engine else DOCKER,
            replicas=[*replicas, *self._left_behind(member)],
            busy=[*busy, *self.refused.get(member.id, ())],
            findings=[found for errand in self.errands.get(member.id, ()) if (found := self._find(member, errand))],
        )
        return HostFacts(liveness="alive", report=told, drained=drained)

    def _try_ports(self) -> None:
        """What preparing finds out about ports stays known for a while."""
        for host, errands in self.errands.items():
            asked = [errand for errand in errands if isinstance(errand, Prepare)]
            known = self.refused.setdefault(host, {})
            for item in (item for errand in asked for item in errand.assignments):
                known.update(dict.fromkeys(self._conflicts(self.state.members[host], item)))

    def _find(self, member: Member, errand: Errand) -> ErrandFinding | None:
        if member.name in self.mute:
            return None
        if isinstance(errand, Prepare):
            unfit = self.unfit.get((member.name, errand.service), "")
            taken = [one for item in errand.assignments for one in self._conflicts(member, item)]
            busy = taken or (member.name, errand.service) in self.pulling
            return ErrandFinding(
                errand=errand_id(errand),
                kind="prepare",
                stack=errand.stack,
                service=errand.service,
                state="failed" if unfit else "working" if busy else "ready",
                detail=unfit,
            )
        unreached = tuple(
            Unreached(service=slot.service, slot=slot.slot, port=port.host_port, reason="no answer")
            for slot in errand.slots
            for item in [self.state.assignments[ReplicaKey(stack=errand.stack, service=slot.service, slot=slot.slot)]]
            for port in item.ports
            if (member.name, self.state.members[item.host].name) in self.blocked
        )
        return ErrandFinding(
            errand=errand_id(errand),
            kind="reach",
            stack=errand.stack,
            state="failed" if unreached else "ready",
            unreached=unreached,
        )

    def _conflicts(self, member: Member, item: Assignment) -> list[PortConflict]:
        return [
            PortConflict(stack=item.stack, service=item.service, slot=item.slot, host_port=port.host_port)
            for port in item.ports
            if (member.name, port.host_port) in self.taken
        ]

    def _left_behind(self, member: Member) -> list[ObservedReplica]:
        """What moved away from the host, or was given up, and still runs there."""
        left = [seen(item, "stopping") for item in self.ending if item.host == member.id]
        for item in self.state.assignments.values():
            if serving(item).host == member.id != item.host:
                if not self.state.stacks[item.stack].removing:
                    left.append(seen(item, "healthy"))
                elif member.name in self.stopping:
                    left.append(seen(item, "stopping"))
        return left

    def _replica(self, item: Assignment, busy: list[PortConflict]) -> ObservedReplica | None:
        stack = self.state.stacks[item.stack]
        if stack.removing:
            return seen(item, "stopping") if self.state.members[item.host].name in self.stopping else None
        if rests(stack, item.service):
            return seen(item, "stopped")
        if any((one.stack, one.service, one.slot) == (item.stack, item.service, item.slot) for one in busy):
            return seen(item, "backoff", reason="port is taken")
        service = service_of(self.state, item)
        assert service is not None
        sick = self.sick.get((item.service, service.command), "healthy")
        return seen(item, self.sick_slots.get((item.service, item.slot), sick), reason="")
