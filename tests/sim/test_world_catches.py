"""The simulator has to catch what it is there for: bugs that show at once here, all of them in `make sim-mutants`."""

from __future__ import annotations

import pytest

from tests.sim.mutants import seeds_until_caught

QUICK = (
    "append acknowledged before persist",
    "vote for a log that is behind",
    "two votes in a term",
    "late append truncates",
    "snapshot loses the configuration",
    "snapshot of an older state",
    "apply twice after a restart",
    "revision not checked",
    "answer before apply",
)


@pytest.mark.parametrize("name", QUICK)
def test_a_bug_that_is_switched_on_is_caught(name: str) -> None:
    assert seeds_until_caught(name, seeds=4) is not None
