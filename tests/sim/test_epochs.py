"""The majority of the voters is lost, and the others go on in another epoch (docs/operations.md)."""

from __future__ import annotations

import pytest

from tests.sim import disaster
from tests.sim.disaster import Disaster
from tests.sim.weather import Weather
from tests.sim.world import World

AFTER_IT_BEGAN_S = 24.0  # after the loss; it takes 10 s until an epoch may begin, and another look or two
BEFORE_IT_BEGINS_S = 5.0


def bereft(monkeypatch: pytest.MonkeyPatch, size: int, *, back_after_s: float | None) -> World:
    """Whose only misfortune is to lose a majority of its voters, for so long or for good (None)."""
    monkeypatch.setattr(disaster, "FOR_GOOD", 1.0 if back_after_s is None else 0.0)
    monkeypatch.setattr(disaster, "AWAY_S", (back_after_s, back_after_s))
    weather = Weather(calm_after_s=30.0, progress_s=10.0, pace_s=6.0, bereft=1.0)
    return World(size, size=size, given=weather).run()


def struck(world: World) -> Disaster:
    assert world.disaster is not None
    assert world.disaster.struck
    return world.disaster


def epochs(world: World) -> dict[str, int]:
    return {world.cast.name(agent.id): agent.disk.epoch for agent in world.alive()}


@pytest.mark.parametrize(("seed", "size"), [(100, 2), (102, 4), (103, 5)])
def test_every_property_holds_in_worlds_that_lose_their_majority(
    monkeypatch: pytest.MonkeyPatch, seed: int, size: int
) -> None:
    monkeypatch.setattr(disaster, "FOR_GOOD", 1.0)
    world = World(seed, size=size, focus={"bereft": 1.0}).run()
    struck(world)
    assert world.epoch == 2
    assert world.operators.applied_at > world.weather.calm_after_s


@pytest.mark.parametrize("size", [2, 3])
def test_a_survivor_goes_on_in_another_epoch_with_what_it_has(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    world = bereft(monkeypatch, size, back_after_s=None)
    lost = struck(world).world.left_out
    assert world.epoch == 2
    assert lost.isdisjoint(agent.id for agent in world.alive())
    assert set(epochs(world).values()) == {2}
    assert world.operators.applied_at > 40.0


def test_a_majority_of_the_epoch_before_that_comes_back_is_heard_by_nobody_and_joins(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Together they could elect and commit; everyone's ledger is the survivor's at the end."""
    world = bereft(monkeypatch, 3, back_after_s=AFTER_IT_BEGAN_S)
    struck(world)
    assert epochs(world) == {world.cast.name(agent): 2 for agent in world.agents}


def test_a_majority_that_is_back_in_time_goes_on_in_the_same_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    world = bereft(monkeypatch, 3, back_after_s=BEFORE_IT_BEGINS_S)
    struck(world)
    assert set(epochs(world).values()) == {1}
    assert world.operators.applied_at > 40.0
