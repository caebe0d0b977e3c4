"""The simulator has to catch what it is there for: known ways to break consensus, switched on one at a time."""

from __future__ import annotations

import itertools

import msgspec
import pytest

from agent.errors import InvariantBroken
from agent.raft import Persist, RaftError
from agent.state import Applied, ClusterState, apply
from tests.sim.checks import Violated
from tests.sim.disk import SimDisk
from tests.sim.world import World

WORLDS = 60


def _some_world_fails() -> None:
    with pytest.raises((Violated, AssertionError, RaftError, InvariantBroken, ValueError)):
        _run_worlds()


def _run_worlds() -> None:
    for seed in range(WORLDS):
        World(seed, size=3, until_s=30.0).run()


def test_a_state_machine_that_depends_on_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    flips = itertools.count()

    def applies_differently(
        state: ClusterState, index: int, data: bytes, *, verify: bool = True
    ) -> tuple[ClusterState, Applied]:
        after, applied = apply(state, index, data, verify=verify)
        return msgspec.structs.replace(after, chain=f"{next(flips):064x}"), applied

    monkeypatch.setattr("agent.node.machine.apply", applies_differently)
    _some_world_fails()


def test_entries_that_are_acknowledged_before_they_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    write = SimDisk.write

    def forgets_entries_now_and_then(self: SimDisk, persist: Persist, verified_through: int) -> None:
        if persist.entries and persist.entries[-1].index % 5 == 0:
            persist = msgspec.structs.replace(persist, entries=persist.entries[:-1])
        write(self, persist, verified_through)

    monkeypatch.setattr(SimDisk, "write", forgets_entries_now_and_then)
    _some_world_fails()
