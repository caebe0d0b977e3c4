"""The ledger's level goes up when nobody is left that couldn't follow, and never otherwise."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.control.levels import next_level

MEMBERS = st.sets(st.sampled_from("abcdef"), min_size=1)
LEVELS = st.integers(1, 5)


@given(LEVELS, LEVELS, MEMBERS, st.dictionaries(st.sampled_from("abcdefg"), LEVELS))
def test_it_never_passes_what_any_member_supports(
    current: int, own: int, members: set[str], told: dict[str, int]
) -> None:
    level = next_level(current, own, members, told)
    if level is None:
        possible = min([own, *(told.get(member, 0) for member in members)])
        assert possible <= current, "it waits only for who can't, or hasn't said"
        return
    assert level > current
    assert level <= own
    assert all(told[member] >= level for member in members)


def test_a_member_that_has_not_told_holds_it() -> None:
    assert next_level(1, 3, {"a", "b"}, {"a": 3}) is None
    assert next_level(1, 3, {"a", "b"}, {"a": 3, "b": 2}) == 2


def test_who_is_no_member_any_more_does_not() -> None:
    assert next_level(1, 3, {"a"}, {"a": 3, "gone": 1}) == 3
