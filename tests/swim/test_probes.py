"""Direct and indirect probes, and what their outcome says about oneself."""

from __future__ import annotations

import pytest

from agent.swim import (
    Ack,
    Claim,
    Drop,
    MemberState,
    Nack,
    Ping,
    PingRequest,
)
from agent.swim.probing import MAX_RELAYS
from tests.swim.bench import CONFIG, Bench


def test_a_ping_is_acked_with_its_sequence() -> None:
    bench = Bench("b")
    bench.hear("b", Ping(77, 0))
    (ack,) = bench.sends(Ack)
    assert (ack.to, ack.address, ack.message.sequence) == ("b", "b:9998", 77)  # type: ignore[union-attr]  # an Ack


def test_an_acked_probe_suspects_nobody() -> None:
    bench = Bench("b")
    for _ in range(20):
        target, sequence = bench.next_probe()
        bench.hear(target, Ack(sequence, 0))
    assert bench.state("b") is MemberState.ALIVE
    assert bench.swim.health_score == 0


def test_helpers_are_asked_after_the_timeout_then_the_target_is_suspect() -> None:
    """SWIM §3.1: direct, then k indirect probes within one period, then suspicion."""
    bench = Bench("bcdef")
    target, sequence = bench.next_probe()
    start = bench.now
    bench.run_to(start + CONFIG.probe_timeout_ms / 1000)
    asked = bench.sends(PingRequest)
    assert len({send.to for send in asked}) == CONFIG.indirect_probes
    assert target not in {send.to for send in asked}
    assert {(send.message.sequence, send.message.target) for send in asked} == {(sequence, target)}  # type: ignore[union-attr]  # PingRequests
    bench.run_to(start + 0.99 * CONFIG.probe_interval_ms / 1000)
    assert bench.state(target) is MemberState.ALIVE
    bench.run_to(start + CONFIG.probe_interval_ms / 1000)
    assert bench.changes() == [(target, MemberState.SUSPECT)]


def test_helpers_asked_late_still_get_their_time() -> None:
    bench = Bench("bcdef")
    target, _ = bench.next_probe()
    bench.now += 0.49  # the driver was busy, but less than an interval
    bench.swim.on_deadline(bench.now)
    bench.run_to(bench.now + 0.29)
    assert bench.state(target) is MemberState.ALIVE
    assert bench.swim.health_score == 0


def test_an_ack_through_a_helper_counts() -> None:
    """SWIM §3.1."""
    bench = Bench("bcde")
    target, sequence = bench.next_probe()
    bench.run_to(bench.now + 0.25)
    helper = bench.sends(PingRequest)[0].to
    bench.hear(helper, Ack(sequence, 0))
    bench.run_to(bench.now + 0.3)
    assert bench.state(target) is MemberState.ALIVE


def test_an_ack_from_somebody_who_was_not_asked_does_not_count() -> None:
    bench = Bench("bc")
    target, sequence = bench.next_probe()
    bench.hear("c" if target == "b" else "b", Ack(sequence, 0))
    assert bench.swim.drops[Drop.UNEXPECTED_ANSWER] == 1
    bench.hear(target, Nack(sequence, 0))
    assert bench.swim.drops[Drop.UNEXPECTED_ANSWER] == 2
    bench.run_to(bench.now + 0.5)
    assert bench.state(target) is MemberState.SUSPECT


def test_a_helper_relays_the_ack() -> None:
    """SWIM §3.1."""
    bench = Bench("bc")
    bench.hear("b", PingRequest(40, 0, "c"))
    (ping,) = bench.sends(Ping, "c")
    bench.hear("c", Ack(ping.message.sequence, 0))  # type: ignore[union-attr]  # a Ping
    (ack,) = bench.sends(Ack, "b")
    assert ack.message.sequence == 40  # type: ignore[union-attr]  # an Ack
    bench.run_to(bench.now + 1)
    assert not bench.sends(Nack)


def test_a_helper_relays_no_ack_but_the_targets() -> None:
    bench = Bench("bcd")
    bench.hear("b", PingRequest(40, 0, "c"))
    (ping,) = bench.sends(Ping, "c")
    bench.hear("d", Ack(ping.message.sequence, 0))  # type: ignore[union-attr]  # a Ping
    assert not bench.sends(Ack)
    assert bench.swim.drops[Drop.UNEXPECTED_ANSWER] == 1


def test_a_helper_says_nack_before_the_asker_gives_up() -> None:
    """Lifeguard §IV.A."""
    bench = Bench("bc")
    bench.hear("b", PingRequest(40, 0, "c"))
    bench.run_to(bench.now + CONFIG.probe_timeout_ms / 1000)
    (nack,) = bench.sends(Nack, "b")
    assert nack.message.sequence == 40  # type: ignore[union-attr]  # a Nack


def test_a_helper_that_hears_the_targets_link_says_ack() -> None:
    bench = Bench("bc")
    bench.hear("b", PingRequest(40, 0, "c"))
    bench.link("c")
    bench.run_to(bench.now + CONFIG.probe_timeout_ms / 1000)
    assert bench.sends(Ack, "b")
    assert not bench.sends(Nack)


def test_pings_for_others_are_bounded() -> None:
    bench = Bench("bc")
    for sequence in range(MAX_RELAYS + 5):
        bench.hear("b", PingRequest(sequence, 0, "c"))
    assert bench.swim.drops[Drop.RELAYS_FULL] == 5
    assert bench.outputs == []
    bench.hear("b", PingRequest(1, 0, "stranger"))
    assert bench.swim.drops[Drop.UNKNOWN_MEMBER] == 1


def fail_one_probe(bench: Bench, nacks: int) -> None:
    sequence = bench.next_probe()[1]
    bench.run_to(bench.swim.deadline())
    while not bench.sends(PingRequest):
        bench.run_to(bench.swim.deadline())
    for send in bench.sends(PingRequest)[:nacks]:
        bench.swim.receive(send.to, Nack(sequence, 0), bench.now)
    bench.run_until(lambda: any(state is MemberState.SUSPECT for _, state in bench.changes()))


@pytest.mark.parametrize(("nacks", "score"), [(3, 0), (2, 1), (0, 3)])
def test_each_missing_nack_speaks_against_oneself(nacks: int, score: int) -> None:
    """Lifeguard §IV.A: helpers that answer prove that only the target is silent."""
    bench = Bench("bcdefg")
    fail_one_probe(bench, nacks)
    assert bench.swim.health_score == score


def test_an_unwell_agent_probes_more_slowly_and_recovers() -> None:
    """Lifeguard §IV.A: interval and timeout times (LHM + 1)."""
    bench = Bench("bcdefg")
    fail_one_probe(bench, nacks=1)
    assert bench.swim.health_score == 2
    bench.next_probe()
    start = bench.now
    target, sequence = bench.next_probe()
    assert bench.now - start >= 3 * CONFIG.probe_interval_ms / 1000
    for _ in range(12):
        bench.hear(target, Ack(sequence, 0))
        target, sequence = bench.next_probe()
    assert bench.swim.health_score == 0


def test_a_stall_of_this_agent_costs_nobody_its_life() -> None:
    """Lifeguard §IV.A: an agent that was called late blames itself."""
    bench = Bench("bcdefg")
    bench.claim("b", Claim.DEAD)
    bench.run_to(bench.now + 0.3)
    bench.now += 60
    bench.swim.on_deadline(bench.now)
    assert bench.state("b") is MemberState.SUSPECT
    assert bench.swim.health_score == 1
    bench.run_to(bench.now + 1)
    assert bench.state("b") is MemberState.SUSPECT
    bench.run_to(bench.now + 1.5)
    assert bench.state("b") is MemberState.DEAD


def test_time_without_members_is_no_stall() -> None:
    bench = Bench("")
    bench.now = 100.0
    bench.set_members("b", "c")
    bench.next_probe()
    assert bench.swim.health_score == 0


def test_the_first_member_gone_after_a_long_calm_is_no_stall() -> None:
    bench = Bench("bcd")
    while bench.now < 60:
        bench.answered_probe()
    bench.claim("b", Claim.LEFT)
    bench.run_to(bench.now + 0.1)
    assert bench.swim.health_score == 0


def pings_while(bench: Bench, *linked: str, intervals: int) -> list[str]:
    """Whom it pings in so many intervals while the links of some deliver frames and nobody acks."""
    pinged: list[str] = []
    for _ in range(10 * intervals):
        for member in linked:
            bench.link(member)
        bench.run_to(bench.now + CONFIG.probe_interval_ms / 10_000)
        pinged += [send.to for send in bench.sends(Ping) if send.message.sequence]  # type: ignore[union-attr]  # Pings
    return pinged


def test_who_is_heard_over_a_link_is_pinged_only_now_and_then() -> None:
    bench = Bench("bcd")
    pinged = pings_while(bench, "b", "c", "d", intervals=3 * CONFIG.ping_heard_every)
    assert 2 <= len(pinged) <= 4
    assert bench.swim.health_score == 0
    assert {bench.state(member) for member in "bcd"} == {MemberState.ALIVE}


def test_who_is_not_heard_over_a_link_is_pinged_in_the_next_interval_whoever_else_is_there() -> None:
    bench = Bench("bcdefgh")
    pings_while(bench, *"bcdefgh", intervals=CONFIG.ping_heard_every)
    bench.now += 0.001
    start = bench.now
    pings_while(bench, *"cdefgh", intervals=3)
    assert bench.state("b") is MemberState.SUSPECT
    assert bench.swim.members()["b"].since - start <= 3 * CONFIG.probe_interval_ms / 1000


def test_who_has_something_to_refute_is_pinged_though_it_is_heard() -> None:
    bench = Bench("bc")
    pings_while(bench, "b", "c", intervals=1)
    bench.claim("b", Claim.SUSPECT)
    assert "b" in pings_while(bench, "b", "c", intervals=3)


def test_a_probe_may_begin_late_while_nothing_is_awaited_and_no_later() -> None:
    """So that it goes with a frame that wakes the agent anyway."""
    bench, late_s = Bench("bcd"), CONFIG.lateness_ms / 1000
    while bench.swim.latest() == bench.swim.deadline():  # until the news of the start has gone round
        bench.answered_probe()
    assert bench.swim.latest() == bench.swim.deadline() + late_s
    bench.next_probe()
    assert bench.swim.latest() == bench.swim.deadline()  # somebody's Ack is
    bench.answered_probe()
    bench.claim("b", Claim.SUSPECT)
    assert bench.swim.latest() == bench.swim.deadline()  # somebody's life is


def test_a_link_that_speaks_when_its_leader_does_is_not_pinged_for_it() -> None:
    """Links speak every 0.65 s at the latest, which is more than a probe's interval."""
    bench, pinged = Bench("bcd"), 0
    for _ in range(2 * CONFIG.ping_heard_every):
        for member in "bcd":
            bench.link(member)
        bench.run_to(bench.now + 0.65)
        pinged += sum(send.message.sequence > 0 for send in bench.sends(Ping))  # type: ignore[union-attr]  # Pings
    assert pinged <= 4
