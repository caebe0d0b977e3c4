"""Which voter a host follows: the same for everybody who asks, evenly spread, and moved only where it has to be."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from agent.model.cluster import MAX_VOTERS
from agent.node.choosing import links_for, voter_for

IDS = st.text("abcdefghijklmnopqrstuvwxyz234567", min_size=26, max_size=26)
VOTERS = st.lists(IDS, min_size=1, max_size=MAX_VOTERS, unique=True)


def test_without_voters_nobody_is_followed() -> None:
    assert voter_for("host", ()) is None
    assert links_for("host", (), followed=None, shunned=(), every=False) == frozenset()


@given(IDS, VOTERS, st.randoms())
def test_the_choice_depends_on_who_votes_alone(host: str, voters: list[str], rng: random.Random) -> None:
    shuffled = rng.sample(voters, len(voters))
    assert voter_for(host, voters) == voter_for(host, shuffled)
    assert voter_for(host, voters) in voters


@given(IDS, VOTERS, st.data())
def test_only_who_followed_the_lost_voter_moves(host: str, voters: list[str], data: st.DataObject) -> None:
    before, lost = voter_for(host, voters), data.draw(st.sampled_from(voters))
    after = voter_for(host, [voter for voter in voters if voter != lost])
    assert before in (lost, after)


@given(IDS, VOTERS, IDS)
def test_a_voter_that_is_added_takes_hosts_from_others_and_moves_no_other(
    host: str, voters: list[str], new: str
) -> None:
    assert voter_for(host, [*voters, new]) in (new, voter_for(host, voters))


@given(VOTERS.filter(lambda voters: len(voters) >= 3), st.integers(0, 2**32))
def test_a_thousand_hosts_spread_evenly(voters: list[str], number: int) -> None:
    """Each voter has a share that differs by less than six standard deviations from the mean."""
    hosts, share = 1000, 1 / len(voters)
    streams = Counter(voter_for(f"{number} {host}", voters) for host in range(hosts))
    deviation = (hosts * share * (1 - share)) ** 0.5
    assert all(abs(streams[voter] - hosts * share) < 6 * deviation for voter in voters)


@given(IDS, VOTERS, st.data())
def test_a_host_is_linked_with_the_one_to_follow_and_who_is_followed_until_then(
    host: str, voters: list[str], data: st.DataObject
) -> None:
    shunned = data.draw(st.sets(st.sampled_from(voters)))
    followed = data.draw(st.none() | st.sampled_from(voters))
    links = links_for(host, voters, followed=followed, shunned=shunned, every=False)
    usable = [voter for voter in voters if voter not in shunned] or voters
    assert links == {voter_for(host, usable)} | ({followed} if followed else set())
    assert links_for(host, voters, followed=followed, shunned=shunned, every=True) == set(voters)
