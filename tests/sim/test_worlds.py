"""A batch of worlds with every test run: fixed seeds, and fresh ones whose failure prints how to see it again."""

from __future__ import annotations

import random

import pytest

from tests.sim.__main__ import size_of
from tests.sim.checks import Violated
from tests.sim.world import World

# Worlds that once broke something: a timer that spun while a decision was on its way (9, 11), while an instruction
# waited for a majority (6, 7), and while an observer waited for its voter (18, 33).
BROKE_SOMETHING = (6, 7, 9, 11, 18, 33)
FIXED = tuple(range(100, 124))
FRESH = 12


@pytest.mark.parametrize("seed", [*BROKE_SOMETHING, *FIXED])
def test_every_property_holds_in_the_world_of_seed(seed: int) -> None:
    World(seed, size=size_of(seed), until_s=30.0).run()


def test_every_property_holds_in_fresh_worlds() -> None:
    for seed in [random.SystemRandom().getrandbits(32) for _ in range(FRESH)]:
        try:
            World(seed, size=size_of(seed), until_s=30.0).run()
        except (Violated, AssertionError) as error:
            pytest.fail(f"seed {seed}: {error}\nagain, line by line: make sim SEED={seed}")


def test_the_same_seed_is_the_same_history() -> None:
    def history(seed: int) -> list[str]:
        lines: list[str] = []
        World(seed, size=3, until_s=15.0, trace=lines.append).run()
        return lines

    first = history(1)
    assert first == history(1)
    assert len(first) > 500
    assert first != history(2)
