"""One agent, message by message."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.swim import (
    MAX_ID_BYTES,
    Ack,
    Claim,
    Drop,
    Gossip,
    MemberChanged,
    MemberState,
    Nack,
    Output,
    Ping,
    PingRequest,
    Send,
    Swim,
    SwimConfig,
    SwimMessage,
    Update,
)
from agent.swim.core import MAX_INCARNATION_STEP, MAX_RELAYS
from agent.swim.messages import MAX_INCARNATION

CONFIG = SwimConfig.lan()


class Bench:
    """The agent `me` among `others`, with the outputs of the last step."""

    def __init__(self, others: str = "bcd", incarnation: int = 0) -> None:
        self.now = 0.0
        self.swim = Swim(id="me", config=CONFIG, rng=random.Random(7), now=0.0, incarnation=incarnation)
        self.outputs: list[Output] = []
        self.probed: list[Send] = []
        self.set_members(*others)
        for other in others:
            self.hear(other, Gossip(0))
        self.run_to(0.0)

    def set_members(self, *others: str) -> None:
        self.swim.set_members({other: f"{other}:9998" for other in ("me", *others)}, self.now)
        self.outputs = self.swim.take_outputs()

    def hear(self, sender: str, message: SwimMessage) -> None:
        self.swim.receive(sender, message, self.now)
        self.outputs = self.swim.take_outputs()

    def claim(self, member: str, claim: Claim, incarnation: int = 0, origin: str = "c", sender: str = "c") -> None:
        self.hear(sender, Gossip(0, (Update(member, origin, claim, incarnation),)))

    def link(self, member: str) -> None:
        self.swim.link_alive(member, self.now)
        self.outputs = self.swim.take_outputs()

    def run_to(self, end: float) -> None:
        """Every timer up to `end`; the outputs of all."""
        self.outputs = []
        while self.swim.deadline() <= end:
            self.now = max(self.now, self.swim.deadline())
            self.swim.on_deadline(self.now)
            self.outputs += self.swim.take_outputs()
        self.now = end

    def run_until(self, condition: Callable[[], bool], within: float = 30) -> None:
        end = self.now + within
        while not condition():
            assert self.swim.deadline() <= end, "the condition never held"
            self.run_to(self.swim.deadline())

    def sends(self, kind: type[SwimMessage], to: str | None = None) -> list[Send]:
        return [
            output
            for output in self.outputs
            if isinstance(output, Send) and isinstance(output.message, kind) and to in (None, output.to)
        ]

    def next_probe(self) -> tuple[str, int]:
        """Run to the next probe: its target and sequence."""
        found: list[Send] = []

        def probing() -> bool:
            found[:] = [send for send in self.sends(Ping) if send.message.sequence]  # type: ignore[union-attr]  # Pings
            return bool(found)

        self.outputs = []
        self.run_until(probing)
        message = found[-1].message
        assert isinstance(message, Ping)
        return found[-1].to, message.sequence

    def answered_probe(self) -> str:
        """Run to the next probe and answer it; its target."""
        target, sequence = self.next_probe()
        self.probed = self.sends(Ping, target)
        self.hear(target, Ack(sequence, 0))
        return target

    def changes(self) -> list[tuple[str, MemberState]]:
        return [(output.member, output.new) for output in self.outputs if isinstance(output, MemberChanged)]

    def state(self, member: str) -> MemberState:
        return self.swim.members()[member].state


# --- members come from the ledger ---


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


def test_a_changed_address_is_used_at_once() -> None:
    bench = Bench("b")
    bench.swim.set_members({"b": "elsewhere"}, bench.now)
    bench.hear("b", Ping(5, 0))
    assert bench.sends(Ack)[0].address == "elsewhere"


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


# --- probes ---


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


# --- suspicion ---


def silent_until_dead(bench: Bench, member: str) -> float:
    start = bench.now
    bench.run_until(lambda: bench.state(member) is MemberState.DEAD)
    return bench.now - start


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


# --- about this agent ---


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


# --- the buddy system ---


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


# --- links ---


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


# --- own health ---


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


# --- leaving ---


def test_a_clean_stop_tells_the_others_directly_and_probes_no_more() -> None:
    bench = Bench("bcd")
    bench.swim.leave(bench.now)
    bench.outputs = bench.swim.take_outputs()
    farewell = Update("me", "me", Claim.LEFT, 0)
    assert {send.to for send in bench.sends(Gossip) if farewell in send.message.updates} == set("bcd")
    bench.claim("me", Claim.LEFT)
    assert bench.swim.incarnation == 0, "it doesn't refute what is true"
    bench.run_to(bench.now + 20)
    assert not bench.sends(Ping)
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


# --- anything at all ---

ids = st.sampled_from(["me", "b", "c", "stranger"])
incarnations = st.sampled_from([0, 1, 2, 9, MAX_INCARNATION_STEP, MAX_INCARNATION])
some_updates = st.lists(st.builds(Update, ids, ids, st.sampled_from(Claim), incarnations), max_size=4).map(tuple)
sequences = st.integers(0, 12)
some_messages = st.one_of(
    st.builds(Ping, sequences, incarnations, some_updates),
    st.builds(PingRequest, sequences, incarnations, ids, some_updates),
    st.builds(Ack, sequences, incarnations, some_updates),
    st.builds(Nack, sequences, incarnations, some_updates),
    st.builds(Gossip, incarnations, some_updates),
)
some_inputs = st.one_of(
    st.tuples(st.just("receive"), ids, some_messages),
    st.tuples(st.sampled_from(["link", "leave", "wait", "stall", "remove", "add"]), ids, st.just(Gossip(0))),
)


@given(st.lists(some_inputs, max_size=40))
def test_no_input_breaks_it(inputs: list[tuple[str, str, SwimMessage]]) -> None:
    """Nothing raises, the own incarnation never falls, every member's neither, and its timers come to rest."""
    bench = Bench("bc")
    for kind, member, message in inputs:
        own, before = bench.swim.incarnation, bench.swim.members()
        if kind == "receive":
            bench.hear(member, message)
            assert len(bench.outputs) <= 16
        elif kind == "link":
            bench.link(member)
        elif kind == "leave":
            bench.swim.leave(bench.now)
        elif kind == "wait":
            bench.run_to(bench.now + 0.7)
        elif kind == "stall":
            bench.now += 7
            bench.swim.on_deadline(bench.now)
        else:
            bench.set_members(*("bc" if kind == "add" else "b"))
        assert bench.swim.incarnation >= own
        after = bench.swim.members()
        assert all(after[id].incarnation >= before[id].incarnation for id in after if id in before and kind != "add")
    steps = 0
    end = bench.now + 5
    while bench.swim.deadline() <= end:
        bench.now = max(bench.now, bench.swim.deadline())
        bench.swim.on_deadline(bench.now)
        steps += 1
        assert steps < 500
