"""The judge of histories, on histories small enough to judge by eye (Wing & Gong 1993)."""

from __future__ import annotations

from tests.sim.linear import Operation, linearizable, smallest_wrong


def test_one_after_the_other() -> None:
    assert linearizable([Operation(1, "a", 0, 1, "applied"), Operation(2, "b", 2, 3, "applied")])


def test_two_that_overlap_may_go_either_way() -> None:
    assert linearizable([Operation(2, "b", 0, 3, "applied"), Operation(1, "a", 1, 2, "applied")])


def test_nothing_takes_effect_before_it_was_sent() -> None:
    assert not linearizable([Operation(2, "b", 0, 1, "applied"), Operation(1, "a", 2, 3, "applied")])


def test_two_dont_take_one_revision() -> None:
    assert not linearizable([Operation(1, "a", 0, 1, "applied"), Operation(1, "b", 0, 1, "applied")])


def test_what_wasnt_answered_may_have_happened() -> None:
    assert linearizable([Operation(1, "a", 0), Operation(2, "b", 1, 2, "applied")])


def test_a_conflict_by_an_old_state_is_found() -> None:
    """Revision 2 was applied and told; that 3 comes out of turn was true before only."""
    applied = [Operation(1, "a", 0, 1, "applied"), Operation(2, "b", 2, 3, "applied")]
    stale = Operation(3, "c", 4, 5, "conflict")
    following = Operation(3, "d", 6, 7, "applied")
    assert not linearizable([*applied, stale, following])


def test_of_a_wrong_history_what_makes_it_wrong_is_told() -> None:
    """b and c have one revision; a, which came before, and what came later don't matter."""
    one, two = Operation(2, "b", 2, 3, "applied"), Operation(2, "c", 4, 5, "applied")
    before, after = Operation(1, "a", 0, 1, "applied"), Operation(3, "d", 6, 7, "applied")
    assert smallest_wrong([before, one, two, after]) == [one, two]


def test_an_answer_by_an_old_state_is_told_with_those_that_it_contradicts() -> None:
    applied = [Operation(number, f"{number}", 2 * number, 2 * number + 1, "applied") for number in range(1, 6)]
    stale, following = Operation(6, "stale", 20, 21, "conflict"), Operation(6, "other", 22, 23, "applied")
    assert smallest_wrong([*applied, stale, following]) == [applied[-1], stale, following]
