"""Many hosts that don't vote, while the voters that they follow are lost: each finds another one, the coordinator goes
on seeing all of them, and what operators send through them applies once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import pytest

from agent.net.links import LINGER_S
from agent.node.choosing import voter_for
from agent.node.coordination import BEHIND_S
from agent.node.local_host import REPORT_EVERY_S
from agent.node.subscriptions import SEEK_S
from tests.sim.liars import Withholder
from tests.sim.test_voters import coordinator
from tests.sim.weather import Weather
from tests.sim.world import SimAgent, World

CALM = replace(Weather.fair(), pace_s=3.0)  # every instruction goes to all of them
SIZE = 15  # five vote, ten don't
MOVES_S = 1.0  # until who lost its voter follows another one, and has told the coordinator
NOTICED_S = 2.0  # a host that is silent (agent.net.links)
APART_S = 8.0  # between two losses
FIRST_AT_S = 5.0
FOUND_S = BEHIND_S + REPORT_EVERY_S + SEEK_S + 3.0  # it is noticed, dialled, told, and catches up
NEARLY_ENTRIES = 20  # on their way


def observers(world: World) -> list[SimAgent]:
    return [agent for agent in world.alive() if agent.id not in coordinator(world).voters]


def the_most_followed(world: World) -> SimAgent:
    """Of those that don't coordinate."""
    followed = [agent.core.context.followed for agent in observers(world) if agent.core is not None]
    voters = [voter for voter in coordinator(world).voters if voter != coordinator(world).id]
    return world.agents[max(voters, key=lambda voter: (followed.count(voter), voter))]


def must_be_seen(world: World, lost: SimAgent) -> None:
    lead = coordinator(world).core
    assert lead is not None
    facts = lead.coordination.facts(world._instant(coordinator(world)))
    for agent in observers(world):
        assert agent.core is not None
        assert agent.core.context.followed not in (None, lost.id)
        assert agent.core.context.leader == lead.context.id
        assert facts.of(agent.id).liveness == "alive"
        assert lead.context.id == agent.core.context.followed or (
            lead.coordination.asking.ways[agent.id] == agent.core.context.followed
        ), "the coordinator knows which way its errands go"


def must_be_spread(world: World) -> None:
    """Each follows the voter that its hash says, and has this link alone."""
    voters = coordinator(world).voters
    for agent in observers(world):
        assert agent.core is not None
        assert agent.core.context.followed == voter_for(agent.id, voters)
        assert sum(agent.id in pair for pair in world.network.links) == 1


def crash(world: World) -> SimAgent:
    """Its kernel says so."""
    lost = the_most_followed(world)
    world.crash(lost)
    world.after(APART_S / 2, lambda: world.start(lost))
    return lost


def cut_off(world: World) -> SimAgent:
    """Without a word; it is back before it counts as dead."""
    lost = the_most_followed(world)
    paths = [pair for other in world.agents if other != lost.id for pair in ((lost.id, other), (other, lost.id))]
    world.network.block(paths, APART_S / 2, NOTICED_S)
    return lost


@pytest.mark.parametrize(("loses", "noticed_s"), [(crash, 0.0), (cut_off, NOTICED_S)])
def test_who_loses_its_voter_follows_another_one_soon_and_comes_back(
    loses: Callable[[World], SimAgent], noticed_s: float
) -> None:
    lost: list[SimAgent] = []

    def lose(world: World) -> None:
        lost.append(loses(world))
        world.after(noticed_s + MOVES_S, lambda: must_be_seen(world, lost[-1]))

    def script(world: World) -> None:
        for number in range(3):
            world.after(FIRST_AT_S + number * APART_S, partial(lose, world))

    until_s = FIRST_AT_S + 3 * APART_S + REPORT_EVERY_S + LINGER_S
    world = World(21, size=SIZE, until_s=until_s, given=CALM, script=script).run()
    assert len(lost) == 3
    assert world.operators.applied_at > until_s - 10.0
    must_be_spread(world)


@pytest.mark.parametrize("seed", [41, 42])
def test_who_follows_a_voter_that_holds_the_ledgers_news_back_follows_another_one(seed: int) -> None:
    """All else looks well: it names who coordinates, and passes on what its followers report."""
    liars: list[Withholder] = []

    def withhold(world: World) -> None:
        liars.append(Withholder(world, the_most_followed(world)))
        liars[0].begin()

    def must_know_all(world: World) -> None:
        lead, liar = coordinator(world), liars[0].agent
        assert liars[0].kept > 0
        assert liar.id in lead.voters, "it is a good voter"
        assert lead.core is not None
        for agent in observers(world):
            assert agent.core is not None
            assert agent.core.context.followed not in (None, liar.id)
            assert lead.core.context.state.index - agent.core.context.state.index < NEARLY_ENTRIES

    def script(world: World) -> None:
        world.after(FIRST_AT_S, lambda: withhold(world))
        world.after(FIRST_AT_S + FOUND_S, lambda: must_know_all(world))

    World(seed, size=SIZE, until_s=FIRST_AT_S + FOUND_S + 1.0, given=CALM, script=script).run()


@pytest.mark.parametrize("seed", [31, 32])
def test_every_property_holds_with_many_hosts_that_do_not_vote(seed: int) -> None:
    World(seed, size=9, until_s=30.0).run()
