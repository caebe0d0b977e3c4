"""Suspicion, awareness, retransmission, probe order: the small pure parts."""

from __future__ import annotations

import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.swim import Claim, SwimConfig, Update
from agent.swim.awareness import Awareness
from agent.swim.gossip import GossipQueue, retransmit_limit
from agent.swim.members import ProbeOrder
from agent.swim.suspicion import Suspicion, suspicion_bounds_s, suspicion_timeout_s

shortest = st.floats(0.01, 100)
factor = st.floats(1, 20)


@given(shortest, factor, st.integers(0, 10), st.data())
def test_suspicion_falls_with_confirmations_and_stays_bounded(
    low: float, times: float, wanted: int, data: st.DataObject
) -> None:
    """Lifeguard §IV.B."""
    high = low * times
    confirmations = data.draw(st.integers(0, wanted))
    timeout = suspicion_timeout_s(confirmations, wanted, low, high)
    assert low <= timeout <= high + 1e-9
    assert suspicion_timeout_s(confirmations + 1, wanted, low, high) <= timeout


@given(shortest, factor, st.integers(1, 10))
def test_suspicion_starts_longest_and_ends_shortest(low: float, times: float, wanted: int) -> None:
    """Lifeguard §IV.B: C = 0 gives the maximum, C = K the minimum."""
    assert suspicion_timeout_s(0, wanted, low, low * times) == pytest.approx(low * times)
    assert suspicion_timeout_s(wanted, wanted, low, low * times) == pytest.approx(low)
    assert suspicion_timeout_s(0, 0, low, low * times) == low


@given(st.integers(1, 10_000), st.integers(1, 10_000))
def test_larger_groups_suspect_for_longer(n: int, m: int) -> None:
    few, many = sorted((n, m))
    assert suspicion_bounds_s(SwimConfig.lan(), few) <= suspicion_bounds_s(SwimConfig.lan(), many)


def test_suspicion_bounds_on_a_lan() -> None:
    """α = 4, β = 6, 500 ms: 2 to 12 s up to ten members, twice that at a hundred."""
    assert suspicion_bounds_s(SwimConfig.lan(), 10) == (2.0, 12.0)
    assert suspicion_bounds_s(SwimConfig.lan(), 100) == (4.0, 24.0)


@given(st.integers(0, 4), st.lists(st.sampled_from(["a", "b", "c", "d", "e", "dead", "stall"]), max_size=20))
def test_a_deadline_never_moves_later_but_for_an_own_stall(wanted: int, events: list[str]) -> None:
    suspicion = Suspicion(origin="a", wanted=wanted, shortest_s=2, longest_s=12, now=100)
    before = suspicion.deadline
    for event in events:
        if event == "stall":
            suspicion.shift(3)
            assert suspicion.deadline == pytest.approx(before + 3)
        else:
            news = suspicion.claim_dead() if event == "dead" else suspicion.confirm(event)
            assert suspicion.deadline <= before
            assert news or suspicion.deadline == before
        assert 0 <= suspicion.confirmations <= wanted
        before = suspicion.deadline


def test_the_same_origin_confirms_once() -> None:
    """Lifeguard §IV.B: confirmations are independent."""
    suspicion = Suspicion(origin="a", wanted=2, shortest_s=2, longest_s=12, now=0)
    assert not suspicion.confirm("a")
    assert suspicion.confirm("b")
    assert not suspicion.confirm("b")
    assert suspicion.confirmations == 1


@given(st.integers(0, 10), st.lists(st.integers(-12, 12)))
def test_awareness_stays_within_its_bounds(max_score: int, deltas: list[int]) -> None:
    """Lifeguard §IV.A."""
    awareness = Awareness(max_score)
    for delta in deltas:
        before = awareness.score
        awareness.adjust(delta)
        assert 0 <= awareness.score <= max_score
        assert (awareness.score - before) * delta >= 0
        assert awareness.scale(0.5) == 0.5 * (awareness.score + 1)


def test_awareness_refuses_a_negative_bound() -> None:
    with pytest.raises(ValueError, match="max_score"):
        Awareness(-1)


@given(st.integers(1, 8), st.integers(1, 100_000))
def test_retransmissions_grow_with_the_logarithm(multiplier: int, n: int) -> None:
    """SWIM §4.1: λ log n."""
    limit = retransmit_limit(multiplier, n)
    assert limit % multiplier == 0
    assert 10 ** (limit // multiplier) >= n + 1
    assert limit == multiplier or 10 ** (limit // multiplier - 1) < n + 1


@st.composite
def updates(draw: st.DrawFn) -> Update:
    ids = st.sampled_from("abcd")
    return Update(draw(ids), draw(ids), draw(st.sampled_from(Claim)), draw(st.integers(0, 3)))


@given(st.lists(updates(), max_size=12), st.integers(1, 5), st.integers(1, 6))
def test_no_update_is_sent_more_often_than_the_limit(news: list[Update], limit: int, count: int) -> None:
    """SWIM §4.1."""
    queue = GossipQueue()
    for update in news:
        queue.add(update)
    queued = queue.size
    sent: list[Update] = []
    while queue.size:
        taken = queue.take(count, limit)
        assert 1 <= len(taken) <= count
        assert len(set(taken)) == len(taken)
        sent += taken
    assert len(set(sent)) == queued
    assert all(sent.count(update) == limit for update in sent)


def test_what_was_sent_least_goes_first_then_the_latest() -> None:
    """SWIM §4.1: updates gossiped fewer times are preferred."""
    queue = GossipQueue()
    old, late = Update("a", "a", Claim.ALIVE, 1), Update("b", "b", Claim.ALIVE, 1)
    queue.add(old)
    queue.add(late)
    assert [queue.take(1, 3) for _ in range(4)] == [[late], [old], [late], [old]]


def test_a_later_claim_replaces_the_earlier_ones_about_that_member() -> None:
    queue = GossipQueue()
    first, second = Update("x", "a", Claim.SUSPECT, 1), Update("x", "b", Claim.SUSPECT, 1)
    other, refuted = Update("y", "a", Claim.DEAD, 0), Update("x", "x", Claim.ALIVE, 2)
    for update in (first, second, other):
        queue.add(update)
    assert queue.size == 3, "suspicions by two origins confirm each other: both travel"
    queue.add(refuted)
    assert set(queue.take(9, 1)) == {refuted, other}


def test_a_suspicion_of_a_newer_incarnation_replaces_all_older() -> None:
    queue = GossipQueue()
    queue.add(Update("x", "a", Claim.SUSPECT, 1))
    queue.add(Update("x", "b", Claim.SUSPECT, 2))
    assert queue.take(9, 1) == [Update("x", "b", Claim.SUSPECT, 2)]


def test_nobody_is_sent_news_about_itself_from_the_queue() -> None:
    queue = GossipQueue()
    queue.add(Update("x", "a", Claim.DEAD, 0))
    assert queue.take(9, 1, without="x") == []
    assert queue.size == 1


@given(st.integers(0, 2**32), st.integers(1, 20))
def test_every_member_is_probed_once_per_round(seed: int, n: int) -> None:
    """SWIM §4.3: round robin in a random order, so at most 2n - 1 periods lie between two probes of one member."""
    order = ProbeOrder(random.Random(seed))
    members = [f"m{index}" for index in range(n)]
    for member in members:
        order.add(member)
    for _ in range(3):
        assert sorted(str(order.next(lambda _: True)) for _ in members) == sorted(members)


@given(st.integers(0, 2**32), st.lists(st.tuples(st.sampled_from(["add", "remove", "next"]), st.integers(0, 5))))
def test_the_probe_order_survives_a_changing_group(seed: int, steps: list[tuple[str, int]]) -> None:
    order = ProbeOrder(random.Random(seed))
    inside: set[str] = set()
    for step, index in steps:
        member = f"m{index}"
        if step == "add" and member not in inside:
            order.add(member)
            inside.add(member)
        elif step == "remove" and member in inside:
            order.remove(member)
            inside.discard(member)
        elif step == "next":
            chosen = order.next(lambda member: member != "m0")
            assert chosen in inside - {"m0"} if inside - {"m0"} else chosen is None


@pytest.mark.parametrize("config", [SwimConfig.lan(), SwimConfig.wan(), SwimConfig.local()])
def test_presets_leave_helpers_time_to_answer_within_the_interval(config: SwimConfig) -> None:
    """SWIM §3.1: the interval holds the direct and the indirect probe; Lifeguard §IV.A: and the Nack."""
    nack_ms = config.probe_timeout_ms * config.nack_after_percent / 100
    assert config.probe_timeout_ms + nack_ms < config.probe_interval_ms


@pytest.mark.parametrize(
    "wrong",
    [
        {"probe_timeout_ms": 500},
        {"probe_timeout_ms": 0},
        {"nack_after_percent": 0},
        {"suspicion_alpha": 0.0},
        {"suspicion_beta": 0.5},
        {"gossip_interval_ms": 0},
        {"indirect_probes": -1},
    ],
)
def test_a_config_that_contradicts_itself_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        SwimConfig(**wrong)  # type: ignore[arg-type]  # the values fit their fields
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, SwimConfig)
