"""Members come from the ledger and are heard directly, over their links, or say that they leave."""

from __future__ import annotations

import random

import pytest

from agent.swim import (
    MAX_ID_BYTES,
    Ack,
    Claim,
    Drop,
    Gossip,
    MemberState,
    Ping,
    Swim,
    Update,
)
from tests.swim.bench import CONFIG, Bench, silent_until_dead


def test_a_member_is_unknown_until_it_is_heard() -> None:
    bench = Bench("")
    bench.set_members("b", "c")
    assert bench.state("b") is MemberState.UNKNOWN
    assert bench.swim.members()["b"].last_heard is None
    bench.now = 0.25
    bench.hear("b", Gossip(0))
    assert bench.changes() == [("b", MemberState.ALIVE)]
    assert bench.swim.members()["b"].last_heard == bench.swim.members()["b"].since == 0.25
    assert bench.state("c") is MemberState.UNKNOWN


def test_gossip_never_makes_members() -> None:
    bench = Bench("b")
    bench.hear("b", Gossip(0, (Update("stranger", "b", Claim.ALIVE, 0),)))
    bench.hear("stranger", Ping(1, 0))
    assert bench.outputs == []
    assert list(bench.swim.members()) == ["b"]
    assert bench.swim.drops == {Drop.UNKNOWN_MEMBER: 1, Drop.UNKNOWN_SENDER: 1}


def test_a_removed_member_is_forgotten_and_comes_back_unknown() -> None:
    bench = Bench("bc")
    bench.claim("b", Claim.SUSPECT)
    bench.set_members("c")
    assert list(bench.swim.members()) == ["c"]
    bench.run_to(30)
    assert not any(update.member == "b" for send in bench.sends(Gossip) for update in send.message.updates)
    bench.set_members("b", "c")
    assert bench.state("b") is MemberState.UNKNOWN


def test_the_probed_member_may_be_removed_meanwhile() -> None:
    bench = Bench("b")
    bench.next_probe()
    bench.set_members()
    bench.run_to(5)
    assert bench.changes() == []
    assert bench.swim.deadline() == float("inf")


def test_a_probe_says_nothing_about_who_was_removed_and_entered_again() -> None:
    bench = Bench("b")
    bench.next_probe()
    bench.set_members()
    bench.set_members("b")
    bench.run_to(bench.now + 1.1 * CONFIG.probe_interval_ms / 1000)
    assert bench.state("b") is MemberState.UNKNOWN


def test_a_changed_address_is_used_at_once() -> None:
    bench = Bench("b")
    bench.swim.set_members({"b": "elsewhere"}, bench.now)
    bench.hear("b", Ping(5, 0))
    assert bench.sends(Ack)[0].address == "elsewhere"


def test_the_order_of_the_ledgers_members_does_not_matter() -> None:
    def first_probes(others: str) -> list[str]:
        bench = Bench("")
        bench.set_members(*others)
        return [bench.answered_probe() for _ in range(12)]

    assert first_probes("bcdef") == first_probes("fedcb")


def test_ids_that_no_message_can_carry_are_refused() -> None:
    with pytest.raises(ValueError, match="own id"):
        Swim(id="", config=CONFIG, rng=random.Random(0), now=0)
    with pytest.raises(ValueError, match="member id"):
        Bench("b").swim.set_members({"x" * (MAX_ID_BYTES + 1): ""}, 0.0)


def test_time_that_goes_backwards_is_a_broken_driver() -> None:
    bench = Bench("b")
    bench.run_to(3)
    bench.swim.link_alive("b", 3)
    with pytest.raises(ValueError, match="backwards"):
        bench.swim.on_deadline(1)


def test_a_heard_link_outweighs_silent_datagrams() -> None:
    bench = Bench("b")
    while bench.now < 20:
        bench.link("b")
        bench.run_to(bench.now + 0.15)
        assert bench.changes() == []
    assert bench.swim.health_score == 0


def test_a_suspect_does_not_die_while_its_link_is_heard_and_dies_soon_after() -> None:
    bench = Bench("bcdefg")
    bench.claim("b", Claim.DEAD)
    while bench.now < 10:
        bench.link("b")
        bench.run_to(bench.now + 0.15)
        assert bench.state("b") is MemberState.SUSPECT
    assert silent_until_dead(bench, "b") <= CONFIG.link_heard_window_ms / 1000


def test_a_link_makes_an_unknown_member_alive() -> None:
    bench = Bench("")
    bench.set_members("b")
    bench.swim.link_up("b", bench.now)
    bench.swim.link_up("stranger", bench.now)
    assert bench.state("b") is MemberState.ALIVE


def test_a_clean_stop_tells_the_others_directly_and_probes_no_more() -> None:
    bench = Bench("bcd")
    bench.claim("b", Claim.DEAD)
    bench.swim.leave(bench.now)
    bench.outputs = bench.swim.take_outputs()
    farewell = Update("me", "me", Claim.LEFT, 0)
    assert {send.to for send in bench.sends(Gossip) if farewell in send.message.updates} == set("bcd")
    bench.claim("me", Claim.LEFT)
    assert bench.swim.incarnation == 0, "it doesn't refute what is true"
    bench.run_to(bench.now + 20)
    assert not bench.sends(Ping)
    assert bench.changes() == [], "nor does it judge"
    assert bench.swim.deadline() == float("inf")


@pytest.mark.parametrize("others_are", [Claim.ALIVE, Claim.LEFT])
def test_news_for_nobody_does_not_keep_the_timers_running(others_are: Claim) -> None:
    """The only listener needs no gossip about itself; without a listener there is no gossip."""
    bench = Bench("b")
    bench.hear("b", Gossip(1, (Update("b", "b", others_are, 1),)))
    bench.swim.leave(bench.now)
    bench.run_to(bench.now + 20)
    assert bench.swim.deadline() == float("inf")


def test_a_member_that_left_is_left_until_it_comes_back() -> None:
    bench = Bench("bcd")
    bench.hear("b", Gossip(0, (Update("b", "b", Claim.LEFT, 0),)))
    assert bench.changes() == [("b", MemberState.LEFT)]
    bench.hear("b", Ping(1, 0))
    assert bench.state("b") is MemberState.LEFT
    assert bench.sends(Ack, "b")[0].message.updates[0] == Update("b", "me", Claim.LEFT, 0)
    bench.hear("b", Ping(2, 1))
    assert bench.state("b") is MemberState.ALIVE
