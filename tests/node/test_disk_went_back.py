"""An older copy of an agent's disk was put back: it is fenced, replaced among the voters, and comes anew."""

from __future__ import annotations

import copy

from agent.control.autopilot import DEAD_S, HEALTHY_S
from agent.node.lives import Lives
from agent.node.messages import RaftFrame
from agent.raft.messages import Vote
from tests.node.cluster import Cluster, Node
from tests.support.memory_disk import MemoryDisk


def put_back(cluster: Cluster, node: Node, older: MemoryDisk) -> None:
    """The power goes, and the host comes back with the disk of another day."""
    cluster.crash(node.name)
    node.disk = copy.deepcopy(older)
    cluster.start(node.name)


def with_an_old_copy() -> tuple[Cluster, Node, MemoryDisk]:
    cluster = Cluster(3)
    coordinator = cluster.elect()
    victim = cluster.followers[0]
    cluster.run(1.0)
    older = copy.deepcopy(victim.disk)
    for name in ("shop", "blog"):
        assert coordinator.result(coordinator.deploy(name)).outcome == "applied"
    cluster.run(1.0)
    return cluster, victim, older


def said(node: Node) -> list[str]:
    return [event.what for event in node.events if "disk went back" in event.what]


def test_who_comes_back_without_what_it_acknowledged_is_fenced_and_comes_anew() -> None:
    cluster, victim, older = with_an_old_copy()
    put_back(cluster, victim, older)
    cluster.run(1.0)
    assert victim.up.context.raft.fenced
    assert said(victim)
    coordinator = cluster.coordinator
    assert coordinator is not None
    assert coordinator.result(coordinator.deploy("more")).outcome == "applied", "the others go on"
    cluster.until(lambda: victim.id not in coordinator.up.context.raft.configuration.members, within_s=DEAD_S + 5.0)
    cluster.until(lambda: not victim.up.context.raft.fenced)
    cluster.until(lambda: victim.id in coordinator.up.context.raft.configuration.voters, within_s=HEALTHY_S + 10.0)
    cluster.run(1.0)
    assert victim.up.context.state.chain == coordinator.up.context.state.chain


def test_the_word_of_who_comes_back_with_an_earlier_life_does_not_count() -> None:
    """Its disk is so old that it was started since: the peers remember."""
    cluster, victim, older = with_an_old_copy()
    for _ in range(2):
        cluster.crash(victim.name)
        cluster.start(victim.name)
        cluster.run(1.0)
    coordinator = cluster.elect()
    put_back(cluster, victim, older)
    cluster.run(2.0)
    assert said(coordinator)
    vote = RaftFrame(message=Vote(term=99, last_index=99, last_term=98, forced=True))
    coordinator.up.frame(victim.id, vote, coordinator.when)
    assert coordinator.up.drops["disk_went_back"] == 1
    assert coordinator.up.context.raft.is_leader
    cluster.until(lambda: victim.id not in coordinator.up.context.raft.configuration.members, within_s=DEAD_S + 5.0)
    cluster.until(lambda: victim.id in coordinator.up.context.raft.configuration.voters, within_s=HEALTHY_S + 10.0)
    cluster.run(1.0)
    assert victim.up.context.state.chain == coordinator.up.context.state.chain


def test_a_restart_is_no_such_thing() -> None:
    cluster = Cluster(3)
    cluster.elect()
    for node in list(cluster.alive):
        cluster.crash(node.name)
        cluster.start(node.name)
        cluster.run(3.0)
    assert not any(said(node) or node.up.context.raft.fenced or node.up.drops for node in cluster.alive)


def test_only_who_is_in_the_configuration_is_remembered() -> None:
    lives = Lives()
    assert not lives.linked("x", 5, ("a",))
    assert not lives.linked("x", 4, ("a",))
    assert not lives.linked("a", 5, ("a",))
    assert lives.linked("a", 4, ("a",))
    assert not lives.count("a")
    assert not lives.linked("a", 4, ("a",)), "told once"
    lives.reconfigured(())
    assert lives.count("a")
