"""An older copy of a sole voter's disk was put back: it needs nobody else to decide, so it has to be told before."""

from __future__ import annotations

import copy

import pytest

from agent.control.autopilot import DEAD_S, HEALTHY_S
from agent.node.subscriptions import LEADERLESS_S
from agent.raft import RaftTiming
from tests.node.cluster import Cluster, Node
from tests.node.test_disk_went_back import put_back, said
from tests.node.test_epochs import recover
from tests.support.memory_disk import MemoryDisk

LINKS_S = 0.3  # until links are up again
WAITS_S = RaftTiming.lan().election_timeout_max_s
COMES_ANEW_S = DEAD_S + HEALTHY_S + 20.0


def of_two() -> tuple[Cluster, Node, MemoryDisk]:
    """n1 decides alone, n2 follows it; and n1's disk as it was then."""
    cluster = Cluster(2)
    founder = cluster.elect()
    founder.result(founder.deploy("early"))
    cluster.run(1.0)
    return cluster, founder, copy.deepcopy(founder.disk)


def grown() -> tuple[Cluster, Node, MemoryDisk]:
    """All three vote by now."""
    cluster, founder, older = of_two()
    cluster.enrol("n3")
    cluster.until(lambda: len(founder.up.context.raft.configuration.voters) == 3, within_s=2 * HEALTHY_S)
    founder.result(founder.deploy("later"))
    cluster.run(1.0)
    return cluster, founder, older


def must_come_anew(cluster: Cluster, founder: Node) -> None:
    coordinator = next(node for node in cluster.alive if node is not founder and node.up.context.raft.is_leader)
    cluster.until(lambda: founder.id in coordinator.up.context.raft.configuration.voters, within_s=COMES_ANEW_S)
    cluster.until(lambda: not founder.up.context.raft.fenced, within_s=COMES_ANEW_S)
    cluster.run(1.0)
    assert founder.up.context.state.chain == coordinator.up.context.state.chain
    assert {"early", "later"} <= founder.up.context.state.stacks.keys()
    assert sum(node.up.context.raft.is_leader for node in cluster.alive) == 1


def test_it_does_not_lead_before_it_has_met_the_others_and_comes_anew() -> None:
    cluster, founder, older = grown()
    term = older.hard_state.term
    cluster.cut("n1")
    put_back(cluster, founder, older)
    cluster.run(LINKS_S)
    assert founder.up.context.raft.term == term, "it hasn't even asked itself"
    cluster.mend()
    cluster.run(0.1)
    assert founder.up.context.raft.fenced
    assert said(founder)
    must_come_anew(cluster, founder)


def test_who_is_gone_for_good_is_not_dialled_for_ever() -> None:
    cluster, founder, _ = of_two()
    cluster.enrol("n3")
    cluster.run(1.0)
    older = copy.deepcopy(founder.disk)
    cluster.crash("n3")
    cluster.enrol("n4")
    cluster.until(lambda: len(founder.up.context.raft.configuration.voters) == 3, within_s=2 * HEALTHY_S)
    founder.result(founder.deploy("later"))
    cluster.run(1.0)
    put_back(cluster, founder, older)
    cluster.run(5.0)
    must_come_anew(cluster, founder)
    assert cluster.n("n3").id not in founder.wanted


def test_nor_where_the_others_have_gone_on_without_it_meanwhile() -> None:
    cluster, founder, older = grown()
    cluster.crash("n1")
    coordinator = cluster.elect()
    cluster.until(lambda: founder.id not in coordinator.up.context.raft.configuration.members, within_s=COMES_ANEW_S)
    founder.disk = copy.deepcopy(older)
    cluster.start("n1")
    cluster.run(LEADERLESS_S + 1.0)
    assert not founder.up.context.raft.is_leader
    must_come_anew(cluster, founder)


def test_one_that_decided_something_alone_takes_no_other_history() -> None:
    cluster, founder, older = grown()
    cluster.cut("n1")
    put_back(cluster, founder, older)
    cluster.until(lambda: founder.up.context.raft.is_leader)
    assert founder.result(founder.deploy("alone")).outcome == "applied"
    alone = founder.up.context.state.chain
    cluster.mend()
    cluster.run(COMES_ANEW_S)
    assert founder.up.context.raft.fenced
    assert founder.up.context.state.chain == alone, "its ledger isn't mixed with another"
    assert any("another history" in event.what for event in founder.events)


def test_a_sole_voter_that_others_follow_leads_once_it_is_linked_with_them() -> None:
    cluster, founder, _ = of_two()
    cluster.crash("n1")
    cluster.start("n1")
    cluster.until(lambda: founder.up.context.raft.is_leader, within_s=LINKS_S)


def test_a_sole_voter_that_nobody_is_linked_with_leads_after_a_while() -> None:
    cluster, founder, _ = of_two()
    cluster.crash("n2")
    cluster.crash("n1")
    cluster.start("n1")
    cluster.run(WAITS_S / 2)
    assert not founder.up.context.raft.is_leader
    assert founder.wanted == {cluster.n("n2").id}
    cluster.until(lambda: founder.up.context.raft.is_leader, within_s=WAITS_S)
    cluster.run(1.0)
    assert not founder.wanted, "who wants it dials"


def test_a_host_alone_waits_for_nobody() -> None:
    cluster = Cluster(1)
    founder = cluster.elect()
    cluster.crash("n1")
    cluster.start("n1")
    cluster.settle()
    cluster.run(0.001)
    assert founder.up.context.raft.is_leader


@pytest.mark.parametrize("starts_between", [0, 2])
def test_of_two_hosts_the_one_that_follows_remembers(starts_between: int) -> None:
    """Nobody coordinates then: what the other one has is the cluster's, by an admin's word."""
    cluster, founder, older = of_two()
    for _ in range(starts_between):
        cluster.crash("n1")
        cluster.start("n1")
        cluster.run(2.0)
    founder.result(founder.deploy("later"))
    cluster.run(1.0)
    put_back(cluster, founder, older)
    cluster.run(15.0)
    assert founder.up.context.raft.fenced
    assert said(founder)
    heir = cluster.n("n2")
    assert "later" in heir.up.context.state.stacks
    recover(heir)
    cluster.until(lambda: heir.up.context.raft.is_leader)
    cluster.run(5.0)
    assert founder.up.context.state.epoch == 2
    assert founder.up.context.state.chain == heir.up.context.state.chain
    assert "later" in founder.up.context.state.stacks
