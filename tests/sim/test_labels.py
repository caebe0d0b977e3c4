"""Hosts' labels change while faults go on, and services want some: every agent comes to the same state."""

from __future__ import annotations

import pytest

from tests.sim.world import World

RELABELLING = {"labelled": 1.0, "weights": {"drain": 4.0, "crash_leader": 1.0, "cut": 1.0, "enrol": 0.5}}


@pytest.mark.parametrize("seed", range(2))
def test_labels_change_in_every_agents_ledger_alike(seed: int) -> None:
    """That all have the same state at the same entry, and prove each other's snapshots, is checked all along."""
    world = World(seed, size=(3, 4)[seed], focus=RELABELLING).run()
    states = [agent.core.context.state for agent in world.alive() if agent.core is not None]
    relabelled = {item.target for state in states for item in state.evidence.values() if item.act == "relabel"}
    assert relabelled, "labels were changed"
