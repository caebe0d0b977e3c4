"""Majorities against their dumb twins."""

from __future__ import annotations

from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from agent.raft.quorum import VoteResult, blocking_of_others, committed_index, majority, majority_of_others, tally


@given(st.integers(1, 9))
def test_any_two_majorities_have_a_member_in_common_and_smaller_sets_do_not(voters: int) -> None:
    def always_meet(size: int) -> bool:
        return all(
            set(one) & set(two)
            for one in combinations(range(voters), size)
            for two in combinations(range(voters), size)
        )

    assert always_meet(majority(voters))
    assert not always_meet(majority(voters) - 1)


@given(st.sets(st.sampled_from("abcdefg"), min_size=1), st.sampled_from("abcdefgh"))
def test_of_the_others_a_majority_is_needed_where_they_are_so_many(voters: set[str], me: str) -> None:
    wanted, others = majority_of_others(voters, me), len(voters - {me})
    assert wanted * 2 > len(voters) or wanted == max(others, 1)
    assert 1 <= wanted <= max(others, 1)


@given(st.sets(st.sampled_from("abcdefg"), min_size=1), st.sampled_from("abcdefgh"))
def test_what_blocks_is_the_least_that_leaves_no_majority_but_two_where_there_are_two(
    voters: set[str], me: str
) -> None:
    wanted, others = blocking_of_others(voters, me), len(voters - {me})
    least = next(some for some in range(len(voters) + 1) if len(voters) - some < majority(len(voters)))
    assert wanted == max(least, min(2, others)) or wanted == max(others, 1) < least
    assert 1 <= wanted <= majority_of_others(voters, me)


@given(st.lists(st.integers(0, 20), min_size=1, max_size=9))
def test_committed_is_the_highest_index_that_a_majority_has(acknowledged: list[int]) -> None:
    """Raft §5.3, by trying every index."""
    dumb = max(index for index in range(21) if sum(has >= index for has in acknowledged) * 2 > len(acknowledged))
    assert committed_index(acknowledged) == dumb


@given(st.data())
def test_an_election_is_won_or_lost_exactly_when_no_later_answer_can_change_it(data: st.DataObject) -> None:
    """Raft §5.2, by trying every way the silent voters could answer."""
    voters = [f"v{number}" for number in range(data.draw(st.integers(1, 7)))]
    answers = {voter: data.draw(st.sampled_from([True, False, None])) for voter in voters}
    strangers = data.draw(st.sets(st.sampled_from(["x", "y"])))
    granted = {voter for voter, answer in answers.items() if answer} | strangers
    refused = {voter for voter, answer in answers.items() if answer is False}
    yes = sum(answer is True for answer in answers.values())
    silent = sum(answer is None for answer in answers.values())
    outcomes = {(yes + more) * 2 > len(voters) for more in range(silent + 1)}
    expected = {frozenset([True]): VoteResult.WON, frozenset([False]): VoteResult.LOST}.get(
        frozenset(outcomes), VoteResult.PENDING
    )
    assert tally(voters, granted, refused) is expected
