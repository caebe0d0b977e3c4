"""Bad luck: one fault after another, drawn by the weather's weights, until it calms down."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from agent.model.types import AgentId
from agent.raft import Configuration, ConfigurationRefused, ProposalDropped
from agent.raft.quorum import majority

if TYPE_CHECKING:
    from tests.sim.world import SimAgent, World

FOREVER = float("inf")
MAX_SKEW_MS = 20_000  # of a wall clock; beyond CLOCK_SKEW_S a coordinator rightly refuses every token
MAX_JOINERS = 2
MAX_HASTE = 4  # changes of membership in one breath, of which all but the first come too soon
MAX_GHOSTS = 8  # old messages that come again at once


class Faults:
    """Counts what it does in `world.faults`. `expelled`: whom operators were to expel, whether or not anybody knows."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._kinds: dict[str, Callable[[], None]] = {
            "crash": self._crash,
            "crash_leader": self._crash_leader,
            "power_cut": self._power_cut,
            "cut": self._cut,
            "one_way": self._one_way,
            "hub": self._hub,
            "chain": self._chain,
            "pause": self._pause,
            "jump": self._jump,
            "stall": self._stall,
            "meddle": self._meddle,
            "enrol": self._enrol,
            "expel": self._expel,
            "drain": self._drain,
        }
        self.expelled: set[AgentId] = set()
        self._joined = 0

    @property
    def _rng(self) -> random.Random:
        return self._world.rng

    def begin(self) -> None:
        """The first comes soon."""
        if sum(self._world.weather.weights.values()) > 0:
            self._world.after(self._rng.random(), self._next)

    def _next(self) -> None:
        world = self._world
        if world.calm():
            return
        weights = world.weather.weights
        kind = self._rng.choices(list(weights), list(weights.values()))[0]
        world.faults += 1
        self._kinds[kind]()
        world.after(self._rng.uniform(0.3, 1.5) * world.weather.fault_every_s, self._next)

    # Processes and clocks

    def _somebody(self) -> SimAgent | None:
        alive = self._world.alive()
        return self._rng.choice(alive) if alive else None

    def _crash(self) -> None:
        agent = self._somebody()
        if agent is not None:
            self.crash(agent)

    def _crash_leader(self) -> None:
        leaders = [
            agent for agent in self._world.alive() if agent.core is not None and agent.core.context.raft.is_leader
        ]
        for agent in leaders:
            self.crash(agent)

    def _power_cut(self) -> None:
        for agent in self._world.alive():
            if self._rng.random() < 0.8:
                self.crash(agent)

    def crash(self, agent: SimAgent) -> None:
        """Mostly systemd's quick restart: a vote that wasn't kept is asked for again in the same term."""
        self._world.crash(agent)
        self._world.restart(agent, self._rng.random() * self._rng.choice([0.005, 0.02, 0.2, 3.0]))

    def _pause(self) -> None:
        agent = self._somebody()
        if agent is not None:
            self._world.pause(agent, self._rng.random() * self._rng.choice([0.3, 1.0, 4.0]))

    def _jump(self) -> None:
        agent = self._somebody()
        if agent is not None:
            agent.clock_skew_ms = self._rng.randint(-MAX_SKEW_MS, MAX_SKEW_MS)

    def _stall(self) -> None:
        agent = self._somebody()
        if agent is not None:
            self._world.stall_disk(agent, self._rng.random() * self._rng.choice([0.3, 3.0]))

    # Network

    def _how_long(self) -> float:
        return self._rng.random() * self._rng.choice([0.5, 4.0, 8.0])

    def _shut(self, open_pairs: Collection[frozenset[AgentId]], what: str) -> None:
        """All pairs but these."""
        ids = list(self._world.agents)
        paths = [(a, b) for a in ids for b in ids if a != b and frozenset((a, b)) not in open_pairs]
        self._world.say(what)
        self._world.network.block(paths, self._how_long(), self._notice())

    def _notice(self) -> float | None:
        """Sometimes TCP doesn't tell for long: consensus has to notice by silence."""
        return self._rng.choice([0.0, 2.0, None])

    def _cut(self) -> None:
        ids = list(self._world.agents)
        side = set(self._rng.sample(ids, self._rng.randint(1, max(1, len(ids) - 1))))
        kept = {frozenset((a, b)) for a in ids for b in ids if a != b and (a in side) == (b in side)}
        self._shut(kept, f"cut: {', '.join(self._world.cast.name(agent) for agent in sorted(side))} from the others")

    def _one_way(self) -> None:
        agent, others = self._rng.choice(list(self._world.agents)), list(self._world.agents)
        some = [other for other in others if other != agent and self._rng.random() < 0.8]
        deaf = self._rng.random() < 0.5
        self._world.say(f"{self._world.cast.name(agent)} is {'deaf' if deaf else 'mute'}")
        paths = [(other, agent) if deaf else (agent, other) for other in some]
        self._world.network.block(paths, self._how_long(), self._notice())

    def _hub(self) -> None:
        ids = list(self._world.agents)
        hub = self._rng.choice(ids)
        self._shut({frozenset((hub, other)) for other in ids if other != hub}, f"hub: {self._world.cast.name(hub)}")

    def _chain(self) -> None:
        ids = list(self._world.agents)
        self._rng.shuffle(ids)
        self._shut({frozenset(pair) for pair in itertools.pairwise(ids)}, "chain")

    # Elections

    def elected(self, agent: SimAgent) -> None:
        """`agent` leads since just now, and nobody has heard of it: the moment when most bugs show (Raft fig. 8)."""
        world = self._world
        if world.calm():
            return
        if self._rng.random() < world.weather.ghosts:
            world.faults += 1
            world.network.haunt(agent, MAX_GHOSTS)
        if self._rng.random() < world.weather.upstart:
            world.faults += 1
            self._rng.choice([self._silence, self._crash_once_written, self._hurry])(agent)

    def _silence(self, agent: SimAgent) -> None:
        """What it says from now on reaches few, or nobody."""
        heard = self._rng.choice([0.0, 0.0, 0.3])
        others = [other for other in self._world.agents if other != agent.id and self._rng.random() >= heard]
        self._world.say(f"{self._world.cast.name(agent.id)} is silenced as it begins to lead")
        self._world.network.block([(agent.id, other) for other in others], self._how_long(), self._notice())

    def _crash_once_written(self, agent: SimAgent) -> None:
        life = agent.life

        def crash() -> None:
            if agent.life == life:
                self.crash(agent)

        self._world.after(self._world.weather.write_s * self._rng.choice([0.5, 2.0, 9.0]), crash)

    def _hurry(self, agent: SimAgent) -> None:
        self._world.after(0.0, lambda: self._haste(agent))

    # Membership

    def _meddle(self) -> None:
        """Somebody in a hurry: legal changes proposed to whoever believes that it leads, at any moment.

        Of members as its ledger names them: a leader knows of no others, and doesn't answer what they ask.
        """
        for agent in self._world.alive():
            self._haste(agent)

    def _haste(self, agent: SimAgent) -> None:
        for _ in range(self._rng.randint(1, MAX_HASTE)):
            if agent.core is not None and agent.core.context.raft.is_leader and not agent.paused:
                context = agent.core.context
                wanted = self._changed(context.raft.configuration, context.state.members.keys())
                self._world.propose_configuration(agent, wanted)

    def _changed(self, current: Configuration, members: Collection[AgentId]) -> Configuration:
        voters, learners = set(current.voters), set(current.learners)
        gone = self.expelled | self._world.left_out
        able = [id for id in self._world.agents if id in members and id not in gone]
        agent = self._rng.choice(able or current.voters)
        if agent in voters and len(voters) > 1 and not self.expelled:  # else the rest may be no majority
            voters.discard(agent)
        elif agent not in voters and (agent in learners or self._rng.random() < 0.5):
            voters.add(agent)
            learners.discard(agent)
        elif agent not in voters:
            learners.add(agent)
        return Configuration.of(list(voters), list(learners))

    def _enrol(self) -> None:
        if self._joined < MAX_JOINERS:
            self._joined += 1
            self._world.operators.enrol()

    def _drain(self) -> None:
        """Maintenance: somebody's replicas have to leave, or may come again."""
        agent, labels = self._rng.choice(list(self._world.agents)), self._world.labels
        if labels is not None and labels.random() < 0.5:
            self._world.operators.relabel(agent)
        else:
            self._world.operators.drain(agent)

    def _expel(self) -> None:
        """One at a time, and only while the others can do without it: the CLI refuses to break a majority."""
        going = [voter for agent in self._world.alive() for voter in agent.voters if voter in self.expelled]
        enough = len(self._world.agents) - len(self.expelled) > 3
        few = any(len(agent.voters) < 3 for agent in self._world.alive())
        if enough and not going and not few and not self.expelled:
            agent = self._rng.choice(list(self._world.agents))
            self.expelled.add(agent)
            self._world.operators.expel(agent)

    # The end

    def settle_for_calm(self) -> None:
        """Faults are over, but for one or two that are left out: always a minority of every configuration there is."""
        world, how = self._world, self._world.weather.left_out
        world.network.open_all()
        victims = self._spare() if how != "nobody" else []
        for agent in victims:
            world.say(f"{world.cast.name(agent.id)} stays {how}")
            world.left_out.add(agent.id)
            others = [other for other in world.agents if other != agent.id]
            inward = [(other, agent.id) for other in others]
            outward = [(agent.id, other) for other in others]
            if how == "dead":
                world.crash(agent)
            else:
                paths = {"cut off": inward + outward, "deaf": inward, "mute": outward}[how]
                # For good: then the shell notices by silence at the latest (agent.net.links), and observers rely on it.
                world.network.block(paths, FOREVER, self._rng.choice([0.0, 2.0]))

    def _spare(self) -> list[SimAgent]:
        world = self._world
        configurations = [disk.configuration for disk in world.checks.disks.values()]
        configurations += [agent.core.context.raft.configuration for agent in world.agents.values() if agent.core]
        out: set[AgentId] = self.expelled | world.left_out
        there = [agent for agent in world.agents.values() if agent.id not in world.left_out]
        leaders_first = sorted(there, key=lambda agent: (not agent.leads, self._rng.random()))
        most = 1 + (self._rng.random() < 0.3)
        spare: list[SimAgent] = []
        for agent in leaders_first:
            without = out | {agent.id}
            if all(sum(v not in without for v in c.voters) >= majority(len(c.voters)) for c in configurations):
                out, spare = without, [*spare, agent]
            if len(spare) == most:
                break
        return spare


REFUSED = (ConfigurationRefused, ProposalDropped, ValueError)
