"""A member that is no voter, and lies: its later terms depose nobody, and end no election for ever (thesis §4.2.3)."""

from __future__ import annotations

from agent.node.messages import RaftFrame
from agent.raft import Message
from agent.raft.messages import AppendResponse, Heartbeat, Vote
from tests.sim.weather import Weather
from tests.sim.world import Input, SimAgent, World

SPEAKS_EVERY_S = 0.05
REELECTS_S = 5.0


def _outsider(world: World) -> SimAgent:
    """The one of four hosts that doesn't vote."""
    return next(agent for agent in world.alive() if agent.id not in agent.voters)


def _speak(world: World, liar: SimAgent) -> None:
    """To every voter, in the voice of a candidate, of a leader and of a follower, each ahead of its term."""
    for agent in world.alive():
        if agent is liar or agent.core is None:
            continue
        term = agent.core.context.raft.term + world.rng.choice([0, 1, 1, 1000])
        world.checks.term = max(world.checks.term, term)  # a term that a candidate began, of sorts
        words: list[Message] = [
            Vote(term=term, last_index=10**6, last_term=term, forced=world.rng.random() < 0.5),
            Heartbeat(term=term, commit=1, round=1),
            AppendResponse(term=term, accepted=False, index=1),
        ]
        world.hand_in(agent, _said(liar, world.rng.choice(words)))
    world.after(SPEAKS_EVERY_S, lambda: _speak(world, liar))


def _said(liar: SimAgent, message: Message) -> Input:
    return lambda core, when: core.frame(liar.id, RaftFrame(message=message), when)


def test_the_coordinator_stays_whatever_a_member_that_does_not_vote_says() -> None:
    terms: set[int] = set()

    def watch(world: World) -> None:
        terms.update(agent.core.context.raft.term for agent in world.alive() if agent.core is not None and agent.leads)
        world.after(0.1, lambda: watch(world))

    def script(world: World) -> None:
        world.after(5.0, lambda: _speak(world, _outsider(world)))
        world.after(5.0, lambda: watch(world))

    world = World(7, size=4, until_s=40.0, given=Weather.slow(), script=script).run()
    assert len(terms) == 1
    assert world.operators.applied_at > 30.0


def test_another_one_is_elected_while_it_speaks() -> None:
    def die(world: World) -> None:
        leader = next(agent for agent in world.alive() if agent.leads)
        world.crash(leader)
        world.left_out.add(leader.id)
        died_at = world.now

        def check() -> None:
            assert world.operators.applied_at > died_at, "nothing applied since the coordinator died"

        world.after(2 * REELECTS_S, check)

    for seed in range(5):

        def script(world: World) -> None:
            world.after(5.0, lambda: _speak(world, _outsider(world)))
            world.after(8.0, lambda: die(world))

        World(seed, size=4, until_s=30.0, given=Weather.slow(), script=script).run()
