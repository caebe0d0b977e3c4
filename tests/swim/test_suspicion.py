"""Suspicion, refutation, and telling the suspect first."""

from __future__ import annotations

import pytest

from agent.swim import (
    Ack,
    Claim,
    Drop,
    Gossip,
    MemberState,
    Ping,
    Update,
)
from agent.swim.messages import MAX_INCARNATION, MAX_INCARNATION_STEP
from tests.swim.bench import CONFIG, Bench, silent_until_dead


def test_an_unconfirmed_suspicion_takes_the_longest() -> None:
    """Lifeguard §IV.B. Nobody but c claims it, over and over."""
    bench = Bench("bcdefg")
    for _ in range(3):
        bench.claim("b", Claim.SUSPECT)
    start = bench.now
    while bench.state("b") is MemberState.SUSPECT:
        bench.answered_probe()  # the own probes find it, so this agent doesn't confirm
    assert bench.swim.members()["b"].since - start == pytest.approx(12.0)


def test_confirmations_shorten_the_suspicion() -> None:
    """Lifeguard §IV.B: K independent ones bring it down to the shortest."""
    bench = Bench("bcdefg")
    for origin in "cde":
        bench.claim("b", Claim.SUSPECT, origin=origin, sender=origin)
    assert silent_until_dead(bench, "b") == pytest.approx(2.0)


def test_a_claimed_death_leaves_the_shortest_time_to_answer() -> None:
    bench = Bench("bcdefg")
    bench.claim("b", Claim.DEAD)
    assert bench.changes() == [("b", MemberState.SUSPECT)]
    assert silent_until_dead(bench, "b") == pytest.approx(2.0)


def test_a_refutation_in_time_saves_the_accused() -> None:
    """SWIM §4.2."""
    bench = Bench("bcdefg")
    bench.claim("b", Claim.DEAD)
    bench.run_to(bench.now + 0.1)
    bench.hear("b", Gossip(1))
    assert bench.changes() == [("b", MemberState.ALIVE)]
    assert bench.swim.members()["b"].incarnation == 1
    bench.claim("b", Claim.DEAD, incarnation=0)
    bench.claim("b", Claim.SUSPECT, incarnation=0)
    assert bench.state("b") is MemberState.ALIVE


def test_hearing_a_suspect_without_a_newer_incarnation_does_not_clear_it() -> None:
    """SWIM §4.2: only the member's own newer incarnation does; so all agents end up with one answer."""
    bench = Bench("bcd")
    bench.claim("b", Claim.SUSPECT)
    bench.hear("b", Ping(3, 0))
    assert bench.state("b") is MemberState.SUSPECT


@pytest.mark.parametrize("origin", ["stranger", "b"])
def test_suspicions_count_only_from_members_and_not_from_the_suspect(origin: str) -> None:
    bench = Bench("bcd")
    bench.claim("b", Claim.SUSPECT, origin=origin)
    assert bench.state("b") is MemberState.ALIVE
    assert bench.swim.drops[Drop.BAD_ORIGIN] == 1


def test_an_impossible_incarnation_is_ignored() -> None:
    bench = Bench("bcd")
    bench.claim("b", Claim.DEAD, incarnation=MAX_INCARNATION_STEP + 1)
    bench.claim("me", Claim.DEAD, incarnation=MAX_INCARNATION)
    assert bench.state("b") is MemberState.ALIVE
    assert bench.swim.incarnation == 0
    assert bench.swim.drops[Drop.INCARNATION_STEP] == 2


@pytest.mark.parametrize("claim", [Claim.SUSPECT, Claim.DEAD, Claim.LEFT])
def test_it_refutes_what_is_said_of_it(claim: Claim) -> None:
    """SWIM §4.2: it alone raises its incarnation, above the claim's."""
    bench = Bench("bcd")
    bench.claim("me", claim)
    assert bench.swim.incarnation == 1
    assert bench.sends(Ping, "c")[0].message.incarnation == 1, "whoever said it learns it at once"
    assert bench.sends(Ping, "c")[0].over_link
    bench.run_to(bench.now + CONFIG.gossip_interval_ms / 1000)
    refutation = Update("me", "me", Claim.ALIVE, 1)
    assert any(refutation in send.message.updates for send in bench.sends(Gossip))


def test_the_ack_carries_the_refutation() -> None:
    bench = Bench("bcd")
    bench.hear("b", Ping(9, 0, (Update("me", "c", Claim.SUSPECT, 0),)))
    (ack,) = bench.sends(Ack)
    assert ack.message.incarnation == 1
    assert ack.over_link


def test_being_suspected_is_a_sign_of_ill_health() -> None:
    """Lifeguard §IV.A."""
    bench = Bench("bcd")
    bench.claim("me", Claim.SUSPECT)
    assert bench.swim.health_score == 1
    bench.claim("me", Claim.SUSPECT)
    assert bench.swim.health_score == 1, "a claim about an incarnation already refuted is old"


def test_a_restarted_agent_learns_its_incarnation_from_what_it_is_told() -> None:
    bench = Bench("bcd")
    bench.claim("me", Claim.DEAD, incarnation=5)
    assert bench.swim.incarnation == 6
    assert bench.swim.health_score == 0, "the earlier life says nothing about this one"
    bench.claim("me", Claim.ALIVE, incarnation=8)
    assert bench.swim.incarnation == 8


def test_a_restarted_member_is_told_its_last_incarnation() -> None:
    bench = Bench("bcd")
    bench.hear("b", Gossip(5))
    bench.hear("b", Ping(1, 0))
    (ack,) = bench.sends(Ack)
    assert ack.message.updates[0] == Update("b", "me", Claim.ALIVE, 5)


def test_the_suspect_is_told_first() -> None:
    """Lifeguard §IV.C: the ping to a suspect carries the suspicion, before all other news."""
    bench = Bench("bcdefghijklmnop")
    for other in "defghijklmnop":
        bench.hear(other, Gossip(1))  # more news than fits one message
    bench.claim("b", Claim.SUSPECT)
    accusation = Update("b", "c", Claim.SUSPECT, 0)
    bench.hear("b", Ping(1, 0))
    assert bench.sends(Ack, "b")[0].message.updates[0] == accusation
    while bench.answered_probe() != "b":
        pass
    assert bench.probed[-1].message.updates[0] == accusation


def test_whoever_was_just_heard_over_its_link_is_told_there_at_once() -> None:
    bench = Bench("bcd")
    bench.link("b")
    bench.claim("b", Claim.SUSPECT)
    (ping,) = bench.sends(Ping, "b")
    assert ping.over_link
    bench.link("b")
    assert bench.outputs == [], "once per probe interval"


def test_the_dead_are_pinged_now_and_then_and_told() -> None:
    bench = Bench("bcdefg")
    bench.claim("b", Claim.DEAD)
    silent_until_dead(bench, "b")
    bench.run_to(bench.now + 2 * CONFIG.revive_interval_ms / 1000)
    pings = bench.sends(Ping, "b")
    assert 1 <= len(pings) <= 3
    assert pings[0].message.updates[0] == Update("b", "me", Claim.DEAD, 0)


def test_whoever_speaks_while_it_is_blamed_is_told() -> None:
    bench = Bench("bcd")
    bench.claim("b", Claim.LEFT)
    bench.hear("b", Gossip(0))
    (ping,) = bench.sends(Ping, "b")
    assert ping.message.updates[0] == Update("b", "me", Claim.LEFT, 0)


def test_nobody_is_told_its_own_news() -> None:
    bench = Bench("bcd")
    bench.hear("b", Ping(1, 4))
    assert not any(update.member == "b" for update in bench.sends(Ack, "b")[0].message.updates)


def test_a_suspect_is_pinged_over_its_link_too() -> None:
    bench = Bench("bcdefg")
    bench.claim("b", Claim.SUSPECT)
    while bench.answered_probe() != "b":
        assert not bench.probed[-1].over_link
    assert bench.probed[-1].over_link


def test_states_that_are_no_news_are_told_in_turn() -> None:
    """What gossip missed, and what a restarted agent never heard, is repaired by any talk."""
    bench = Bench("bcdef")
    bench.hear("c", Gossip(3))
    while bench.now < 20:
        bench.answered_probe()
    told: set[Update] = set()
    for sequence in range(1, 6):
        bench.hear("b", Ping(sequence, 0))
        told.update(bench.sends(Ack, "b")[0].message.updates)
    assert {update.member for update in told} == set("cdef")
    assert Update("c", "me", Claim.ALIVE, 3) in told
