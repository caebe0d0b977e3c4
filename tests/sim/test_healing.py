"""Voter healing with the real autopilot: voters die one after another, hosts join, and some come back after months."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agent.node.machine import Compaction
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
def test_hosts_die_one_after_another_and_others_take_their_place(size: int, deaths: int) -> None:
    def kill_the_coordinator(world: World) -> None:
        lose(world, next((agent for agent in world.alive() if agent.leads), world.alive()[0]))

    def script(world: World) -> None:
        for number in range(1, deaths + 1):
            world.after(number * HEALS_S, lambda: kill_the_coordinator(world))

    world = World(size, size=size, until_s=(deaths + 1) * HEALS_S, given=Weather.slow(), script=script).run()
    alive = {world.cast.name(agent.id) for agent in world.alive()}
    assert len(alive) == size - deaths
    assert len(voters(world) & alive) == 2, "down to the last two"


def test_a_single_voter_grows_to_three_with_the_hosts_that_join() -> None:
    def script(world: World) -> None:
        world.after(5.0, lambda: world.operators.join(2))

    world = World(1, size=1, until_s=40.0, given=Weather.slow(), script=script).run()
    assert voters(world) == {"n1", "n2", "n3"}


def test_two_hosts_have_one_voter_and_the_other_can_go_and_come() -> None:
    def script(world: World) -> None:
        world.after(10.0, lambda: world.crash(named(world, "n2")))
        world.after(20.0, lambda: world.start(named(world, "n2")))

    world = World(2, size=2, until_s=30.0, given=Weather.slow(), script=script).run()
    assert voters(world) == {"n1"}


def test_an_old_voter_that_comes_back_and_a_new_one_that_it_never_met() -> None:
    """n3 is replaced by n4 while it is away; when n1 dies, n2, n4 and the returned n3 go on (ARCHITECTURE.md
    "Membership and links")."""

    def script(world: World) -> None:
        world.after(10.0, lambda: world.crash(named(world, "n3")))
        world.after(12.0, lambda: world.operators.join(1))
        world.after(70.0, lambda: world.start(named(world, "n3")))
        world.after(100.0, lambda: lose(world, named(world, "n1")))

    world = World(3, size=3, until_s=160.0, given=Weather.slow(), script=script).run()
    assert voters(world) >= {"n2", "n4"}


def test_a_voter_comes_back_long_after_all_others_that_it_knew_are_gone_for_good() -> None:
    """n3 knows n1 and n2 as voters beside itself, and an end of the log that nobody has any more."""

    def script(world: World) -> None:
        world.after(10.0, lambda: world.crash(named(world, "n3")))
        world.after(12.0, lambda: world.operators.join(3))
        world.after(80.0, lambda: lose(world, named(world, "n1")))
        world.after(80.0 + HEALS_S, lambda: lose(world, named(world, "n2")))
        world.after(80.0 + 2 * HEALS_S, lambda: world.start(named(world, "n3")))

    often = Compaction(every_entries=20, kept_entries=0)
    weather = replace(Weather.slow(), compaction=often)
    world = World(4, size=3, until_s=80.0 + 3 * HEALS_S, given=weather, script=script).run()
    back = named(world, "n3")
    assert back.core is not None
    assert voters(world) >= {"n4", "n5", "n6"} - {"n3"}
    assert {world.cast.name(voter) for voter in back.voters} == voters(world)


def test_a_witness_votes_when_another_dies_and_runs_nothing() -> None:
    def script(world: World) -> None:
        world.witnesses.add(named(world, "n3").id)
        world.after(15.0, lambda: lose(world, named(world, "n1")))

    world = World(5, size=3, until_s=30.0, given=Weather.slow(), script=script).run()
    witness, other = named(world, "n3"), named(world, "n2")
    assert witness.core is not None
    assert len(witness.voters) == 3
    hosts = {assignment.host for assignment in witness.core.context.state.assignments.values()}
    assert hosts
    assert witness.id not in hosts
    assert other.id in hosts
