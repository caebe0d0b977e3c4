"""Whose clock the ledger goes by: never one that most others contradict, and none that the ledger has overtaken."""

from __future__ import annotations

from hypothesis import assume, given
from hypothesis import strategies as st

from agent.control.clock import AGREES_MS, AHEAD_MS, is_far_ahead, settled_ms

NOW = 1_800_000_000_000
YEAR = 365 * AHEAD_MS
FOUNDED = NOW - YEAR
SKEWS = st.integers(-AGREES_MS // 2, AGREES_MS // 2)
ANY_CLOCK = st.integers(0, 2 * NOW)


def test_the_own_clock_holds_while_it_is_near_the_others() -> None:
    assert settled_ms(NOW, [NOW + 20_000, NOW - 20_000], FOUNDED) == NOW


def test_alone_it_is_the_only_one_there_is() -> None:
    assert settled_ms(NOW, [], FOUNDED) == NOW
    assert settled_ms(NOW + 5 * YEAR, [], FOUNDED) == NOW + 5 * YEAR


def test_a_clock_years_ahead_is_corrected_by_the_others() -> None:
    assert settled_ms(NOW + 5 * YEAR, [NOW, NOW + 1], FOUNDED) == NOW + 1
    assert settled_ms(NOW + 5 * YEAR, [NOW], FOUNDED) == NOW


def test_a_clock_from_1970_is_out_of_the_count_and_its_host_can_coordinate() -> None:
    assert settled_ms(0, [NOW, 5], FOUNDED) == NOW
    assert settled_ms(NOW, [0, 5], FOUNDED) == NOW


def test_of_two_that_differ_by_hours_the_own_one_holds() -> None:
    assert settled_ms(NOW, [NOW - AHEAD_MS // 2], FOUNDED) == NOW
    assert settled_ms(NOW, [NOW + AHEAD_MS // 2], FOUNDED) == NOW


@given(st.lists(SKEWS, min_size=2, max_size=6), st.data())
def test_a_majority_of_right_clocks_wins_whoever_coordinates(skews: list[int], data: st.DataObject) -> None:
    wrong = data.draw(st.lists(ANY_CLOCK, max_size=len(skews) - 1))
    clocks = [*(NOW + skew for skew in skews), *wrong]
    assume(len(clocks) > 2)
    me = data.draw(st.integers(0, len(clocks) - 1))
    others = clocks[:me] + clocks[me + 1 :]
    assert abs(settled_ms(clocks[me], others, FOUNDED) - NOW) <= 2 * AGREES_MS


@given(st.lists(SKEWS, min_size=2, max_size=6), st.data())
def test_what_a_majority_of_right_clocks_stamps_no_right_clock_refuses(skews: list[int], data: st.DataObject) -> None:
    wrong = data.draw(st.lists(ANY_CLOCK, max_size=len(skews) - 1))
    clocks = [*(NOW + skew for skew in skews), *wrong]
    stamp = max(FOUNDED, settled_ms(clocks[-1], clocks[:-1], FOUNDED)) if len(clocks) > 2 else NOW
    assert not any(is_far_ahead(stamp, NOW + skew, FOUNDED) for skew in skews)


@given(ANY_CLOCK, ANY_CLOCK, st.integers(0, NOW))
def test_ledger_time_is_never_far_ahead_of_itself(stamp: int, own: int, ledger: int) -> None:
    assert not is_far_ahead(min(stamp, ledger), own, ledger)


def test_a_stamp_more_than_a_day_ahead_is_refused_by_who_can_tell() -> None:
    assert is_far_ahead(NOW + AHEAD_MS + 1, NOW, FOUNDED)
    assert not is_far_ahead(NOW + AHEAD_MS, NOW, FOUNDED)
    assert not is_far_ahead(NOW + 5 * YEAR, 0, FOUNDED), "a clock behind the ledger can't tell"
