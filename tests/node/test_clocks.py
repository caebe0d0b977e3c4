"""Wrong clocks: none of them moves the ledger's time for good, and hosts without one take part."""

from __future__ import annotations

import pytest

from agent.control.clock import AGREES_MS
from agent.model.ledger import PhaseEntry, encode_entry
from agent.node.clock import HOLDS_S, UNHEARD_S, LedgerClock
from agent.node.instant import Instant
from agent.node.local_host import REPORT_EVERY_S
from agent.node.messages import ReportFrame
from tests.node.cluster import Cluster, Node
from tests.support.ledger import START_MS

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
YEARS_MS = 5 * 365 * DAY_MS


def elected(size: int, **skews: int) -> Cluster:
    """`skews`: by how much each host's clock is off, in ms."""
    cluster = Cluster(size)
    for name, skew in skews.items():
        cluster.n(name).skew_ms = skew
    cluster.elect()
    return cluster


def led_by(cluster: Cluster, name: str) -> Node:
    coordinator = cluster.elect()
    if coordinator.name != name:
        coordinator.hand_over(cluster.n(name))
    return cluster.n(name)


def off_by_ms(cluster: Cluster) -> int:
    """The ledger's time against the true one."""
    return max(node.up.context.state.at for node in cluster.alive) - (START_MS + int(cluster.now * 1000))


@pytest.mark.parametrize(("size", "wrong"), [(3, "n1"), (3, "n3"), (2, "n1"), (5, "n2")])
def test_a_coordinator_years_ahead_stamps_by_the_others_clocks(size: int, wrong: str) -> None:
    cluster = elected(size, **{wrong: YEARS_MS})
    coordinator = led_by(cluster, wrong)
    assert coordinator.result(coordinator.deploy()).outcome == "applied"
    assert abs(off_by_ms(cluster)) < DAY_MS


def test_a_clock_that_jumps_while_its_host_coordinates_moves_nothing() -> None:
    cluster = elected(3)
    coordinator = cluster.elect()
    coordinator.deploy()
    coordinator.skew_ms = YEARS_MS
    assert coordinator.result(coordinator.deploy("blog")).outcome == "applied"
    assert abs(off_by_ms(cluster)) < DAY_MS


def test_a_clock_that_jumps_is_believed_when_the_others_confirm_it() -> None:
    """All of them were an hour behind, and are put right one after another."""
    cluster = elected(3)
    coordinator = cluster.elect()
    coordinator.deploy()
    coordinator.skew_ms = HOUR_MS
    assert coordinator.result(coordinator.deploy("blog")).outcome == "applied"
    assert abs(off_by_ms(cluster)) < HOUR_MS / 2
    for node in cluster.followers:
        node.skew_ms = HOUR_MS
        cluster.run(1.0)  # they tell at once
    cluster.run(HOLDS_S)
    request = coordinator.deploy("more", now_s=coordinator.when.wall_ms / 1000)
    assert coordinator.result(request).outcome == "applied"
    assert off_by_ms(cluster) > HOUR_MS / 2


@pytest.mark.parametrize(("size", "ahead"), [(2, 2 * HOUR_MS), (3, 2 * HOUR_MS), (2, -2 * HOUR_MS)])
def test_a_coordinator_that_is_put_right_goes_by_the_true_time_again(size: int, ahead: int) -> None:
    """Though the ledger was stamped by the wrong clock, and is ahead of all that are right."""
    cluster = elected(size, n1=ahead)
    coordinator = led_by(cluster, "n1")
    coordinator.deploy(now_s=coordinator.when.wall_ms / 1000)
    coordinator.skew_ms = 0
    assert abs(coordinator.up.context.clock_ms(coordinator.when) - coordinator.when.wall_ms) < 1000
    cluster.run(HOLDS_S + REPORT_EVERY_S)
    assert abs(coordinator.up.context.clock_ms(coordinator.when) - coordinator.when.wall_ms) < 1000


def test_a_clock_that_jumped_is_believed_when_it_has_held_as_a_peers_is() -> None:
    """Nobody agrees with it; then it is one clock among others."""
    clock = LedgerClock("a")
    clock.begin(Instant(0.0, START_MS))
    clock.heard("b", START_MS, Instant(0.0, START_MS))
    jumped = START_MS + 2 * HOUR_MS
    moments = {seconds: Instant(seconds, jumped + int(seconds * 1000)) for seconds in (1.0, HOLDS_S + 1.0)}
    now = {at: clock.now_ms(START_MS, ("a", "b"), when) - when.wall_ms for at, when in moments.items()}
    assert now == {1.0: -2 * HOUR_MS, HOLDS_S + 1.0: 0}, "of two, which have no majority, the own one holds"


def test_who_hears_only_clocks_that_have_just_jumped_is_not_checked_by_them() -> None:
    """Years ahead since it began, and both peers were just set: none of them counts, so it would stamp by its own."""
    clock, voters = LedgerClock("a"), ("a", "b", "c")
    clock.begin(Instant(0.0, START_MS + YEARS_MS))

    def hear(at_ms: int, seconds: float) -> Instant:
        when = Instant(seconds, START_MS + YEARS_MS + int(seconds * 1000))
        for peer in ("b", "c"):
            clock.heard(peer, at_ms, when)
        return when

    when = hear(START_MS, 0.0)
    assert clock.is_checked(START_MS, voters, voters, 0.0, when)
    when = hear(START_MS + 2 * AGREES_MS, 5.0)
    assert not clock.is_checked(START_MS, voters, voters, 0.0, when)
    when = hear(START_MS + 2 * AGREES_MS + int(HOLDS_S * 1000), 5.0 + HOLDS_S)
    assert clock.is_checked(START_MS, voters, voters, 0.0, when)
    assert clock.now_ms(START_MS, voters, when) < START_MS + HOUR_MS


def test_a_single_host_that_is_put_right_is_believed() -> None:
    cluster = elected(1, n1=-HOUR_MS)
    coordinator = cluster.elect()
    coordinator.skew_ms = 0
    assert coordinator.result(coordinator.deploy()).outcome == "applied"
    assert abs(off_by_ms(cluster)) < 1000


def test_a_coordinator_without_links_writes_nothing_by_a_clock_that_is_years_ahead() -> None:
    """The stamp would wait in its log, and the next host whose clock is wrong would acknowledge it."""
    cluster = elected(3)
    coordinator, successor = cluster.elect(), cluster.followers[0]
    successor.skew_ms = YEARS_MS
    cluster.lost = lambda sender, to, frame: isinstance(frame, ReportFrame)
    coordinator.hand_over(successor)
    before = successor.up.context.raft.last_index
    request = successor.deploy()
    cluster.run(UNHEARD_S + 1.0)
    assert successor.up.context.raft.last_index == before
    cluster.lost = lambda sender, to, frame: False
    cluster.run(REPORT_EVERY_S)
    assert successor.result(request).outcome == "applied"
    assert abs(off_by_ms(cluster)) < DAY_MS


@pytest.mark.parametrize("skew", [-START_MS - 100_000, -YEARS_MS * 3])
def test_a_host_without_a_clock_follows_and_coordinates(skew: int) -> None:
    """In 1970, or in 2000-odd: its operator's tokens are valid by the others' clocks."""
    cluster = elected(3, n1=skew)
    coordinator = led_by(cluster, "n1")
    assert coordinator.result(coordinator.deploy()).outcome == "applied"
    assert coordinator.result(coordinator.deploy("blog")).outcome == "applied"
    assert abs(off_by_ms(cluster)) < DAY_MS


def test_hosts_without_clocks_acknowledge_what_the_one_with_a_clock_stamps() -> None:
    cluster = elected(3, n1=-START_MS, n2=-START_MS)
    coordinator = led_by(cluster, "n3")
    assert coordinator.result(coordinator.deploy()).outcome == "applied"


def test_a_coordinator_that_stamps_years_ahead_all_the_same_is_not_followed() -> None:
    """A taken one can stall; it can't move time for good."""
    cluster = elected(3)
    coordinator = cluster.elect()
    before = cluster.followers[0].up.context.raft.commit
    entry = PhaseEntry(at=START_MS + YEARS_MS, stack="shop", revision=1, phase="healthy")
    coordinator.up.context.raft.propose(encode_entry(entry), cluster.now)
    cluster.run(2.0)
    for node in cluster.followers:
        assert node.up.context.raft.commit == before
        assert node.up.drops["entry_far_ahead"] > 0
    assert abs(off_by_ms(cluster)) < DAY_MS


def test_a_voter_whose_clock_is_days_behind_takes_what_the_majority_has() -> None:
    """Ten days after the founding, and one host believes that it is the eighth: its clock isn't behind the ledger."""
    cluster = elected(3, n1=10 * DAY_MS, n2=10 * DAY_MS, n3=8 * DAY_MS)
    coordinator, behind = led_by(cluster, "n1"), cluster.n("n3")
    request = coordinator.deploy(now_s=coordinator.when.wall_ms / 1000)
    assert coordinator.result(request).outcome == "applied"
    cluster.run(1.0)
    assert behind.up.drops["entry_far_ahead"] > 0
    assert behind.up.context.state.index == coordinator.up.context.state.index


def test_who_hears_no_clocks_stamps_by_its_own_after_a_second() -> None:
    cluster = elected(3)
    coordinator, successor = cluster.elect(), cluster.followers[0]
    cluster.lost = lambda sender, to, frame: isinstance(frame, ReportFrame)
    coordinator.hand_over(successor)
    request = successor.deploy()
    cluster.run(UNHEARD_S / 2)
    assert request not in successor.answers
    cluster.run(UNHEARD_S)
    assert successor.result(request).outcome == "applied"
