"""How far the ledger was: never more than it was then, and no less than a mark before."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.node.trail import KEPT_MARKS, MARK_EVERY_S, Trail

STEPS = st.lists(st.tuples(st.floats(0.01, 3.0), st.integers(0, 5)), min_size=1, max_size=200)


@given(STEPS, st.floats(0.0, KEPT_MARKS / 2))
def test_it_was_as_far_as_it_says_and_a_mark_later_no_less_far(steps: list[tuple[float, int]], ago_s: float) -> None:
    trail, past, now, index = Trail(), [(0.0, 0)], 0.0, 0
    for wait_s, grown in steps:
        now, index = now + wait_s, index + grown
        trail.note(index, now)
        past.append((now, index))
    then = now - ago_s

    def was(at: float) -> int:
        return max((seen for seen_at, seen in past if seen_at <= at), default=0)

    assert trail.index_at(then) <= was(then)
    if max(wait_s for wait_s, _ in steps) <= MARK_EVERY_S:
        assert trail.index_at(then) >= was(then - 2 * MARK_EVERY_S)


def test_what_was_before_the_first_mark_is_not_known() -> None:
    trail = Trail()
    assert trail.index_at(5.0) == 0
    trail.note(7, 10.0)
    assert (trail.index_at(9.9), trail.index_at(10.0)) == (0, 7)
