"""Whole groups in virtual time, seeded."""

from __future__ import annotations

import pytest

from agent.swim import Claim, Gossip, MemberState, SwimConfig, Update
from tests.swim.network import Network

SIZES = [3, 10, 30]


@pytest.mark.parametrize("size", SIZES)
def test_a_fresh_group_sees_itself_alive_without_false_alarm(size: int) -> None:
    net = Network(size, seed=size)
    net.wait(net.all_alive, within=5)
    net.run_for(30)
    assert net.seen(MemberState.SUSPECT) == []


@pytest.mark.parametrize("size", SIZES)
def test_an_idle_member_sends_four_datagrams_a_second(size: int) -> None:
    """SWIM §3: the load per member doesn't grow with the group. Two pings, two acks."""
    net = Network(size, seed=1)
    net.run_for(20)
    before = net.sent
    net.run_for(10)
    assert (net.sent - before) / 10 / size == pytest.approx(4.0, abs=0.2)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("size", "within"), [(2, 4), (3, 4), (10, 6), (30, 7)])
def test_a_death_is_seen_by_all(size: int, within: float, seed: int) -> None:
    """SWIM §3.2 bounds the first detection, Lifeguard §IV.B the suspicion, gossip takes O(log n) periods."""
    net = Network(size, seed=seed)
    net.wait(net.all_alive, within=5)
    net.crash("m01")
    net.wait(lambda: net.all_see("m01", MemberState.DEAD), within=within)
    assert {member for _, member in net.seen(MemberState.SUSPECT)} == {"m01"}


def test_many_deaths_at_once_are_seen_by_all() -> None:
    net = Network(10, seed=3)
    net.wait(net.all_alive, within=5)
    for member in net.ids[:4]:
        net.crash(member)
    net.wait(lambda: all(net.all_see(member, MemberState.DEAD) for member in net.ids[:4]), within=16)
    assert net.all_alive()


@pytest.mark.parametrize("seed", range(2))
def test_ten_percent_loss_kills_nobody_in_ten_minutes(seed: int) -> None:
    net = Network(10, seed=seed, loss=0.1)
    net.run_for(600)
    assert net.seen(MemberState.DEAD) == []
    assert net.seen(MemberState.SUSPECT) != [], "the loss was felt"


def test_a_death_is_seen_by_all_under_loss() -> None:
    net = Network(10, seed=5, loss=0.1)
    net.run_for(20)
    net.crash("m04")
    net.wait(lambda: net.all_see("m04", MemberState.DEAD), within=12)


def test_one_broken_path_is_bridged_by_helpers() -> None:
    """SWIM §3.1: indirect probes."""
    net = Network(10, seed=2)
    net.wait(net.all_alive, within=5)
    net.cut = {("m00", "m01"), ("m01", "m00")}
    net.run_for(60)
    assert net.seen(MemberState.SUSPECT) == []


def test_a_member_that_is_deaf_is_dead_and_blames_slowly() -> None:
    """One-way partition. Lifeguard §IV.A, B: cut off from all confirmations, it waits longest itself."""
    net = Network(10, seed=4)
    net.wait(net.all_alive, within=5)
    start = net.now
    net.cut = {(other, "m00") for other in net.ids}
    net.wait(lambda: net.all_see("m00", MemberState.DEAD), within=15)
    blamed = [change for viewer, change in net.changes if viewer == "m00" and change.new is MemberState.DEAD]
    assert all(change.at - start >= 12 for change in blamed)
    assert all(member == "m00" for viewer, member in net.seen(MemberState.DEAD) if viewer != "m00")
    net.cut = set()
    net.wait(net.all_alive, within=30)


def test_a_member_that_is_mute_is_dead_until_it_is_heard_again() -> None:
    """The other one-way partition."""
    net = Network(10, seed=4)
    net.wait(net.all_alive, within=5)
    net.cut = {("m00", other) for other in net.ids}
    net.wait(lambda: all(net.state(viewer, "m00") is MemberState.DEAD for viewer in net.ids[1:]), within=10)
    net.cut = set()
    net.wait(net.all_alive, within=30)


@pytest.mark.parametrize("seed", range(3))
def test_the_halves_of_a_healed_partition_find_each_other(seed: int) -> None:
    net = Network(10, seed=seed)
    net.wait(net.all_alive, within=5)
    left, right = net.ids[:5], net.ids[5:]
    net.cut = {(a, b) for a in left for b in right} | {(b, a) for a in left for b in right}
    net.wait(lambda: all(net.state(a, b) is MemberState.DEAD for a in left for b in right), within=60)
    assert all(net.state(a, b) is MemberState.ALIVE for a in left for b in left if a != b)
    net.cut = set()
    net.wait(net.all_alive, within=40)


@pytest.mark.parametrize("away", [0.5, 20.0])
def test_a_restarted_agent_is_alive_again(away: float) -> None:
    """It forgot its incarnation; the others tell it (buddy system), and it raises above that."""
    net = Network(10, seed=6)
    net.wait(net.all_alive, within=5)
    for _ in range(2):
        net.crash("m03")
        net.run_for(away)
        net.start("m03")
        net.wait(net.all_alive, within=10)
    assert net.agents["m03"].incarnation == 2 or away < 1, "each death it was told of raised it by one"


def test_a_clean_stop_is_seen_as_left_at_once_and_never_as_dead() -> None:
    net = Network(10, seed=8)
    net.wait(net.all_alive, within=5)
    net.agents["m02"].leave(net.now)
    net.run_for(1)
    net.crash("m02")
    assert net.all_see("m02", MemberState.LEFT)
    net.run_for(30)
    assert net.seen(MemberState.DEAD) == net.seen(MemberState.SUSPECT) == []
    net.start("m02")
    net.wait(net.all_alive, within=10)


def test_a_restarted_agent_learns_of_the_dead_it_never_met() -> None:
    net = Network(10, seed=9)
    net.wait(net.all_alive, within=5)
    net.crash("m05")
    net.wait(lambda: net.all_see("m05", MemberState.DEAD), within=10)
    net.crash("m06")
    net.start("m06")
    net.wait(lambda: net.state("m06", "m05") is MemberState.DEAD, within=10)


def test_a_blocked_udp_port_does_not_make_a_linked_member_dead() -> None:
    """One link to one other member is enough: there it hears what is said of it, and answers."""
    net = Network(10, seed=10)
    net.wait(net.all_alive, within=5)
    net.connect("m00", "m07")
    net.cut = {("m00", other) for other in net.ids} | {(other, "m00") for other in net.ids}
    net.run_for(120)
    assert [seen for seen in net.seen(MemberState.DEAD) if seen[1] == "m00"] == []
    assert net.state("m07", "m00") is not MemberState.DEAD


def test_a_liar_talks_nobody_dead() -> None:
    """Lifeguard §IV.C and the rule that only the own timer kills: the accused always has time to answer."""
    net = Network(10, seed=11)
    net.wait(net.all_alive, within=5)
    for _ in range(100):
        for victim in net.ids[1:]:
            lie = Update(victim, "m00", Claim.DEAD, net.agents[victim].incarnation)
            for listener in net.ids[1:]:
                net.agents[listener].receive("m00", Gossip(net.agents["m00"].incarnation, (lie,)), net.now)
        net.run_for(0.3)
    assert [seen for seen in net.seen(MemberState.DEAD) if seen[1] != "m00"] == []


@pytest.mark.parametrize(
    ("config", "within"), [(SwimConfig.local(), 2.5), (SwimConfig.lan(), 6.0), (SwimConfig.wan(), 25.0)]
)
def test_presets_see_deaths_when_they_say(config: SwimConfig, within: float) -> None:
    net = Network(10, seed=12, config=config)
    net.wait(net.all_alive, within=20)
    net.crash("m09")
    net.wait(lambda: net.all_see("m09", MemberState.DEAD), within=within)


def test_the_same_seed_gives_the_same_run() -> None:
    def run(seed: int) -> list[str]:
        net = Network(10, seed=seed, loss=0.2)
        net.run_for(20)
        net.crash("m01")
        net.run_for(20)
        return net.log

    assert run(1) == run(1)
    assert run(1) != run(2)
