"""An older copy of an agent's disk was put back: it is fenced, replaced among the voters, and comes anew."""

from __future__ import annotations

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.control.autopilot import DEAD_S, HEALTHY_S
from agent.node.disk import SETTLES_S
from agent.node.lives import Lives
from agent.node.messages import KeptFrame, RaftFrame
from agent.raft import Life
from agent.raft.messages import Heartbeat, Vote
from tests.node.cluster import Cluster, Node
from tests.support.memory_disk import MemoryDisk
from tests.support.words import signing_as


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


def test_a_restart_does_not_end_the_fence() -> None:
    """The others remember, and tell; what the disk remembers would go back with it."""
    cluster, victim, older = with_an_old_copy()
    put_back(cluster, victim, older)
    cluster.run(0.1)
    for _ in range(3):
        cluster.crash(victim.name)
        cluster.start(victim.name)
        cluster.run(0.1)
        assert victim.up.context.raft.fenced


def test_nor_does_a_restart_of_those_who_remember() -> None:
    """They have it on their disks."""
    cluster, victim, older = with_an_old_copy()
    cluster.run(SETTLES_S)
    for node in cluster.alive:
        cluster.crash(node.name)
    victim.disk = copy.deepcopy(older)
    for node in cluster.nodes.values():
        cluster.start(node.name)
    cluster.run(0.1)
    assert victim.up.context.raft.fenced


def test_what_is_remembered_goes_to_the_disk_with_what_goes_there_anyway() -> None:
    """No write of its own while entries come, and one at most when they have stopped."""
    cluster = Cluster(3)
    coordinator = cluster.elect()
    cluster.run(3.0)
    for node in cluster.alive:
        node.forget()
    for number in range(8):
        assert coordinator.result(coordinator.deploy(f"shop{number}")).outcome == "applied"
        cluster.run(0.2)
    assert not any(store.settles is False for node in cluster.alive for store in node.stores)
    cluster.run(3.0)
    for node in cluster.alive:
        assert sum(store.settles is False for store in node.stores) <= 2
        others = {other.id: other.up.context.raft.applied for other in cluster.alive if other is not node}
        assert {life.agent: life.up_to for life in node.disk.lives} == others
        node.forget()
    cluster.run(5.0)
    assert not any(node.stores for node in cluster.alive), "nothing is written where nothing happens"


def test_nor_does_another_coordinator() -> None:
    cluster, victim, older = with_an_old_copy()
    coordinator = cluster.elect()
    put_back(cluster, victim, older)
    cluster.run(0.1)
    other = next(node for node in cluster.followers if node is not victim)
    coordinator.hand_over(other)
    cluster.crash(victim.name)
    cluster.start(victim.name)
    cluster.run(0.1)
    assert victim.up.context.raft.fenced


@pytest.mark.parametrize("elected", [True, False])
def test_a_voter_that_lies_keeps_nobody_out(elected: bool) -> None:
    """Neither by a heartbeat as of one that leads, nor by what it remembers."""
    cluster = Cluster(3)
    coordinator = cluster.elect()
    liar = coordinator if elected else cluster.followers[0]
    term = coordinator.up.context.raft.term + (not elected)
    for victim in [node for node in cluster.alive if node is not liar]:
        heartbeat = RaftFrame(message=Heartbeat(term=term, commit=10_000, round=1))
        victim.up.frame(liar.id, heartbeat, victim.when)
        victim.up.frame(liar.id, KeptFrame(boot=9, index=10_000, last=10_000, remembered=10_000), victim.when)
        victim.up.frame(liar.id, KeptFrame(boot=10, index=0, last=0), victim.when)
    cluster.settle()
    assert not any(node.up.context.raft.fenced for node in cluster.alive)
    cluster.crash(liar.name)
    successor = cluster.elect()
    assert successor.result(successor.deploy()).outcome == "applied"


def word_of(node: Node, index: int, *, epoch: int = 1) -> bytes:
    state = node.up.context.state
    return signing_as(node.id)(f"muster disk\0{state.cluster}.{epoch}.{node.id}.{index}".encode())


def test_one_that_remembers_is_enough() -> None:
    """The other one was away when the copy was made; together the two forgetful ones would be a majority."""
    cluster = Cluster(3)
    coordinator = cluster.elect()
    victim, away = cluster.followers
    cluster.crash(away.name)
    cluster.run(1.0)
    older = copy.deepcopy(victim.disk)
    assert coordinator.result(coordinator.deploy()).outcome == "applied"
    cluster.run(1.0)
    put_back(cluster, victim, older)
    cluster.run(0.1)
    assert victim.up.context.raft.fenced
    cluster.start(away.name)
    cluster.run(5.0)
    assert away.up.context.state.chain == coordinator.up.context.state.chain
    assert "shop" in away.up.context.state.stacks


def test_one_that_went_back_by_the_start_that_it_makes_now_says_so_itself() -> None:
    """Nobody else can tell by the count of its starts; shown its own word it tells all, and is replaced."""
    cluster, victim, older = with_an_old_copy()
    coordinator = cluster.elect()
    cluster.crash(victim.name)
    cluster.start(victim.name)
    cluster.run(1.0)
    put_back(cluster, victim, older)
    assert victim.disk.starts == older.starts + 1
    cluster.run(1.0)
    assert victim.up.context.raft.fenced
    assert said(victim)
    assert said(coordinator)
    cluster.until(lambda: victim.id not in coordinator.up.context.raft.configuration.members, within_s=DEAD_S + 5.0)
    cluster.until(lambda: victim.id in coordinator.up.context.raft.configuration.voters, within_s=HEALTHY_S + 10.0)
    cluster.run(1.0)
    assert len(said(coordinator)) == 1
    assert victim.up.context.state.chain == coordinator.up.context.state.chain


def test_what_it_never_signed_for_this_is_no_word_of_it() -> None:
    cluster = Cluster(3)
    liar = cluster.elect()
    victim, other = cluster.followers
    true = victim.up.context.raft.applied
    for shown in (word_of(victim, true), word_of(other, 10_000), word_of(victim, 10_000, epoch=2), bytes(64), b""):
        told = KeptFrame(boot=9, index=10_000, last=10_000, remembered=10_000, shown=shown)
        victim.up.frame(liar.id, told, victim.when)
    assert not victim.up.context.raft.fenced
    assert victim.up.context.raft.last_index < 10_000
    told = KeptFrame(boot=9, index=1, last=1, remembered=true, shown=word_of(victim, true))
    victim.up.frame(liar.id, told, victim.when)
    assert not victim.up.context.raft.fenced, "it has all of that"


def test_a_sole_founders_disk_from_before_the_cluster_grew_is_told_by_who_came_since() -> None:
    """Its configuration names nobody to ask, and its ledger doesn't know who tells."""
    cluster = Cluster(1)
    founder = cluster.elect()
    cluster.run(1.0)
    older = copy.deepcopy(founder.disk)
    others = [cluster.enrol("n2"), cluster.enrol("n3")]
    cluster.until(lambda: len(founder.up.context.raft.configuration.voters) == 3, within_s=2 * HEALTHY_S)
    assert founder.result(founder.deploy()).outcome == "applied"
    cluster.run(1.0)
    put_back(cluster, founder, older)
    cluster.run(5.0)
    assert founder.up.context.raft.fenced
    assert not founder.up.context.raft.is_leader, "though it knows of no other voter"
    assert said(founder)
    coordinator = next(node for node in others if node.up.context.raft.is_leader)
    assert coordinator.result(coordinator.deploy(rev=2)).outcome == "applied"


def test_who_was_only_away_is_not_kept_out() -> None:
    """It has less than the others, and all that it ever had."""
    cluster = Cluster(3)
    away = cluster.elect()
    cluster.crash(away.name)
    coordinator = cluster.elect()
    for name in ("shop", "blog"):
        assert coordinator.result(coordinator.deploy(name)).outcome == "applied"
    cluster.start(away.name)
    cluster.run(1.0)
    assert not away.up.context.raft.fenced
    assert away.up.context.state.chain == coordinator.up.context.state.chain
    assert coordinator.up.drops == {}


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
    before = coordinator.up.drops.get("disk_went_back", 0)
    coordinator.up.frame(victim.id, vote, coordinator.when)
    assert coordinator.up.drops["disk_went_back"] == before + 1
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


def tells(boot: int, index: int, last: int) -> KeptFrame:
    return KeptFrame(boot=boot, index=index, last=last, word=str(index).encode())


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


def test_the_words_of_who_left_are_kept_to_be_shown_until_it_counts_again_or_is_expelled() -> None:
    lives = Lives()
    lives.linked("a", 3, ("a",))
    lives.kept("a", tells(3, 7, 7), ("a",))
    lives.kept("a", replace(tells(4, 7, 7), went_back=True), ("a",))
    assert not lives.count("a")
    lives.reconfigured(())
    assert lives.life("a") == Life(agent="a")
    assert (lives.word("a").up_to, lives.word("a").word) == (7, b"7")
    assert lives.count("a")
    again = Lives.of(lives.take() or ())
    again.reconfigured(())
    assert again.word("a") == lives.word("a")
    again.forget(("a",))
    assert not again.word("a").word
    lives.reconfigured(("a",))
    assert lives.word("a") == Life(agent="a"), "it comes anew"


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 20)), max_size=12))
def test_whose_disk_never_went_back_is_never_taken_for_one(told: list[tuple[int, int]]) -> None:
    """Its lives and its index only grow; what it told comes in any order, late ones of an earlier life too."""
    index, history = 0, []
    for boot, more in sorted(told):
        index += more
        history.append((boot, index))
    lives = Lives()
    for boot, kept in [*history, *reversed(history), *history]:
        assert not lives.kept("a", tells(boot, kept, kept), ("a",))
        assert lives.life("a").word == (str(lives.life("a").up_to).encode() if lives.life("a").up_to else b"")
    assert lives.count("a")


@given(st.integers(1, 20), st.integers(0, 20))
def test_whose_log_ends_before_what_it_told_in_an_earlier_life_counts_no_more(had: int, has: int) -> None:
    lives = Lives()
    lives.kept("a", tells(1, had, had), ("a",))
    assert lives.kept("a", tells(2, 0, has), ("a",)) == (has < had)
    assert lives.count("a") == (has >= had)


TOLD = st.tuples(st.sampled_from("abc"), st.integers(1, 4), st.integers(0, 9), st.integers(0, 9))


@given(st.lists(st.tuples(TOLD, st.booleans()), max_size=20))
def test_who_starts_anew_remembers_as_if_it_had_not(history: list[tuple[tuple[str, int, int, int], bool]]) -> None:
    lives, kept = Lives(), Lives()
    disk: tuple[Life, ...] = ()
    for (peer, boot, index, last), restarts in history:
        for memory in (lives, kept):
            memory.linked(peer, boot, "ab")
            memory.kept(peer, tells(boot, index, max(index, last)), "ab")
        if restarts:
            disk = kept.take() or disk
            kept = Lives.of(disk)
    for peer in "abc":
        assert (kept.life(peer), kept.count(peer)) == (lives.life(peer), lives.count(peer))
