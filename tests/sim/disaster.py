"""The majority of the voters is lost, for good or as far as anybody knows: an operator begins another epoch with
the survivor that knows most (docs/operations.md, "When the majority is lost").

It strikes when an instruction has just been answered: what became of that is known to few. Who comes back after all may
be a majority of the epoch before, and follows into the next.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agent.errors import Conflict
from agent.instruction import encode_body, sign_instruction
from agent.model.api import Recovery
from agent.model.types import AgentId
from agent.node.core import NodeCore
from agent.node.epochs import LOST_AFTER_S
from agent.node.instant import Instant
from agent.raft import Snapshot
from agent.raft.quorum import majority
from agent.state import decode_snapshot
from tests.sim.cluster import OPERATOR

if TYPE_CHECKING:
    from tests.sim.weather import Weather
    from tests.sim.world import SimAgent, World

STRIKES = (0.15, 0.35)  # of the world's time: then there is time for the rest
ANSWER_S = 3.0  # it waits so long for an answer to strike at
FOR_GOOD = 0.6  # how likely those that are lost never come back
AWAY_S = (5.0, 25.0)  # the others do after so long: before another epoch began, or after
LOOKS_EVERY_S = 1.0  # an operator who waits for a survivor to be without a majority for long enough
FOLLOWS_S = 6.0  # more time for progress: an election, and who asks that survivor
UNFINISHED = 0.1  # of those who begin an epoch or follow into it: a crash comes first, once for each agent


def knows_itself(agent: SimAgent) -> bool:
    """Whether its own ledger names it: no epoch may begin on who has only asked to join."""
    return agent.core is not None and agent.id in agent.core.context.state.members


@dataclass(slots=True)
class Disaster:
    """`rng` is its own, so that other worlds are as they would be without it.

    `_gone`: whom operators wanted expelled before it struck. They begin no epoch there, though nobody who knows may be
    up: who knows never follows.
    """

    world: World
    rng: random.Random
    struck: bool = False
    _gone: frozenset[AgentId] = frozenset()
    _due: bool = False

    def weather(self) -> Weather:
        """As it was drawn, but calm early enough for the end to be awaited."""
        world, drawn = self.world, self.world.weather
        calm_after_s = min(drawn.calm_after_s, world.until_s / 2)
        return replace(drawn, calm_after_s=calm_after_s, progress_s=drawn.progress_s + LOST_AFTER_S + FOLLOWS_S)

    def begin(self) -> None:
        """It comes some time."""
        world = self.world
        world.after(self.rng.uniform(*STRIKES) * world.until_s, self._prepare)

    def _prepare(self) -> None:
        self._due = True
        self.world.after(ANSWER_S, self._strike)

    def answered(self) -> None:
        """An operator was just told that an instruction applied."""
        if self._due:
            self._strike()

    def _strike(self) -> None:
        world = self.world
        if self.struck or world.calm():  # who is to stay away to the end is chosen by then
            return
        self._gone = frozenset(world.mishaps.expelled)
        voters = world.checks.configuration_at(world.checks.last).voters
        members = {agent.id for agent in world.alive() if knows_itself(agent)} - self._gone
        least, most = majority(len(voters)), len(voters) if members - set(voters) else len(voters) - 1
        if least > most:
            return
        lost = [world.agents[voter] for voter in self.rng.sample(voters, self.rng.randint(least, most))]
        if not members - {agent.id for agent in lost}:
            return
        self.struck = True
        world.faults += 1
        for agent in lost:
            world.say(f"{world.cast.name(agent.id)} is lost")
            world.left_out.add(agent.id)
            world.crash(agent)
        if self.rng.random() > FOR_GOOD:
            world.after(self.rng.uniform(*AWAY_S), lambda: self._come_back(lost))
        world.after(LOOKS_EVERY_S, self._look)

    def _come_back(self, lost: list[SimAgent]) -> None:
        for agent in lost:
            self.world.left_out.discard(agent.id)
            self.world.restart(agent, self.rng.random())

    def _look(self) -> None:
        """`agent recover --new-epoch`, as soon as it isn't refused; nobody begins the same epoch twice."""
        world = self.world
        if world.epoch > 1:
            return
        world.after(LOOKS_EVERY_S, self._look)
        found: list[Recovery] = []
        for agent in world.alive():
            if not agent.paused and agent.id not in self._gone:
                world.hand_in(agent, lambda core, when: found.append(core.epochs.look(when)))
        best = max(found, key=lambda look: look.rank, default=None)
        if best is not None and not best.unfit:
            survivor = world.agents[best.survivor.id]
            world.hand_in(survivor, lambda core, when: self._recover(survivor, best, core, when))

    def _recover(self, survivor: SimAgent, look: Recovery, core: NodeCore, when: Instant) -> None:
        cast, body = self.world.cast, encode_body(look.beginning())
        token = sign_instruction(
            cast.operator_key,
            operator_name=OPERATOR,
            cluster=cast.genesis.cluster,
            epoch=look.epoch,
            act="recover",
            target="cluster",
            revision=look.revision + 1,
            body_bytes=body,
            now_s=when.wall_ms / 1000,
            jti=self.rng.randbytes(16).hex(),
        )
        try:
            begun = core.epochs.begin(token, body, when)
        except Conflict:  # it has heard of a majority since
            return
        begin_epoch(self.world, survivor, begun.snapshot)


def begin_epoch(world: World, agent: SimAgent, snapshot: Snapshot) -> None:
    """As the driver does: nothing is written behind what was under way but this, and the agent starts anew with it."""
    world.crash(agent)
    begins = agent.disk.epoch == world.epoch  # who crashes then has to be without a majority for as long again
    if not agent.unfinished and world.rng.random() < UNFINISHED and not (begins and world.calm()):
        agent.unfinished = True
        world.restart(agent, world.rng.random())
        return
    life = agent.life

    def written() -> None:
        if agent.life == life and agent.id not in world.left_out:
            _begun(world, agent, snapshot)

    world.after(world.weather.write_s, written)


def _begun(world: World, agent: SimAgent, snapshot: Snapshot) -> None:
    state, before = decode_snapshot(snapshot.data, verify=False), world.judge(agent)
    world.say(f"{world.cast.name(agent.id)} is in epoch {state.epoch} from entry {snapshot.index} on")
    before.disks[agent.id] = agent.disk.copied()
    if state.epoch > world.epoch:
        world.earlier[world.epoch], world.epoch = before, state.epoch
        world.checks = before.next(agent.id, agent.disk, snapshot, state)
        world.operators.follow(state)
    agent.disk.begin_epoch(snapshot)
    agent.disk.epoch = state.epoch
    world.start(agent)
