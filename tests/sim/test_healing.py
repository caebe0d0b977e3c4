"""Voter healing with the real autopilot: voters die one after another, hosts join, and some come back after months."""

from __future__ import annotations

import pytest

from tests.sim.weather import Weather
from tests.sim.world import SimAgent, World

HEALS_S = 45.0  # 30 s until a voter counts as dead, 10 s until an agent counts as healthy, and some
REELECTS_S = 5.0


def voters(world: World) -> set[str]:
    """As the coordinator sees them, by host name."""
    leader = max((a for a in world.alive() if a.leads), key=lambda a: a.core.context.raft.term if a.core else 0)
    return {world.cast.name(voter) for voter in leader.voters}


def named(world: World, name: str) -> SimAgent:
    return next(agent for agent in world.agents.values() if world.cast.name(agent.id) == name)


def die(world: World, agent: SimAgent) -> None:
    """For good, unless somebody starts it again."""
    world.crash(agent)
    world.left_out.add(agent.id)


def must_apply_soon(world: World, died_at: float) -> None:
    def check() -> None:
        assert world.operators.applied_at > died_at, f"nothing applied since {died_at}"

    world.after(2 * REELECTS_S, check)


def lose(world: World, agent: SimAgent) -> None:
    """It dies, and the others go on."""
    die(world, agent)
    must_apply_soon(world, world.now)


@pytest.mark.parametrize(("size", "deaths"), [(3, 1), (5, 3)])
def test_hosts_die_one_after_another_down_to_two(size: int, deaths: int) -> None:
    def kill_the_coordinator(world: World) -> None:
        lose(world, next((agent for agent in world.alive() if agent.leads), world.alive()[0]))

    def script(world: World) -> None:
        for number in range(1, deaths + 1):
            world.after(number * HEALS_S, lambda: kill_the_coordinator(world))

    world = World(size, size=size, until_s=(deaths + 1) * HEALS_S, given=Weather.fair(), script=script).run()
    assert len(world.alive()) == 2


def test_a_single_voter_grows_to_three_with_the_hosts_that_join() -> None:
    def script(world: World) -> None:
        world.after(5.0, lambda: world.operators.join(2))

    world = World(1, size=1, until_s=40.0, given=Weather.fair(), script=script).run()
    assert voters(world) == {"n1", "n2", "n3"}


def test_two_hosts_have_one_voter_and_the_other_can_go_and_come() -> None:
    def script(world: World) -> None:
        world.after(10.0, lambda: world.crash(named(world, "n2")))
        world.after(20.0, lambda: world.start(named(world, "n2")))

    world = World(2, size=2, until_s=30.0, given=Weather.fair(), script=script).run()
    assert voters(world) == {"n1"}


def test_an_old_voter_that_comes_back_and_a_new_one_that_it_never_met() -> None:
    """n3 is replaced by n4 while it is away; when n1 dies, n2, n4 and the returned n3 go on (ARCHITECTURE.md
    "Membership and links")."""

    def script(world: World) -> None:
        world.after(10.0, lambda: world.crash(named(world, "n3")))
        world.after(12.0, lambda: world.operators.join(1))
        world.after(70.0, lambda: world.start(named(world, "n3")))
        world.after(100.0, lambda: lose(world, named(world, "n1")))

    world = World(3, size=3, until_s=160.0, given=Weather.fair(), script=script).run()
    assert voters(world) >= {"n2", "n4"}
