"""Worlds by the thousand: whatever goes wrong in one is told with its seed, and no world keeps a batch for ever."""

from __future__ import annotations

import signal

import pytest

from agent.errors import InvariantBroken
from tests.sim.batch import in_time, play
from tests.sim.checks import Violated
from tests.sim.world import World


def burns_a_core(world: World) -> None:
    """Something begins that doesn't end."""

    def burn() -> None:
        while True:
            pass

    world.after(0.0, burn)  # at once: on a busy machine little happens in the second that it has


def test_a_world_that_does_not_end_is_ended_and_says_when_and_where_it_was() -> None:
    with pytest.raises(Violated, match=r"at 0\.000 s: not over after 1 s: .*burn \(\d+\)"), in_time(1.0):
        World(1, script=burns_a_core).run()


def test_a_world_that_ends_in_time_leaves_no_alarm_behind() -> None:
    before = signal.getsignal(signal.SIGALRM)
    with in_time(60.0):
        World(1, until_s=1.0).run()
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert signal.getsignal(signal.SIGALRM) is before


@pytest.mark.parametrize("error", [Violated("two lead"), InvariantBroken("an entry is gone"), KeyError("n1")])
def test_whatever_breaks_in_a_world_is_told_with_its_seed(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def breaks(world: World) -> None:
        raise error

    monkeypatch.setattr(World, "run", breaks)
    seed, _, _, _, said = play(77, 60.0)
    assert (seed, said) == (77, f"{type(error).__name__}: {error}")
