"""The simulator has to catch what it is there for: bugs that show at once here, all of them in `make sim-mutants`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from tests.sim.mutants import MUTANTS, SCENES, worlds_until_caught
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


def signature_of(function: Any) -> inspect.Signature:
    return inspect.signature(getattr(function, "__func__", function))  # of a class method, too


@pytest.mark.parametrize("name", MUTANTS)
def test_a_bug_is_called_as_what_it_stands_in_for(name: str) -> None:
    owner, attribute, mutation = MUTANTS[name]
    original = owner.__dict__[attribute]
    parameters = signature_of(original).parameters.values()
    named = {each.name: None for each in parameters if each.kind is each.KEYWORD_ONLY}
    signature_of(mutation(original)).bind(*[None] * (len(parameters) - len(named)), **named)


@pytest.mark.parametrize("scene", dict.fromkeys(SCENES.values()), ids=lambda scene: scene.__name__)
def test_what_is_directed_for_a_bug_passes_without_it(scene: Callable[[], World]) -> None:
    world = scene().run()
    assert world.operators.applied_at > world.until_s / 2
