"""The judge of histories, by eye where they are small, and against a search of all orders (Wing & Gong 1993)."""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.sim.linear import Answered, Operation, linearizable, smallest_wrong

Register = tuple[int, str]


def some_order_explains(operations: Sequence[Operation]) -> bool:
    """The same by trying every order of what was taken and what was looked at: clearly right, and of no use beyond a
    dozen."""
    everybody = frozenset(range(len(operations)))
    told = {number for number in everybody if operations[number].outcome == "conflict"}
    must_take = {number for number in everybody if operations[number].outcome == "applied"}

    @functools.cache
    def goes_on(taken: frozenset[int], seen: frozenset[int], register: Register) -> bool:
        """`seen`: those told of a conflict that were looked at in vain."""
        waiting = (must_take - taken) | (told - seen)
        if not waiting:
            return True
        now = max((operations[number].invoked for number in taken | seen), default=-math.inf)
        horizon = min(operations[number].returned for number in waiting)
        for number, one in enumerate(operations):
            if max(now, one.invoked) > min(horizon, one.returned):
                continue
            turn, mine = one.revision == register[0] + 1, register == (one.revision, one.digest)
            if turn and number not in taken and goes_on(taken | {number}, seen, (one.revision, one.digest)):
                return True
            if number in told - seen and not turn and not mine and goes_on(taken, seen | {number}, register):
                return True
        return False

    return goes_on(frozenset(), frozenset(), (0, ""))


@st.composite
def histories(draw: st.DrawFn) -> list[Operation]:
    """Of a few that overlap much and share revisions, with every kind of answer."""
    history = []
    for number in range(draw(st.integers(0, 7))):
        invoked, takes = draw(st.integers(0, 12)), draw(st.integers(0, 6))
        outcome: Answered | None = draw(st.sampled_from(("applied", "conflict", None)))
        returned = math.inf if outcome is None else invoked + takes
        history.append(Operation(draw(st.integers(1, 4)), f"{number}", invoked, returned, outcome))
    return history


@given(histories())
def test_it_says_what_a_search_of_all_orders_says(history: list[Operation]) -> None:
    assert linearizable(history) == some_order_explains(history)


def with_answers_of(told: set[str], history: Sequence[Operation]) -> list[Operation]:
    """As if nobody else had been answered."""
    return [one if one.digest in told else Operation(one.revision, one.digest, one.invoked) for one in history]


@given(histories())
def test_what_makes_a_history_wrong_is_wrong_alone_and_no_answer_of_it_is_too_many(history: list[Operation]) -> None:
    if linearizable(history):
        return
    wrong = {operation.digest for operation in smallest_wrong(history)}
    assert not linearizable(with_answers_of(wrong, history))
    for digest in wrong:
        assert linearizable(with_answers_of(wrong - {digest}, history))


def rivals(revisions: int) -> list[Operation]:
    """For each revision two that were never answered: which of them took effect is anybody's guess."""
    return [Operation(number // 2 + 1, f"{number}", 2.0 * (number // 2)) for number in range(2 * revisions)]


@pytest.mark.parametrize(("last", "right"), [("conflict", True), ("applied", False)])
def test_many_that_were_never_answered_are_judged_at_once(last: Answered, right: bool) -> None:
    """A search of orders takes twice as long for each further revision: 9 s for 16 of them."""
    end = Operation(201, "first", 500.0, 501.0, "applied"), Operation(201, "second", 500.0, 501.0, last)
    begin = time.process_time()
    assert linearizable([*rivals(200), *end]) is right
    assert time.process_time() - begin < 2.0


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


def test_whose_turn_it_was_is_told_of_no_conflict_unless_somebody_came_before_or_on_top() -> None:
    told = Operation(1, "a", 0, 3, "conflict")
    assert not linearizable([told])
    assert linearizable([told, Operation(1, "b", 2)])
    assert linearizable([told, Operation(2, "b", 2)])
    assert not linearizable([told, Operation(2, "b", 4, 5, "applied")]), "nothing was on top when it was told so"


def test_who_was_looked_at_before_its_turn_may_be_told_so_and_take_it_all_the_same() -> None:
    told, before = Operation(2, "b", 0, 3, "conflict"), Operation(1, "a", 1, 2, "applied")
    assert linearizable([told, before, Operation(3, "c", 4, 5, "applied")])
    assert not linearizable([replace(told, invoked=2.5), before, Operation(3, "c", 4, 5, "applied")])


def test_a_conflict_by_an_old_state_is_found() -> None:
    """Revision 2 was applied and told; that 3 comes out of turn was true before only."""
    applied = [Operation(1, "a", 0, 1, "applied"), Operation(2, "b", 2, 3, "applied")]
    stale = Operation(3, "c", 4, 5, "conflict")
    following = Operation(3, "d", 6, 7, "applied")
    assert not linearizable([*applied, stale, following])


def test_what_was_taken_before_the_history_began_is_taken_by_nobody_in_it() -> None:
    before, following = Operation(3, "a", 0, 1, "applied"), Operation(4, "b", 2, 3, "applied")
    assert linearizable([following], begin=3)
    assert not linearizable([before, following], begin=3)
    assert linearizable([Operation(3, "late", 0, 1, "conflict"), following], begin=3)
    assert smallest_wrong([before, following], begin=3) == [before]


def test_of_a_wrong_history_what_makes_it_wrong_is_told() -> None:
    """b and c have one revision; a, which came before, and what came later don't matter."""
    one, two = Operation(2, "b", 2, 3, "applied"), Operation(2, "c", 4, 5, "applied")
    before, after = Operation(1, "a", 0, 1, "applied"), Operation(3, "d", 6, 7, "applied")
    assert smallest_wrong([before, one, two, after]) == [one, two]


def test_an_answer_by_an_old_state_is_told_with_those_that_it_contradicts() -> None:
    applied = [Operation(number, f"{number}", 2 * number, 2 * number + 1, "applied") for number in range(1, 6)]
    stale = Operation(6, "stale", 20, 21, "conflict")
    assert smallest_wrong([*applied, stale]) == [applied[-1], stale]
