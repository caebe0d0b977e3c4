"""The simulator has to catch what it is there for: bugs that show at once here, all of them in `make sim-mutants`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.sim.mutants import SCENES, worlds_until_caught
from tests.sim.world import World

SEEDS = 20  # mostly the first one does: a change of anything gives every seed another history
QUICK = (
    "append acknowledged before persist",
    "vote for a log that is behind",
    "two votes in a term",
    "late append truncates",
    "revision not checked",
    "answer before apply",
    "no CheckQuorum",
    "change before an own-term commit",
    "acknowledgements counted across terms",
)


@pytest.mark.parametrize("name", QUICK)
def test_a_bug_that_is_switched_on_is_caught(name: str) -> None:
    assert worlds_until_caught(name, seeds=SEEDS) is not None


@pytest.mark.parametrize("scene", dict.fromkeys(SCENES.values()), ids=lambda scene: scene.__name__)
def test_what_is_directed_for_a_bug_passes_without_it(scene: Callable[[], World]) -> None:
    world = scene().run()
    assert world.operators.applied_at > world.until_s / 2
