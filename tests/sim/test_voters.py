"""Voter healing in every size that people have: 1, 2, 3, 5 and 9 hosts, lost for a while, for good, and for months."""

from __future__ import annotations

from functools import partial

from tests.sim.test_healing import HEALS_S, die, lose, must_apply_soon, named, voters
from tests.sim.weather import Weather
from tests.sim.world import SimAgent, World


def coordinator(world: World) -> SimAgent:
    return next((agent for agent in world.alive() if agent.leads), world.alive()[0])


def alive(world: World) -> set[str]:
    return {world.cast.name(agent.id) for agent in world.alive()}


def kill_the_coordinator(world: World) -> None:
    lose(world, coordinator(world))


def test_one_host_goes_on_when_it_is_back() -> None:
    def script(world: World) -> None:
        world.after(5.0, lambda: world.crash(named(world, "n1")))
        world.after(15.0, lambda: world.start(named(world, "n1")))
        world.after(15.0, lambda: must_apply_soon(world, world.now))

    world = World(11, size=1, until_s=40.0, given=Weather.slow(), script=script).run()
    assert voters(world) == {"n1"}


def test_of_two_hosts_the_voter_is_waited_for_and_nothing_is_lost_meanwhile() -> None:
    stuck: list[float] = []

    def script(world: World) -> None:
        world.after(5.0, lambda: world.crash(named(world, "n1")))
        world.after(30.0, lambda: stuck.append(world.operators.applied_at))
        world.after(30.0, lambda: world.start(named(world, "n1")))
        world.after(30.0, lambda: must_apply_soon(world, world.now))

    world = World(12, size=2, until_s=60.0, given=Weather.slow(), script=script).run()
    assert stuck[0] < 6.0, "the observer alone decides nothing"
    assert voters(world) == {"n1"}


def test_nine_hosts_die_one_after_another_and_others_vote_in_their_place() -> None:
    deaths, seen = 7, []

    def script(world: World) -> None:
        for number in range(1, deaths + 1):
            world.after(number * HEALS_S - 1.0, lambda: seen.append(len(voters(world) & alive(world))))
            world.after(number * HEALS_S, lambda: kill_the_coordinator(world))

    world = World(9, size=9, until_s=(deaths + 1) * HEALS_S, given=Weather.slow(), script=script).run()
    assert len(alive(world)) == 9 - deaths
    assert voters(world) <= alive(world), "nobody who is gone votes"
    assert seen[:5] == [5, 5, 5, 5, 5], "as long as there are five, five vote"
    assert len(voters(world)) == 2


def test_hosts_that_are_added_while_others_die_take_their_place() -> None:
    def script(world: World) -> None:
        for number in (1, 2):
            world.after(number * 2 * HEALS_S - 20.0, lambda: world.operators.join(1))
            world.after(number * 2 * HEALS_S, lambda: kill_the_coordinator(world))

    world = World(14, size=3, until_s=5.5 * HEALS_S, given=Weather.slow(), script=script).run()
    assert len(world.alive()) == 3
    assert voters(world) == alive(world)


def lose_named(world: World, name: str) -> None:
    lose(world, named(world, name))


def test_a_founder_back_after_months_finds_a_cluster_of_others() -> None:
    """n3 was away while n1 and n2 were replaced by hosts that it never met, and died."""

    def script(world: World) -> None:
        world.after(10.0, lambda: die(world, named(world, "n3")))
        world.after(12.0, lambda: world.operators.join(3))
        for number, name in enumerate(("n1", "n2"), 2):
            world.after(number * HEALS_S, partial(lose_named, world, name))
        world.after(4 * HEALS_S, lambda: back(world))

    def back(world: World) -> None:
        world.left_out.discard(named(world, "n3").id)
        world.start(named(world, "n3"))

    world = World(15, size=3, until_s=5.5 * HEALS_S, given=Weather.slow(), script=script).run()
    assert voters(world) >= {"n4", "n5", "n6"}
    returned = named(world, "n3").core
    assert returned is not None
    assert returned.context.leader is not None, "it knows who coordinates, though it never met the coordinator before"


def test_two_old_voters_that_come_back_together_elect_nobody() -> None:
    """They are a majority of the configuration that they know, and the cluster has another one by now."""

    def script(world: World) -> None:
        world.after(10.0, lambda: world.operators.join(2))
        world.after(1 * HEALS_S, lambda: world.crash(named(world, "n2")))
        world.after(2 * HEALS_S, lambda: world.crash(named(world, "n3")))
        world.after(3 * HEALS_S, lambda: world.start(named(world, "n2")))
        world.after(3 * HEALS_S, lambda: world.start(named(world, "n3")))

    world = World(16, size=3, until_s=3.6 * HEALS_S, given=Weather.slow(), script=script).run()
    assert len([agent for agent in world.alive() if agent.leads]) == 1
    assert {"n4", "n5"} & voters(world)
