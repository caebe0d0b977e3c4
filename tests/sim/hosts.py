"""The hosts of a world: what is wanted runs a little later, errands are answered; images, ports and health may fail.

A host knows nothing of the network between agents, so what it can't reach is drawn, too.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.host import Desired, HostObservation, Task
from agent.host.errands import Preparation
from agent.model.errand import ErrandFinding, Unreached
from agent.model.report import HostResources, ObservedReplica, PortConflict, ReplicaState, RuntimeInfo
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.node.effects import Examine, Reconcile
from tests.support.hosts import answer

if TYPE_CHECKING:
    from tests.sim.world import SimAgent, World

REACTS_S = 0.2  # at most, between what is wanted and what is so


@dataclass(frozen=True, slots=True)
class Running:
    """What runs of a replica: its spec, whatever is wanted meanwhile, and since when."""

    spec: ReplicaSpec
    since_s: float


@dataclass(slots=True)
class SimHost:
    """One agent's host, for one life of the agent. `runs` outlives it: containers don't end with their agent."""

    world: World
    agent: SimAgent
    wanted: Reconcile | None = None
    runs: dict[ReplicaKey, Running] = field(default_factory=dict)
    telling: bool = False
    findings: dict[str, ErrandFinding] = field(default_factory=dict)
    conflicts: dict[tuple[str, str, int], PortConflict] = field(default_factory=dict)
    fates: dict[str, ReplicaState] = field(default_factory=dict)
    """By spec hash and revision: how it ends up."""

    def obey(self, reconcile: Reconcile) -> None:
        """What is wanted runs, a little later, as well as it does; what is wanted last counts."""
        self.wanted = reconcile
        self._tell_later()

    def examine(self, effect: Examine) -> None:
        """Each errand gets one answer."""
        known, self.findings = self.findings, {}
        for task in effect.tasks:
            self.findings[task.errand] = known.get(task.errand) or self._found(task)
        self._tell_later()

    def _tell_later(self) -> None:
        if self.telling:
            return
        self.telling, life = True, self.agent.life

        def tell() -> None:
            self.telling = False
            if self.agent.life == life and self.agent.host is self:
                observation = self._observation()
                self.world.hand_in(self.agent, lambda core, when: core.observed(observation, when))

        self.world.after(self.world.rng.random() * REACTS_S, tell)

    def _found(self, task: Task) -> ErrandFinding:
        luck, weather = self.world.rng.random(), self.world.weather
        if isinstance(task, Preparation):
            if task.refused or luck < weather.no_image:
                return answer(task, "failed", task.refused or "its image can't be pulled")
            if luck < weather.no_image + weather.port_taken:
                self._take_ports(task)
                return answer(task, "working", "a port is taken")
        elif luck < weather.unreached and task.endpoints:
            first = task.endpoints[0]
            missed = Unreached(service=first.key.service, slot=first.key.slot, port=first.port, reason="no answer")
            return answer(task, "failed", "doesn't answer", missed)
        return answer(task, "ready")

    def _take_ports(self, task: Preparation) -> None:
        for spec in task.specs:
            for port in spec.ports:
                key = (spec.key.stack, spec.key.service, spec.key.slot)
                self.conflicts[key] = PortConflict(stack=key[0], service=key[1], slot=key[2], host_port=port.host_port)

    def _observation(self) -> HostObservation:
        wanted = self.wanted
        if wanted is not None:
            self._converge(wanted.desired)
        running = [(spec, self._state(spec)) for spec in wanted.desired.specs] if wanted is not None else []
        halted = [(spec, "stopped") for spec in wanted.desired.stopped] if wanted is not None else []
        kept = wanted.desired.kept if wanted is not None else frozenset()
        running += [(self.runs[key].spec, "healthy") for key in sorted(kept & self.runs.keys())]
        return HostObservation(
            applied=wanted.applied if wanted is not None else 0,
            replicas=tuple(_replica(spec, state) for spec, state in (*running, *halted)),
            runtimes=() if self.agent.id in self.world.witnesses else (RuntimeInfo(name="process", available=True),),
            resources=HostResources(memory_mib=4096, cpu_millis=4000),
            busy_ports=tuple(self.conflicts.values()),
            findings=tuple(self.findings.values()),
        )

    def _converge(self, wanted: Desired) -> None:
        """What isn't wanted ends at once; what is begins, and takes its time."""
        now = self.world.now
        specs = {spec.key: spec for spec in wanted.specs}
        kept = {key: self.runs[key] for key in wanted.kept & self.runs.keys()}
        for key, spec in specs.items():
            running = self.runs.get(key)
            same = running is not None and running.spec.hash == spec.hash
            kept[key] = Running(spec, running.since_s if running is not None and same else now)
        self.runs = kept

    def _state(self, spec: ReplicaSpec) -> ReplicaState:
        left_s = self.runs[spec.key].since_s + self.world.weather.starts_s - self.world.now
        if left_s > 0:
            self.world.after(left_s, self._tell_later)
            return "starting"
        return self._fate(spec)

    def serves(self, key: ReplicaKey) -> bool:
        """Whether the replica runs here, and isn't just starting."""
        running = self.runs.get(key)
        return running is not None and self.world.now >= running.since_s + self.world.weather.starts_s

    def _fate(self, spec: ReplicaSpec) -> ReplicaState:
        name = f"{spec.hash}/{spec.revision}"
        if name not in self.fates:
            self.fates[name] = "failed" if self.world.rng.random() < self.world.weather.ailing else "healthy"
        return self.fates[name]


def _replica(spec: ReplicaSpec, state: str) -> ObservedReplica:
    return ObservedReplica(
        stack=spec.key.stack,
        service=spec.key.service,
        slot=spec.key.slot,
        state=state,  # type: ignore[arg-type]  # healthy, failed or stopped
        revision=spec.revision,
        spec_hash=spec.hash,
        runtime="process",
        ports=spec.ports,
    )
