"""Somebody puts an older copy of a voter's disk back, while the others work: nothing acknowledged is lost by it."""

from __future__ import annotations

import copy

import pytest

from tests.sim.disk import SimDisk
from tests.sim.scenes import a_disk_that_went_back_beside_one_that_was_away, a_sole_voters_disk_that_went_back
from tests.sim.test_healing import named, voters
from tests.sim.weather import Weather
from tests.sim.world import SimAgent, World

COPIED_AT_S = 6.0
PUT_BACK_AT_S = 12.0
REPLACED_S = 60.0  # 30 s until it counts as dead, 10 s of health, and some


@pytest.mark.parametrize("starts_between", [0, 2])
@pytest.mark.parametrize("seed", range(3))
def test_a_voter_with_an_older_disk_is_replaced_and_comes_anew(seed: int, starts_between: int) -> None:
    chosen: list[SimAgent] = []

    def copy_the_disk(world: World) -> None:
        victim = next(agent for agent in world.alive() if not agent.leads)
        chosen.append(victim)
        older = copy.deepcopy(victim.disk)
        for number in range(starts_between):
            world.after(1.0 + number, lambda: bounce(world, victim))
        world.after(PUT_BACK_AT_S - COPIED_AT_S, lambda: put_back(world, victim, older))

    def bounce(world: World, victim: SimAgent) -> None:
        world.crash(victim)
        world.start(victim)

    def put_back(world: World, victim: SimAgent, older: SimDisk) -> None:
        world.crash(victim)
        victim.disk = older
        world.start(victim)

    def script(world: World) -> None:
        world.after(COPIED_AT_S, lambda: copy_the_disk(world))

    world = World(seed, size=3, until_s=PUT_BACK_AT_S + REPLACED_S, given=Weather.slow(), script=script).run()
    (victim,) = chosen
    assert victim.core is not None
    assert not victim.core.context.raft.fenced
    others = [agent for agent in world.alive() if agent is not victim]
    assert all(victim.id in agent.voters for agent in others), "it is a voter again"
    changes = [configuration for _, configuration in world.checks.configurations]
    assert any(victim.id not in configuration.voters for configuration in changes), "and it wasn't in between"


def test_a_sole_voter_whose_disk_is_from_before_the_cluster_grew_comes_anew() -> None:
    """It decides nothing alone, though it could, and though it is asked to."""
    world = a_sole_voters_disk_that_went_back().run()
    first = named(world, "n1")
    assert first.core is not None
    assert not first.core.context.raft.fenced
    assert voters(world) == {"n1", "n2", "n3"}


def test_who_was_away_meanwhile_waits_for_no_word_of_who_forgot_as_much() -> None:
    """The copy knows as much as the one that is away: the coordinator alone has heard of more.

    Of a copy that knows less tells tests.sim.test_world_catches, with the other scenes.
    """
    world = a_disk_that_went_back_beside_one_that_was_away(copied_after_s=4.0).run()
    assert world.operators.applied_at > world.until_s / 2
