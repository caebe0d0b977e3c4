"""One simulated world: the real node cores under a virtual clock, on a bad network, bad disks and bad luck.

Everything is drawn from the seed; the same seed is the same history, event by event. A crash may come before a write
is on the disk, or after it and before anybody is told; and right after a vote has left, which must not be given twice.
"""

from __future__ import annotations

import heapq
import itertools
import random
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import msgspec

from agent.host import HostContext
from agent.model.expulsion import Expulsion
from agent.model.ledger import GenesisEntry, encode_entry
from agent.model.types import AgentId
from agent.node.core import NodeCore, NodeSettings
from agent.node.effects import Answer, BeginEpoch, Cut, Datagram, Effect, Examine, Reconcile, Send, Stir, Store, Want
from agent.node.instant import Instant
from agent.node.messages import RaftFrame
from agent.node.submissions import ANSWER_DEADLINE_S
from agent.raft import Configuration, Entry, EntryKind
from tests.sim.checks import VOTING, Checks, Violated
from tests.sim.cluster import Cast
from tests.sim.disaster import Disaster, begin_epoch
from tests.sim.disk import SimDisk
from tests.sim.faults import REFUSED, Faults
from tests.sim.hosts import SimHost
from tests.sim.network import Network
from tests.sim.operators import Operators
from tests.sim.pace import Pace
from tests.sim.versions import Versions
from tests.sim.weather import Weather

START_WALL_MS = 1_800_000_000_000
MAX_SPINS = 20  # timers at one moment, or as good as: more is an agent that would burn a core
ROUNDING_S = 1e-7  # between two clocks; a timer that comes too early by it would be set again and again

# What was committed this long and an election's time before the end has reached everyone: who missed its own removal
# waits for an election, for LEADERLESS_S, and perhaps for another voter.
SETTLES_S = 3.0

Input = Callable[[NodeCore, Instant], object]
"""`Stir.NOTHING`: nothing came of it, as `NodeCore.frame` says."""


@dataclass(slots=True)
class SimAgent:
    """One agent's life. `life` counts its starts: what was meant for an earlier one is lost.

    `clock_ahead_s`: its monotonic clock against the world's. `paused`: what arrives waits in `backlog`. `unfinished`: a
    crash came before an epoch that it was to begin. `expelled`: what it knows of that, on its disk.
    """

    id: AgentId
    disk: SimDisk
    core: NodeCore | None = None
    life: int = 0
    clock_ahead_s: float = 0.0
    clock_skew_ms: int = 0
    disk_busy_until: float = 0.0
    paused: bool = False
    backlog: deque[Input] = field(default_factory=deque)
    timer_at: float = float("inf")
    fired_at: float = float("-inf")
    spins: int = 0
    stalled_until: float = float("-inf")
    resumed_at: float = float("-inf")
    led_term: int = 0
    unfinished: bool = False
    expelled: Expulsion | None = None
    host: SimHost = field(init=False)

    @property
    def leads(self) -> bool:
        """Whether it believes that it coordinates."""
        return self.core is not None and self.core.context.raft.is_leader

    @property
    def voters(self) -> tuple[AgentId, ...]:
        """As it knows them."""
        return self.core.context.raft.configuration.voters if self.core is not None else ()


@dataclass(slots=True)
class World:
    """Runs until `until_s`; raises `Violated` at the first property that doesn't hold.

    `weather`: drawn from the seed unless given; `focus` replaces parts of it. `script`: schedules what else happens.
    `labels` draws what operators do with them, where they do. `witnesses`: hosts without a runtime. `checks` judge the
    newest `epoch`, `earlier` those before: see `judge`.
    """

    seed: int
    size: int = 3
    until_s: float = 60.0
    trace: Callable[[str], None] | None = None
    given: Weather | None = None
    focus: Mapping[str, Any] = field(default_factory=dict)
    script: Callable[[World], None] | None = None
    now: float = 0.0
    events: int = 0
    faults: int = 0
    lost: int = 0
    checks: Checks = field(default_factory=Checks)
    agents: dict[AgentId, SimAgent] = field(default_factory=dict)
    left_out: set[AgentId] = field(default_factory=set)
    witnesses: set[AgentId] = field(default_factory=set)
    founders: tuple[str, ...] = ()
    rng: random.Random = field(init=False)
    weather: Weather = field(init=False)
    cast: Cast = field(init=False)
    operators: Operators = field(init=False)
    network: Network = field(init=False)
    mishaps: Faults = field(init=False)
    versions: Versions | None = None
    labels: random.Random | None = None
    disaster: Disaster | None = None
    epoch: int = 1
    earlier: dict[int, Checks] = field(default_factory=dict)
    _genesis: Entry = field(init=False)
    _settled: int = 0
    _crash_in: float = field(init=False)
    _queue: list[tuple[float, int, Callable[[], None]]] = field(default_factory=list)
    _order: itertools.count[int] = field(default_factory=itertools.count)
    _pace: Pace = field(default_factory=Pace)

    def run(self) -> World:
        """The whole history."""
        self._begin()
        queue, pace, agents = self._queue, self._pace, self.agents
        try:
            while queue and queue[0][0] <= self.until_s:
                self.now, _, event = heapq.heappop(queue)
                self.events += 1
                pace.count(event, self.now, len(agents))
                event()
            self._end()
        except Violated as error:
            text = str(error)
            for agent, name in self.cast.names.items():
                text = text.replace(agent, name)
            raise Violated(f"at {self.now:.3f} s: {text}") from None
        finally:
            if self.versions is not None:
                self.versions.leave()
        return self

    def _begin(self) -> None:
        self.rng = random.Random(self.seed)
        self.weather = replace(self.given or Weather.draw(self.rng, self.until_s), **self.focus)
        timing = self.weather.timing
        # A link loses no part of a snapshot. This network does, again and again, and nobody may wait longer each time.
        timing = msgspec.structs.replace(timing, snapshot_retry_max_s=timing.snapshot_retry_s)
        self.weather = replace(self.weather, timing=timing)
        self._crash_in = self._next_crash()
        versions = random.Random(f"versions {self.seed}")
        mixed = versions.random() < self.weather.mixed
        majority = random.Random(f"majority of {self.seed}")
        if majority.random() < self.weather.bereft:
            self.disaster = Disaster(self, majority)
            self.weather = self.disaster.weather()
        labels = random.Random(f"labels of {self.seed}")
        self.labels = labels if labels.random() < self.weather.labelled else None
        self.cast = Cast.draw(self.rng, self.size, START_WALL_MS)
        if mixed:
            frames = random.Random(f"frames of {self.seed}")
            self.versions = Versions(versions, frames, self.cast.sign)
        self.founders = tuple(self.cast.names.values())
        data = encode_entry(GenesisEntry(at=self.cast.genesis.created_at, genesis=self.cast.genesis))
        self._genesis = Entry(index=1, term=0, kind=EntryKind.NORMAL, data=data)
        self.network, self.operators, self.mishaps = Network(self), Operators(self), Faults(self)
        for member in self.cast.genesis.members:
            self.add(member.id)
        if not self.weather.idle:
            self.operators.begin()
        self.mishaps.begin()
        if self.disaster is not None:
            self.disaster.begin()
        settles_s = SETTLES_S + timing.election_timeout_max_s
        self.after(max(0.0, self.until_s - settles_s), self._note_settled)
        if self.weather.calm_after_s > 0:
            self.after(self.weather.calm_after_s, self.mishaps.settle_for_calm)
            if not self.weather.idle:
                self.after(self.weather.calm_after_s, self.operators.try_again)
            self.after(self.weather.calm_after_s + self.weather.progress_s, self._must_have_progressed)
        if self.script is not None:
            self.script(self)

    def _end(self) -> None:
        settled = [agent for agent in self.alive() if agent.id not in self.left_out and self._belongs(agent)]
        behind = [agent.id for agent in settled if agent.disk.epoch < self.epoch]
        if behind:
            raise Violated(f"{', '.join(behind)} never followed into epoch {self.epoch}")
        self.checks.agree_at_last(
            ((agent.id, agent.core) for agent in settled if agent.core is not None), self._settled
        )
        self.operators.must_be_linearizable()

    def _note_settled(self) -> None:
        self._settled = self.checks.last

    def _belongs(self, agent: SimAgent) -> bool:
        """Whether somebody knows it as a member, and nobody as expelled.

        Who asked to join may have asked only those who couldn't pass it on.
        """
        alive = [other for other in self.alive() if other.disk.epoch == self.epoch]
        states = [other.core.context.state for other in alive if other.core is not None]
        known = any(agent.id in state.members for state in states)
        return known and not any(agent.id in state.expelled for state in states)

    def _must_have_progressed(self) -> None:
        """With the faults over and a majority up, instructions apply again."""
        if self.operators.applied_at < self.weather.calm_after_s:
            raise Violated(f"nothing applied within {self.weather.progress_s:.0f} s after the faults stopped")

    # Time

    def after(self, delay_s: float, event: Callable[[], None]) -> None:
        """Let something happen later."""
        heapq.heappush(self._queue, (self.now + delay_s, next(self._order), event))

    def say(self, what: str) -> None:
        """A line of the trace."""
        if self.trace is not None:
            self.trace(f"{self.now:10.4f}  {what}")

    @property
    def wall_ms(self) -> int:
        """True time."""
        return START_WALL_MS + int(self.now * 1000)

    def calm(self) -> bool:
        """Whether faults have stopped for good."""
        return self.now >= self.weather.calm_after_s

    # Agents

    def alive(self) -> list[SimAgent]:
        """Those that run, paused or not."""
        return [agent for agent in self.agents.values() if agent.core is not None]

    def add(self, id: AgentId) -> None:
        """A host with a disk that holds the genesis; its agent starts soon."""
        disk = SimDisk(self._genesis, founders=Configuration(voters=self.cast.genesis.voters))
        agent = SimAgent(id, disk, clock_ahead_s=self.rng.random() * 1000, clock_skew_ms=self.rng.randint(-5000, 5000))
        self.agents[id] = agent
        self.judge(agent).restarted(id, disk)
        self.restart(agent, self.rng.random() * 0.2)

    def restart(self, agent: SimAgent, delay_s: float) -> None:
        """Unless somebody is faster, or it was left out for good meanwhile."""
        life = agent.life

        def start() -> None:
            if agent.life == life and agent.id not in self.left_out:
                self.start(agent)

        self.after(delay_s, start)

    def start(self, agent: SimAgent) -> None:
        """From the disk, with nothing remembered."""
        agent.life += 1
        agent.disk.starts += 1
        agent.timer_at, agent.led_term = float("inf"), 0
        agent.host = SimHost(self, agent, runs=agent.host.runs if agent.life > 1 else {})
        self.judge(agent).restarted(agent.id, agent.disk)
        settings = NodeSettings(
            id=agent.id,
            name=self.cast.name(agent.id),
            boot=agent.disk.starts,
            genesis=agent.disk.genesis.data,
            host=HostContext(address=self.cast.name(agent.id)),
            agent_version="sim",
            timing=self.weather.timing,
            swim=self.weather.swim,
            sign=partial(self.cast.sign, agent.id),
            limits=self.weather.limits,
            compaction=self.weather.compaction,
            expelled=agent.expelled,
        )
        if self.versions is not None:
            self.versions.starts(agent.id, founder=self.cast.name(agent.id) in self.founders)
            self.versions.run_as(agent.id)
        agent.core = NodeCore(
            settings, agent.disk.boot(), random.Random(self.rng.getrandbits(64)), self._instant(agent)
        )
        self.say(f"{self.cast.name(agent.id)} starts (life {agent.life}, log to {agent.disk.last})")
        self._settle(agent)
        self.network.started(agent)

    def crash(self, agent: SimAgent) -> None:
        """No warning: links break; of the writes under way, a prefix gets to the disk, and nobody is told."""
        if agent.core is None:
            return
        self.say(f"{self.cast.name(agent.id)} crashes")
        agent.core, agent.paused = None, False
        agent.backlog.clear()
        agent.timer_at = float("inf")
        for _ in range(self.rng.randint(0, len(agent.disk.waiting))):
            self._write(agent, agent.disk.waiting.popleft())
        agent.disk.waiting.clear()
        agent.disk_busy_until = self.now
        for other in self.agents:
            if other != agent.id:
                self.network.unlink(agent.id, other)

    def pause(self, agent: SimAgent, for_s: float) -> None:
        """The process stands still (SIGSTOP, a suspended VM); its links stay up and what arrives waits."""
        if agent.core is None or agent.paused:
            return
        self.say(f"{self.cast.name(agent.id)} pauses for {for_s:.3f} s")
        agent.paused, life = True, agent.life
        # What it took before is answered late: its timers stood still too.
        agent.stalled_until = max(agent.stalled_until, self.now + for_s + ANSWER_DEADLINE_S)

        def resume() -> None:
            if agent.life != life or not agent.paused:
                return
            agent.paused, agent.resumed_at = False, self.now
            while agent.backlog and agent.core is not None and not agent.paused:
                self.hand_in(agent, agent.backlog.popleft())
            self._set_timer(agent)

        self.after(for_s, resume)

    def hand_in(self, agent: SimAgent, handing: Input) -> None:
        """An input, now or when the agent wakes up; then its effects."""
        if agent.core is None:
            return
        if agent.paused:
            agent.backlog.append(handing)
            return
        if self.versions is not None:
            self.versions.run_as(agent.id)
        if handing(agent.core, self._instant(agent)) is Stir.NOTHING:
            self.judge(agent).after_event(agent.id, agent.core)
        else:
            self._settle(agent)

    def propose_configuration(self, agent: SimAgent, wanted: Configuration) -> None:
        """Past the autopilot."""

        def propose(core: NodeCore, when: Instant) -> None:
            try:
                core.context.raft.propose_configuration(wanted, when.mono)
            except REFUSED:
                return
            core.on_deadline(when)

        self.hand_in(agent, propose)

    def _instant(self, agent: SimAgent) -> Instant:
        now = self.now
        return Instant(now + agent.clock_ahead_s, START_WALL_MS + int(now * 1000) + agent.clock_skew_ms)

    def _settle(self, agent: SimAgent) -> None:
        """Carry the core's effects out, check, and set its timer."""
        core, life = agent.core, agent.life
        if core is None:
            return
        effects = core.take_effects()
        self.judge(agent).after_event(agent.id, core)
        if self.versions is not None:
            self.versions.must_be_known(agent.id, core.context.state, self.now)
        raft = core.context.raft
        if raft.is_leader and raft.term != agent.led_term:
            agent.led_term = raft.term
            self.mishaps.elected(agent)
        for effect in effects:
            if agent.life == life and agent.core is not None and not self._crashes(agent):
                self._carry_out(agent, effect)
        self._set_timer(agent)

    def _next_crash(self) -> float:
        mean = self.weather.crash_every_effects
        return self.rng.expovariate(1 / mean) if mean else float("inf")

    def _crashes(self, agent: SimAgent) -> bool:
        """Whether it crashes between two effects: some were carried out, the others never will be."""
        self._crash_in -= 1
        if self._crash_in > 0 or self.calm():
            return False
        self._crash_in = self._next_crash()
        self.faults += 1
        self.mishaps.crash(agent)
        return True

    def _set_timer(self, agent: SimAgent) -> None:
        """One timer an agent is in the queue at least; one that comes too early is set again."""
        if agent.core is None:
            return
        at = agent.core.deadline() - agent.clock_ahead_s + ROUNDING_S
        if at >= agent.timer_at:  # as mostly; none at all is infinite
            return
        at = max(at, self.now)
        if at >= agent.timer_at:
            return
        agent.timer_at, life = at, agent.life
        self.after(at - self.now, lambda: self._fire(agent, life, at))

    def _fire(self, agent: SimAgent, life: int, at: float) -> None:
        if agent.life != life or agent.core is None or agent.timer_at != at:
            return
        agent.timer_at = float("inf")
        if agent.paused:
            return
        when = self._instant(agent)
        if agent.core.deadline() <= when.mono:
            agent.spins = agent.spins + 1 if at <= agent.fired_at + 2 * ROUNDING_S else 0
            agent.fired_at = at
            if agent.spins > MAX_SPINS:
                raise Violated(f"{agent.id}: its timer spins at {when.mono}: {agent.core.deadlines()}")
            if self.versions is not None:
                self.versions.run_as(agent.id)
            agent.core.on_deadline(when)
            if self.now > agent.resumed_at + 2 * self.weather.timing.heartbeat_s:
                self.judge(agent).hears_a_majority(agent.id, agent.core, self.weather.timing, self.now)
            self._settle(agent)
        else:
            self._set_timer(agent)

    def _carry_out(self, agent: SimAgent, effect: Effect) -> None:
        match effect:
            case Send(to=to, frame=frame):
                if isinstance(frame, RaftFrame) and isinstance(frame.message, VOTING):
                    self.judge(agent).says(agent.id, to, frame.message)
                self.network.send(agent, to, frame)
            case Datagram(to=to, message=message):
                self.network.datagram(agent, to, message)
            case Store():
                self._store(agent, effect)
            case Answer(request=request, answer=answer):
                self.operators.answered(agent, request, answer)
            case Reconcile():
                agent.host.obey(effect)
            case Examine():
                agent.host.examine(effect)
            case Cut(peer=peer):
                self.network.unlink(agent.id, peer)
            case Want(peers=peers):
                self.network.want(agent, peers)
            case BeginEpoch(snapshot=snapshot):
                begin_epoch(self, agent, snapshot)
            case _:
                pass

    # Epochs

    def judge(self, agent: SimAgent) -> Checks:
        """Who judges it: of its epoch, as what is said in another one counts in none but that."""
        return self.checks if agent.disk.epoch == self.epoch else self.earlier[agent.disk.epoch]

    # Disk

    def stall_disk(self, agent: SimAgent, for_s: float) -> None:
        """Nothing gets to the disk for a while."""
        self.say(f"{self.cast.name(agent.id)}: its disk stalls for {for_s:.3f} s")
        agent.disk_busy_until = max(self.now, agent.disk_busy_until) + for_s

    def _write(self, agent: SimAgent, store: Store) -> None:
        self.judge(agent).written(agent.id, agent.disk, store.persist)
        agent.disk.write(store.persist, store.verified_through)

    def _store(self, agent: SimAgent, store: Store) -> None:
        life = agent.life
        agent.disk.waiting.append(store)

        def written() -> None:
            if agent.life != life or agent.core is None:
                return
            self._write(agent, agent.disk.waiting.popleft())
            if self._crashes(agent):
                return
            if store.settles:
                self.hand_in(agent, lambda core, when: core.stored(when))
            voted = store.persist.hard_state is not None
            if voted and not self.calm() and self.rng.random() < self.weather.crash_voting:
                self.faults += 1
                self.mishaps.crash(agent)  # the vote is out; now it must not be given again

        mean = self.weather.write_s
        took = mean if self.weather.steady else min(self.rng.expovariate(1 / mean), 8 * mean)
        wanted = agent.disk_busy_until = max(self.now, agent.disk_busy_until) + took
        self.after(wanted - self.now, written)
