"""Two versions in one cluster, upgraded host by host while faults go on."""

from __future__ import annotations

import pytest
from msgspec import Struct

from agent.node import versions
from agent.node.messages import KeptFrame
from agent.node.versions import FRAME_VERSION
from tests.sim.checks import Violated
from tests.sim.mutants import UPGRADES
from tests.sim.world import World


@pytest.mark.parametrize("seed", range(2))
def test_what_only_the_later_version_knows_waits_until_all_are_upgraded(seed: int) -> None:
    """That all have the same state at the same entry is checked all along."""
    world = World(seed, size=(3, 4)[seed], focus=UPGRADES).run()
    assert world.versions is not None
    assert world.versions.raised_s is not None, "once everybody could follow"
    assert min(world.versions.spoken[version] for version in (FRAME_VERSION - 1, FRAME_VERSION)) > 100
    drained = [
        record.at
        for agent in world.alive()
        if agent.core is not None
        for target, record in agent.core.context.state.targets.items()
        if target.startswith("host:")
    ]
    assert drained, "and then it was used"


def test_a_frame_that_its_receiver_does_not_know_yet_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    kind: type[Struct] = KeptFrame
    monkeypatch.setitem(versions.SINCE, kind, FRAME_VERSION)  # nobody asks before it is sent
    with pytest.raises(Violated, match=f"a frame that version {FRAME_VERSION - 1} doesn't know: KeptFrame"):
        World(1, focus=UPGRADES).run()
