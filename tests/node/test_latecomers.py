"""Agents whose ledger names nobody who is still there: new ones when all founders are gone, and old ones back late."""

from __future__ import annotations

import pytest

from agent.model.instruction import Enrol
from agent.node.context import Peer
from agent.node.messages import Ledger, ReplyFrame
from agent.node.subscriptions import LEADERLESS_S
from tests.node.cluster import OFTEN, Cluster, Node
from tests.support.ledger import member

HEALS_S = 60.0  # half a minute until a voter counts as dead, and some


def with_heirs(founders: int = 1, heirs: tuple[str, ...] = ("n4", "n5", "n6"), **how: object) -> Cluster:
    """A cluster whose founders are all gone, one after another, and expelled; the heirs go on."""
    cluster = Cluster(founders, **how)  # type: ignore[arg-type]  # Cluster's
    cluster.elect()
    for name in heirs:
        cluster.enrol(name)
    cluster.until(lambda: len(voters(cluster)) == 3, within_s=HEALS_S)
    for number in range(1, founders + 1):
        cluster.crash(f"n{number}")
        cluster.until(lambda: cluster.coordinator)
        at = cluster.elect()
        assert cluster.expel(f"n{number}", at=at.name).outcome == "applied"
        cluster.until(lambda: set(voters(cluster)) == set(heirs), within_s=HEALS_S)
    return cluster


def voters(cluster: Cluster) -> list[str]:
    lead = cluster.coordinator
    if lead is None:
        return []
    return [cluster.by_id(voter).name for voter in lead.up.context.raft.configuration.voters]


def join(cluster: Cluster, name: str, seeds: set[str]) -> Node:
    item = member(name)
    node = cluster.add(item)
    node.seeds = frozenset(seeds)
    at = cluster.elect()
    body = Enrol(member=item)
    assert cluster.instruct("enrol", f"member:{item.id}", body, at=at.name).outcome == "applied"
    cluster.start(name)
    return node


@pytest.mark.parametrize("compacted", [False, True])
def test_a_host_that_is_enrolled_when_all_founders_are_gone_joins_by_its_seeds(compacted: bool) -> None:
    cluster = with_heirs(compaction=OFTEN) if compacted else with_heirs()
    node = join(cluster, "n7", {"n4", "n5"})
    cluster.until(lambda: node.id in node.up.context.state.members, within_s=2 * LEADERLESS_S + 2.0)
    cluster.until(lambda: node.up.context.leader is not None)
    request = node.deploy()
    cluster.until(lambda: request in node.answers)
    assert node.result(request).outcome == "applied"


def test_one_seed_is_enough_and_may_be_an_observer() -> None:
    cluster = with_heirs()
    observer = join(cluster, "n8", {"n4"})
    cluster.until(lambda: observer.id in observer.up.context.state.members)
    assert "n8" not in voters(cluster)
    node = join(cluster, "n7", {"n8"})
    cluster.until(lambda: node.id in node.up.context.state.members, within_s=10.0)
    cluster.until(lambda: node.up.context.leader is not None)


def test_a_founder_that_was_away_through_all_of_it_finds_the_heirs() -> None:
    """Back after months: nobody whom its ledger names as a voter is there any more, but a member that it knows is."""
    cluster = Cluster(3)
    cluster.elect()
    cluster.enrol("n4")
    cluster.enrol("n5")
    cluster.run(1.0)
    cluster.crash("n3")
    for name in ("n1", "n2"):
        cluster.run(HEALS_S)
        cluster.crash(name)
    cluster.until(lambda: set(voters(cluster)) >= {"n4"} and cluster.coordinator, within_s=2 * HEALS_S)
    old = cluster.start("n3")
    cluster.until(lambda: old.up.context.leader is not None, within_s=20.0)


def test_a_stranger_is_followed_only_when_nobody_else_is_there() -> None:
    cluster = Cluster(2)
    cluster.elect()
    observer = cluster.n("n2")
    stranger = member("n9")
    observer.up.link_up(Peer(id=stranger.id, known=False), observer.when)
    observer.forget()
    cluster.run(3 * LEADERLESS_S)
    assert not [sent for sent in observer.sent if sent.to == stranger.id]
    observer.up.frame(stranger.id, ReplyFrame(id=1, reply=Ledger(commit=99)), observer.when)
    assert observer.up.drops["unknown_member"] == 1
