"""A voter that lies about the past to whoever was away: nobody believes what a majority doesn't have."""

from __future__ import annotations

import pytest

from tests.sim.scenes import a_doctored_snapshot


@pytest.mark.parametrize("seed", range(2))
def test_a_doctored_snapshot_is_nowhere_taken_and_the_true_one_comes(seed: int) -> None:
    """The world's checks say the first: no agent ever has another state than the others at the same entry."""
    world = a_doctored_snapshot(seed).run()
    assert world.faults > 0, "it lied"
    assert world.operators.applied_at > world.until_s / 2
