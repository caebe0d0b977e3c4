"""One simulated world: the real node cores under a virtual clock, on a bad network, bad disks and bad luck.

Everything is drawn from the seed; the same seed is the same history, event by event. The network loses, repeats,
delays and reorders consensus and membership messages; calls go in order over links that break. A crash may come before
a write is on the disk, or after it and before anybody is told.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.host import HostContext, HostObservation
from agent.model.ledger import GenesisEntry, encode_entry
from agent.model.report import HostResources, ObservedReplica, RuntimeInfo
from agent.model.types import AgentId
from agent.node.context import Peer
from agent.node.core import NodeCore, NodeSettings
from agent.node.effects import Answer, Cut, Datagram, Effect, Reconcile, Send, Store, Want
from agent.node.instant import Instant
from agent.node.messages import CallFrame, CancelFrame, Frame, ReplyFrame
from agent.raft import Entry, EntryKind, RaftTiming
from agent.swim import SwimConfig
from tests.sim.checks import Checks, Violated
from tests.sim.cluster import Cast
from tests.sim.disk import SimDisk
from tests.sim.operators import Operators

START_WALL_MS = 1_800_000_000_000
MAX_SPINS = 20  # timers at one moment: more is an agent that would burn a core
CALM_S = 14.0  # without faults at the end: agreement has to come within it
LINK_BACK_S = 0.3  # two agents that can hear each other are linked again within this


@dataclass(frozen=True, slots=True)
class Weather:
    """How bad this world is. Probabilities, and seconds."""

    loss: float
    duplication: float
    delay_s: float
    write_s: float
    crash_every_s: float
    crash_voting: float
    cut_every_s: float
    calm_after_s: float

    @classmethod
    def draw(cls, rng: random.Random, calm_after_s: float) -> Weather:
        """From fair to foul."""
        return cls(
            loss=rng.choice([0.0, 0.02, 0.1, 0.25]),
            duplication=rng.choice([0.0, 0.02, 0.1]),
            delay_s=rng.choice([0.0005, 0.005, 0.05]),
            write_s=rng.choice([0.0003, 0.003, 0.05]),
            crash_every_s=rng.choice([2.0, 5.0, 20.0]),
            crash_voting=rng.choice([0.0, 0.1, 0.5]),
            cut_every_s=rng.choice([1.0, 4.0, 15.0]),
            calm_after_s=calm_after_s,
        )


@dataclass(slots=True)
class SimAgent:
    """One agent's life. `life` counts its starts: what was meant for an earlier one is lost."""

    id: AgentId
    disk: SimDisk
    core: NodeCore | None = None
    life: int = 0
    clock_skew_ms: int = 0
    disk_busy_until: float = 0.0


@dataclass(slots=True)
class World:
    """Runs until `until_s`; raises `Violated` at the first property that doesn't hold."""

    seed: int
    size: int = 3
    until_s: float = 30.0
    trace: Callable[[str], None] | None = None
    now: float = 0.0
    events: int = 0
    faults: int = 0
    checks: Checks = field(default_factory=Checks)
    agents: dict[AgentId, SimAgent] = field(default_factory=dict)
    rng: random.Random = field(init=False)
    weather: Weather = field(init=False)
    cast: Cast = field(init=False)
    operators: Operators = field(init=False)
    _queue: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)
    _cut: set[frozenset[AgentId]] = field(default_factory=set)
    _links: set[frozenset[AgentId]] = field(default_factory=set)
    _ordered_at: dict[tuple[AgentId, AgentId], float] = field(default_factory=dict)
    _timer: dict[AgentId, float] = field(default_factory=dict)
    _fired: dict[AgentId, float] = field(default_factory=dict)
    _spins: dict[AgentId, int] = field(default_factory=dict)

    def run(self) -> World:
        """The whole history."""
        self.rng = random.Random(self.seed)
        self.weather = Weather.draw(self.rng, max(self.until_s * 0.5, self.until_s - CALM_S))
        self.cast = Cast.draw(self.rng, self.size, START_WALL_MS)
        genesis = encode_entry(GenesisEntry(at=self.cast.genesis.created_at, genesis=self.cast.genesis))
        entry = Entry(index=1, term=0, kind=EntryKind.NORMAL, data=genesis)
        self.operators = Operators(self)
        for member in self.cast.genesis.members:
            self.agents[member.id] = SimAgent(member.id, SimDisk(entry), clock_skew_ms=self.rng.randint(-5000, 5000))
        for agent in self.agents.values():
            self.after(self.rng.random() * 0.2, lambda agent=agent: self.start(agent), "")
        self.after(self._next_fault(self.weather.crash_every_s), self._crash_somebody, "")
        self.after(self._next_fault(self.weather.cut_every_s), self._cut_something, "")
        self.operators.begin()
        while self._queue and self._queue[0][0] <= self.until_s:
            self.now, _, event = heapq.heappop(self._queue)
            event()
        self.checks.agree_at_last(agent.core for agent in self.agents.values() if agent.core is not None)
        self.operators.must_have_progressed()
        return self

    # Time

    def after(self, delay_s: float, event: Callable[[], None], what: str) -> None:
        """Let something happen later; `what` is told when it does."""

        def tell() -> None:
            self.events += 1
            if what:
                self.say(what)
            event()

        heapq.heappush(self._queue, (self.now + delay_s, next(self._order), tell))

    def say(self, what: str) -> None:
        """A line of the trace."""
        if self.trace is not None:
            self.trace(f"{self.now:10.4f}  {what}")

    def instant(self, agent: SimAgent) -> Instant:
        """The agent's own clocks: the wall clock may be wrong."""
        return Instant(self.now, START_WALL_MS + int(self.now * 1000) + agent.clock_skew_ms)

    def calm(self) -> bool:
        """Whether faults have stopped for good."""
        return self.now >= self.weather.calm_after_s

    # Agents

    def start(self, agent: SimAgent) -> None:
        """From the disk, with nothing remembered."""
        agent.life += 1
        self.checks.restarted(self.cast.name(agent.id), agent.disk.hard_state.term)
        settings = NodeSettings(
            id=agent.id,
            boot=agent.life,
            genesis=agent.disk.genesis.data,
            host=HostContext(address=self.cast.name(agent.id)),
            agent_version="sim",
            timing=RaftTiming.lan(),
            swim=SwimConfig.lan(),
        )
        boot = agent.disk.boot()
        agent.core = NodeCore(settings, boot, random.Random(self.rng.getrandbits(64)), self.instant(agent))
        self.say(f"{self.cast.name(agent.id)} starts (life {agent.life}, log to {max(agent.disk.log, default=0)})")
        self.settle(agent)
        for other in self.agents.values():
            if other is not agent:
                delay = self.rng.random() * self.rng.choice([0.01, LINK_BACK_S])
                self.after(delay, lambda other=other: self.link(agent, other), "")

    def crash(self, agent: SimAgent) -> None:
        """No warning: links break, timers and unsynced writes are gone."""
        if agent.core is None:
            return
        agent.core = None
        self._timer.pop(agent.id, None)
        for other in self.agents.values():
            self.unlink(agent, other)

    def settle(self, agent: SimAgent) -> None:
        """Carry the core's effects out, check, and set its timer."""
        core = agent.core
        if core is None:
            return
        for effect in core.take_effects():
            self._carry_out(agent, effect)
        self.checks.after_event(self.cast.name(agent.id), core)
        self._set_timer(agent)

    def _set_timer(self, agent: SimAgent) -> None:
        core = agent.core
        assert core is not None
        at, life = max(core.deadline(), self.now), agent.life
        if self._timer.get(agent.id) == at or at == float("inf"):
            return
        self._timer[agent.id] = at

        def fire() -> None:
            if agent.life == life and agent.core is not None and self._timer.get(agent.id) == at:
                del self._timer[agent.id]
                self._spins[agent.id] = self._spins.get(agent.id, 0) + 1 if self._fired.get(agent.id) == at else 0
                self._fired[agent.id] = at
                if self._spins[agent.id] > MAX_SPINS:
                    raise Violated(f"{self.cast.name(agent.id)}: its timer spins at {at}: {agent.core.deadlines()}")
                agent.core.on_deadline(self.instant(agent))
                self.settle(agent)

        self.after(at - self.now, fire, "")

    def _carry_out(self, agent: SimAgent, effect: Effect) -> None:
        match effect:
            case Send(to=to, frame=frame):
                self._send(agent, self.agents[to], frame)
            case Datagram(to=to, message=message):
                self._deliver(agent, self.agents[to], lambda core, at: core.datagram(agent.id, message, at), message)
            case Store():
                self._store(agent, effect)
            case Answer(request=request, answer=answer):
                self.operators.answered(request, answer)
            case Reconcile():
                self._obey(agent, effect)
            case Cut(peer=peer):
                self.unlink(agent, self.agents[peer])
            case Want() | _:
                pass

    # Disk and containers

    def _store(self, agent: SimAgent, store: Store) -> None:
        life = agent.life

        def written() -> None:
            if agent.life != life or agent.core is None:
                if self.rng.random() < 0.5 and agent.life == life:
                    agent.disk.write(store.persist, store.verified_through)  # on the disk, but nobody was told
                return
            agent.disk.write(store.persist, store.verified_through)
            if store.settles:
                agent.core.stored(self.instant(agent))
                self.settle(agent)
            if (
                store.persist.hard_state is not None
                and not self.calm()
                and self.rng.random() < self.weather.crash_voting
            ):
                self._crash_and_restart(agent)  # the vote is out; now it must not be given again

        agent.disk_busy_until = max(self.now, agent.disk_busy_until) + self.rng.expovariate(1 / self.weather.write_s)
        self.after(agent.disk_busy_until - self.now, written, "")

    def _obey(self, agent: SimAgent, reconcile: Reconcile) -> None:
        """A runtime without faults: what is wanted runs, healthy, a little later."""
        life = agent.life
        replicas = tuple(
            ObservedReplica(
                stack=spec.key.stack,
                service=spec.key.service,
                slot=spec.key.slot,
                state="stopped" if spec in reconcile.desired.stopped else "healthy",
                revision=spec.revision,
                spec_hash=spec.hash,
                runtime="process",
                ports=spec.ports,
            )
            for spec in (*reconcile.desired.specs, *reconcile.desired.stopped)
        )
        observation = HostObservation(
            applied=reconcile.applied,
            replicas=replicas,
            runtimes=(RuntimeInfo(name="process", available=True),),
            resources=HostResources(memory_mib=4096, cpu_millis=4000),
        )

        def done() -> None:
            if agent.life == life and agent.core is not None:
                agent.core.observed(observation, self.instant(agent))
                self.settle(agent)

        self.after(self.rng.random() * 0.2, done, "")

    # Network

    def _send(self, sender: SimAgent, receiver: SimAgent, frame: Frame) -> None:
        if frozenset((sender.id, receiver.id)) not in self._links:
            return
        kind = type(frame).__name__
        if isinstance(frame, CallFrame | ReplyFrame | CancelFrame):
            self._in_order(sender, receiver, frame)
            return
        what = getattr(frame, "message", frame)
        self._deliver(
            sender, receiver, lambda core, at: core.frame(sender.id, frame, at), what if kind != "ReportFrame" else kind
        )

    def _in_order(self, sender: SimAgent, receiver: SimAgent, frame: Frame) -> None:
        """Calls go over TCP: in order, and lost only with the link."""
        pair = (sender.id, receiver.id)
        at = max(self.now + self.rng.expovariate(1 / self.weather.delay_s), self._ordered_at.get(pair, 0.0) + 1e-6)
        self._ordered_at[pair] = at
        lives = sender.life, receiver.life

        def arrive() -> None:
            if frozenset(pair) in self._links and (sender.life, receiver.life) == lives and receiver.core is not None:
                receiver.core.frame(sender.id, frame, self.instant(receiver))
                self.settle(receiver)

        self.after(at - self.now, arrive, "")

    def _deliver(
        self, sender: SimAgent, receiver: SimAgent, hand_in: Callable[[NodeCore, Instant], None], what: object
    ) -> None:
        foul = not self.calm()
        copies = 1 + (foul and self.rng.random() < self.weather.duplication)
        life = receiver.life
        for _ in range(copies):
            if foul and self.rng.random() < self.weather.loss:
                self.faults += 1
                continue
            if frozenset((sender.id, receiver.id)) in self._cut:
                continue

            def arrive() -> None:
                if receiver.core is not None and receiver.life == life:
                    hand_in(receiver.core, self.instant(receiver))
                    self.settle(receiver)

            told = f"{self.cast.name(sender.id)} → {self.cast.name(receiver.id)}  {what}" if self.trace else ""
            self.after(self.rng.expovariate(1 / self.weather.delay_s), arrive, told[:160])

    def link(self, one: SimAgent, other: SimAgent) -> None:
        """Both up and not cut apart: a link, and both are told."""
        pair = frozenset((one.id, other.id))
        if one.core is None or other.core is None or pair in self._links or pair in self._cut:
            return
        self._links.add(pair)
        for agent, peer in ((one, other), (other, one)):
            assert agent.core is not None
            known = peer.id in agent.core.context.state.members
            agent.core.link_up(Peer(id=peer.id, known=known, agent_version="sim"), self.instant(agent))
            self.settle(agent)

    def unlink(self, one: SimAgent, other: SimAgent) -> None:
        """The connection breaks; whoever lives notices at once."""
        pair = frozenset((one.id, other.id))
        if pair not in self._links:
            return
        self._links.discard(pair)
        for agent, peer in ((one, other), (other, one)):
            if agent.core is not None:
                agent.core.link_down(peer.id, self.instant(agent))
                self.settle(agent)

    # Faults

    def _next_fault(self, every_s: float) -> float:
        return self.rng.expovariate(1 / every_s)

    def _crash_somebody(self) -> None:
        if self.calm():
            return
        agent = self.rng.choice(list(self.agents.values()))
        if agent.core is not None:
            self._crash_and_restart(agent)
        self.after(self._next_fault(self.weather.crash_every_s), self._crash_somebody, "")

    def _crash_and_restart(self, agent: SimAgent) -> None:
        self.faults += 1
        self.say(f"{self.cast.name(agent.id)} crashes")
        self.crash(agent)
        # Mostly systemd's quick restart: a vote that wasn't kept is asked for again in the same term.
        self.after(self.rng.random() * self.rng.choice([0.02, 0.2, 3.0]), lambda: self.start(agent), "")

    def _cut_something(self) -> None:
        ids = list(self.agents)
        if self.calm() or len(ids) < 2:
            return
        self.faults += 1
        side = set(self.rng.sample(ids, self.rng.randint(1, len(ids) - 1)))
        pairs = [frozenset((a, b)) for a in side for b in ids if b not in side]
        self.say(f"cut: {', '.join(sorted(self.cast.name(agent) for agent in side))} from the others")
        self._cut.update(pairs)
        for pair in pairs:
            one, other = sorted(pair)
            # Sometimes TCP doesn't tell for long: consensus has to notice by silence.
            self.after(self.rng.choice([0.0, 2.0]), lambda a=one, b=other: self._notice(a, b), "")
        self.after(self.rng.random() * 4.0, lambda: self._mend(pairs), "")
        self.after(self._next_fault(self.weather.cut_every_s), self._cut_something, "")

    def _notice(self, one: AgentId, other: AgentId) -> None:
        if frozenset((one, other)) in self._cut:
            self.unlink(self.agents[one], self.agents[other])

    def _mend(self, pairs: list[frozenset[AgentId]]) -> None:
        self._cut.difference_update(pairs)
        self.say("mended")
        for pair in pairs:
            one, other = sorted(pair)
            delay = self.rng.random() * LINK_BACK_S
            self.after(delay, lambda a=one, b=other: self.link(self.agents[a], self.agents[b]), "")
