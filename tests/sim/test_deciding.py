"""The coordinator decides on what changed: that must be all there is to decide on."""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any
from unittest import mock

import pytest

import agent.node.coordination
from agent.control import ClusterFacts, Decision, decide
from agent.model.ledger import AssignEntry, PhaseEntry
from agent.state import ClusterState
from tests.sim.batch import size_of
from tests.sim.world import World


@pytest.mark.parametrize("seed", [1002, 1006, 1018])
def test_a_stack_that_is_not_decided_on_again_has_nothing_to_be_decided(seed: int) -> None:
    left_out: list[str] = []

    def both(
        state: ClusterState,
        facts: ClusterFacts,
        now_ms: int,
        *,
        only: Container[str] | None,
        waiting: Mapping[str, Any],
    ) -> Decision:
        some, whole = decide(state, facts, now_ms, only=only, waiting=waiting), decide(state, facts, now_ms)
        # Those that wait for hosts are looked at in time; the others have to be as they should be.
        unseen = [name for name in state.stacks if only is not None and name not in only and name not in waiting]
        left_out.extend(unseen)
        for entry in whole.entries:
            assert isinstance(entry, AssignEntry | PhaseEntry)
            assert entry.stack not in unseen, f"{entry} is decided too late"
        assert not whole.waiting.keys() & set(unseen)
        return some

    with mock.patch.object(agent.node.coordination, "decide", both):
        World(seed, size=size_of(seed), until_s=30.0).run()
    assert left_out, "all stacks were decided on each time"
