"""A clock that is years off, on one host after another, while faults go on: the ledger's time stays near the true one.

A stamp that a leader wrote by a wrong clock would wait in its log, and the next host whose clock is wrong would take
it.
"""

from __future__ import annotations

import pytest

from tests.sim.weather import Weather
from tests.sim.world import START_WALL_MS, World

YEARS_MS = 10 * 365 * 86_400_000
DAY_MS = 86_400_000


@pytest.mark.parametrize("seed", range(5))
def test_one_clock_after_another_years_ahead_or_in_1970_moves_nothing(seed: int) -> None:
    def misset(world: World) -> None:
        agents = list(world.agents.values())
        for agent in agents:
            agent.clock_skew_ms = 0
        world.rng.choice(agents).clock_skew_ms = world.rng.choice([0, YEARS_MS, YEARS_MS, -START_WALL_MS])
        world.after(5.0, lambda: misset(world))

    def lose_the_coordinator(world: World) -> None:
        for agent in [agent for agent in world.alive() if agent.leads]:
            world.crash(agent)
            world.restart(agent, 1.0)
        world.after(7.0, lambda: lose_the_coordinator(world))

    def script(world: World) -> None:
        world.after(0.0, lambda: misset(world))
        world.after(6.0, lambda: lose_the_coordinator(world))

    world = World(seed, size=3, until_s=60.0, given=Weather.slow(), script=script).run()
    times = [agent.core.context.state.at for agent in world.alive() if agent.core is not None]
    assert max(abs(at - world.wall_ms) for at in times) < DAY_MS
    assert world.operators.applied_at > 45.0
