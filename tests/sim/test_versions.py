"""Two versions in one cluster, upgraded host by host while faults go on."""

from __future__ import annotations

import pytest

from tests.sim.mutants import UPGRADES
from tests.sim.world import World


@pytest.mark.parametrize("seed", range(2))
def test_what_only_the_later_version_knows_waits_until_all_are_upgraded(seed: int) -> None:
    """That all have the same state at the same entry is checked all along."""
    world = World(seed, size=(3, 4)[seed], focus=UPGRADES).run()
    assert world.versions is not None
    assert world.versions.raised_s is not None, "once everybody could follow"
    drained = [
        record.at
        for agent in world.alive()
        if agent.core is not None
        for target, record in agent.core.context.state.targets.items()
        if target.startswith("host:")
    ]
    assert drained, "and then it was used"
