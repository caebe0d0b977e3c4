"""Agents that don't vote: they follow a voter, take part in everything else, and change sides (ARCHITECTURE.md
"Membership and links")."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from agent.control.autopilot import DEAD_S, HEALTHY_S
from agent.model.instruction import Scale
from agent.node.messages import (
    CallFrame,
    CancelFrame,
    FollowLedger,
    Frame,
    Ledger,
    ReplyFrame,
    SnapshotPart,
)
from agent.node.subscriptions import ALONE_S, LEADERLESS_S, RETRY_S
from agent.state import decode_snapshot, encode_snapshot
from tests.node.cluster import OFTEN, Cluster, Node
from tests.support.ledger import operator


def elected(size: int, **how: Any) -> Cluster:
    cluster = Cluster(size, **how)
    cluster.elect()
    return cluster


def observers(cluster: Cluster) -> list[Node]:
    return [node for node in cluster.alive if node.id not in node.up.context.raft.configuration.voters]


def followed_by(cluster: Cluster, observer: Node) -> Node:
    """The voter that it subscribed to last."""
    asked = [s for s in observer.sent if isinstance(s.frame, CallFrame) and isinstance(s.frame.request, FollowLedger)]
    return cluster.by_id(asked[-1].to)


@pytest.mark.parametrize("size", [2, 4, 6])
def test_an_observer_has_what_is_committed_as_soon_as_its_voter(size: int) -> None:
    cluster = elected(size)
    (observer,) = observers(cluster)
    observer.result(observer.deploy())
    cluster.run(0.5)
    assert {node.up.context.state.index for node in cluster.alive} == {cluster.elect().up.context.state.index}
    assert len({node.up.context.state.chain for node in cluster.alive}) == 1


@pytest.mark.parametrize("size", [2, 4, 6])
def test_an_observer_knows_the_coordinator_reports_to_it_and_forwards(size: int) -> None:
    cluster = elected(size)
    (observer,) = observers(cluster)
    coordinator = cluster.elect()
    assert observer.up.context.leader == coordinator.id
    assert observer.id in coordinator.up.coordination.reports
    assert observer.result(observer.deploy()).outcome == "applied"
    status = observer.status(observer.ask_status())
    assert (status.answered_by.name, status.stale) == (coordinator.name, False)


def test_an_observer_hears_of_the_next_coordinator() -> None:
    cluster = elected(4)
    (observer,) = observers(cluster)
    lost = cluster.elect()
    cluster.crash(lost.name)
    following = cluster.elect()
    assert observer.up.context.leader == following.id
    assert observer.up.context.lead is not None
    assert observer.up.context.lead.term == following.up.context.raft.term
    assert observer.id in following.up.coordination.reports, "told anew"


def test_without_a_coordinator_an_observer_knows_none() -> None:
    cluster = elected(4)
    (observer,) = observers(cluster)
    voters = [node for node in cluster.alive if node is not observer]
    cluster.crash(voters[0].name)
    cluster.crash(voters[1].name)
    cluster.run(2.0)
    assert observer.up.context.leader is None
    assert observer.status(observer.ask_status()).stale


def test_the_followers_of_a_lost_voter_go_to_the_next() -> None:
    cluster = elected(4)
    (observer,) = observers(cluster)
    first = followed_by(cluster, observer)
    cluster.crash(first.name)
    cluster.elect()
    cluster.run(RETRY_S)
    second = followed_by(cluster, observer)
    assert second is not first
    assert observer.result(observer.deploy()).outcome == "applied"
    cluster.run(0.5)
    assert "shop" in observer.up.context.state.stacks


def test_a_voter_that_is_cut_off_itself_is_left_for_one_that_knows_a_coordinator() -> None:
    """Its link to us says nothing about its links to the others."""
    cluster = elected(4)
    (observer,) = observers(cluster)
    voters = [node for node in cluster.alive if node is not observer]
    lonely = followed_by(cluster, observer)
    for node in voters:
        if node is not lonely:
            cluster.cut_pair(lonely.name, node.name)
    cluster.until(lambda: cluster.coordinator not in (None, lonely))
    cluster.run(4.0)
    assert cluster.linked(observer.name, lonely.name)
    assert followed_by(cluster, observer) is not lonely
    coordinator = next(node for node in voters if node is not lonely and node.up.context.leads)
    coordinator.deploy()
    cluster.run(0.5)
    assert "shop" in observer.up.context.state.stacks
    assert observer.up.context.leader == coordinator.id


def test_observers_spread_and_come_back_to_their_voter() -> None:
    cluster = Cluster(12, voters=5)
    cluster.elect()
    first = {observer.name: followed_by(cluster, observer).name for observer in observers(cluster)}
    assert len(set(first.values())) >= 3, "rendezvous hashing"
    lost = next(iter(first.values()))
    cluster.crash(lost)
    cluster.elect()
    cluster.run(RETRY_S)
    moved = {observer.name: followed_by(cluster, observer).name for observer in observers(cluster)}
    assert all(moved[name] == voter for name, voter in first.items() if voter != lost), "only its own move"
    cluster.start(lost)
    cluster.run(2.0)
    assert {observer.name: followed_by(cluster, observer).name for observer in observers(cluster)} == first


def test_nobody_is_followed_twice_at_once() -> None:
    cluster = elected(4)
    (observer,) = observers(cluster)
    voter = followed_by(cluster, observer)
    voter.up.frame(observer.id, CallFrame(id=900, request=FollowLedger(index=1)), voter.when)
    cluster.settle()
    voter.forget()
    observer.deploy()
    told = [s for s in voter.sent if isinstance(s.frame, ReplyFrame) and isinstance(s.frame.reply, Ledger)]
    assert {send.frame.id for send in told if isinstance(send.frame, ReplyFrame)} == {900}
    voter.forget()
    voter.up.frame(observer.id, CancelFrame(id=900), voter.when)
    cluster.settle()
    observer.deploy("blog")
    assert not [s for s in voter.sent if isinstance(s.frame, ReplyFrame) and isinstance(s.frame.reply, Ledger)]


# Snapshots


def scale_often(cluster: Cluster, times: int) -> None:
    node = cluster.elect()
    node.deploy()
    for revision in range(2, 2 + times):
        scale = cluster.signed("scale", "stack:shop", Scale(services={"web": revision}), rev=revision)
        assert node.result(node.submit(*scale)).outcome == "applied"


def away(cluster: Cluster) -> Node:
    """An observer that missed what its voters no longer have."""
    (observer,) = observers(cluster)
    cluster.crash(observer.name)
    scale_often(cluster, 6)
    assert cluster.elect().up.context.raft.first_index > 2
    return observer


def test_an_observer_behind_the_log_starts_from_a_snapshot() -> None:
    cluster = elected(4, compaction=OFTEN)
    observer = away(cluster)
    cluster.start(observer.name)
    cluster.run(1.0)
    assert observer.up.context.raft.snapshot is not None
    assert observer.up.context.state.stacks["shop"].revision == 7
    assert observer.result(observer.deploy("blog")).outcome == "applied"
    cluster.crash(observer.name)
    cluster.start(observer.name)
    assert observer.up.context.state.stacks["shop"].revision == 7, "it is on the disk"


def part_of(data: bytes, *, like: SnapshotPart) -> SnapshotPart:
    """A whole snapshot in one part."""
    return replace(like, data=data, total=len(data), offset=0, digest=hashlib.sha256(data).hexdigest())


def forge(part: Ledger) -> Ledger:
    """Another operator in the snapshot, granted by nobody."""
    assert part.snapshot is not None
    state = decode_snapshot(part.snapshot.data)
    forged = replace(state, operators={**state.operators, "eve": operator("eve")})
    return replace(part, snapshot=part_of(encode_snapshot(forged), like=part.snapshot))


def hand(node: Node, sender: Node, frame: Frame) -> None:
    node.up.frame(sender.id, frame, node.when)


def test_a_forged_snapshot_is_refused_and_another_voter_asked() -> None:
    """A taken voter can withhold; it can't make an observer believe what nobody signed."""
    cluster = elected(4, compaction=OFTEN)
    observer = away(cluster)
    liar: list[Node] = []

    def lie(sender: str, to: str, frame: Frame) -> bool:
        if to != observer.name or not isinstance(frame, ReplyFrame) or not isinstance(frame.reply, Ledger):
            return False
        if not liar:
            liar.append(cluster.n(sender))
        if liar[0] is not cluster.n(sender) or frame.reply.snapshot is None:
            return False
        forged = replace(frame, reply=forge(frame.reply))
        cluster.will_arrive(observer, partial(hand, observer, liar[0], forged))
        return True

    cluster.lost = lie
    cluster.start(observer.name)
    cluster.run(RETRY_S + 0.5)
    assert followed_by(cluster, observer) is not liar[0]
    state = observer.up.context.state
    assert "eve" not in state.operators
    assert state.stacks["shop"].revision == 7
    assert observer.disk.snapshot is not None
    assert "eve" not in decode_snapshot(observer.disk.snapshot.data).operators


@pytest.mark.parametrize("garbage", [b"", b"\x80", msgspec.msgpack.encode({"v": 1})])
def test_a_snapshot_that_isnt_one_ends_nobody(garbage: bytes) -> None:
    cluster = elected(4)
    (observer,) = observers(cluster)
    voter = followed_by(cluster, observer)
    call = next(s.frame.id for s in reversed(observer.sent) if isinstance(s.frame, CallFrame))
    configuration = observer.up.context.raft.configuration
    name = SnapshotPart(index=90, term=1, configuration=configuration, digest="", total=0, offset=0, data=b"")
    part = Ledger(snapshot=part_of(garbage, like=name))
    observer.up.frame(voter.id, ReplyFrame(id=call, reply=part, end=False), observer.when)
    cluster.run(RETRY_S)
    assert observer.up.context.state.index < 90
    assert observer.result(observer.deploy()).outcome == "applied"


# Changing sides


def test_a_lost_voters_place_goes_to_an_observer() -> None:
    """ARCHITECTURE.md "Membership and links": dead after 30 s, replaced by one that is healthy and caught up."""
    cluster = elected(4)
    (observer,) = observers(cluster)
    lost = cluster.followers[0] if cluster.followers[0] is not observer else cluster.followers[1]
    cluster.run(HEALTHY_S)
    cluster.crash(lost.name)
    cluster.until(lambda: observer.id in cluster.elect().up.context.raft.configuration.voters, within_s=DEAD_S + 10)
    assert lost.id not in cluster.elect().up.context.raft.configuration.voters
    cluster.run(1.0)
    assert observer.up.context.raft.leader == cluster.elect().id, "fed by the coordinator now"
    assert observer.result(observer.deploy()).outcome == "applied"


def test_a_voter_removed_while_it_was_away_comes_back_as_an_observer() -> None:
    """Its own ledger still counts it, and no coordinator speaks to it: it has to ask."""
    cluster = elected(4)
    (observer,) = observers(cluster)
    lost = next(node for node in cluster.followers if node is not observer)
    cluster.run(HEALTHY_S)
    cluster.crash(lost.name)
    cluster.until(lambda: observer.id in cluster.elect().up.context.raft.configuration.voters, within_s=DEAD_S + 10)
    cluster.start(lost.name)
    cluster.run(LEADERLESS_S + 1.0)
    assert lost.id not in lost.up.context.raft.configuration.voters
    assert lost.up.context.leader == cluster.elect().id
    assert lost.result(lost.deploy()).outcome == "applied"
    assert lost.id in cluster.elect().up.coordination.reports


def test_learners_that_become_voters_stop_following() -> None:
    cluster = Cluster(4)
    cluster.elect()
    (observer,) = observers(cluster)
    lost = next(node for node in cluster.followers if node is not observer)
    cluster.run(HEALTHY_S)
    cluster.crash(lost.name)
    cluster.until(lambda: observer.id in cluster.elect().up.context.raft.configuration.voters, within_s=DEAD_S + 10)
    cluster.run(1.0)
    observer.forget()
    cluster.run(10.0)
    assert not [
        s for s in observer.sent if isinstance(s.frame, CallFrame) and isinstance(s.frame.request, FollowLedger)
    ]


def test_a_parts_end_from_the_voter_is_followed_by_another_try() -> None:
    cluster = elected(4)
    (observer,) = observers(cluster)
    voter = followed_by(cluster, observer)
    call = next(s.frame.id for s in reversed(observer.sent) if isinstance(s.frame, CallFrame))
    observer.up.frame(voter.id, ReplyFrame(id=call, reply=Ledger(), end=True), observer.when)
    cluster.settle()
    observer.forget()
    cluster.run(RETRY_S)
    assert followed_by(cluster, observer) is not voter


def test_two_become_three_voters_only_together() -> None:
    """ARCHITECTURE.md "Membership and links": 1 → 3 starts only with two caught-up observers."""
    cluster = Cluster(2)
    cluster.elect()
    cluster.run(HEALTHY_S + 5.0)
    assert len(cluster.elect().up.context.raft.configuration.voters) == 1
    cluster.enrol("n3")
    cluster.until(lambda: len(cluster.elect().up.context.raft.configuration.voters) == 3, within_s=HEALTHY_S + 10)
    assert cluster.n("n3").result(cluster.n("n3").deploy()).outcome == "applied"


# Links


def test_an_observer_has_one_link_and_the_coordinator_sees_all_of_them_alive() -> None:
    cluster = Cluster(12, voters=5)
    coordinator = cluster.elect()
    cluster.run(12.0)
    for observer in observers(cluster):
        assert [name for name in cluster.nodes if name != observer.name and cluster.linked(observer.name, name)] == [
            followed_by(cluster, observer).name
        ]
    assert coordinator.up.coordination.reports.keys() == {node.id for node in cluster.alive}
    status = coordinator.status(coordinator.ask_status())
    assert {host.state for host in status.hosts} == {"alive"}


def test_who_lost_its_voter_is_linked_with_the_next_at_once() -> None:
    cluster = Cluster(12, voters=5)
    coordinator = cluster.elect()
    lost = next(node for node in map(partial(followed_by, cluster), observers(cluster)) if node is not coordinator)
    cluster.crash(lost.name)
    moved = [observer for observer in observers(cluster) if observer.up.context.followed == lost.id]
    assert not moved
    for observer in observers(cluster):
        assert observer.up.context.leader == coordinator.id
        way = observer.up.context.followed
        came_by = coordinator.up.coordination.asking.ways[observer.id]
        assert came_by == (observer.id if way == coordinator.id else way)
        assert observer.result(observer.deploy(f"by-{observer.name}")).outcome == "applied"


def test_who_can_reach_neither_its_voter_nor_the_next_tries_all() -> None:
    cluster = Cluster(6)
    cluster.elect()
    (observer,) = observers(cluster)
    reached = min(node.name for node in cluster.alive if node not in (observer, followed_by(cluster, observer)))
    cluster.cut(observer.name)
    for name in cluster.nodes.keys() - {observer.name, reached}:
        cluster.cut_pair(observer.name, name)
    cluster._apart.discard(frozenset((observer.name, reached)))
    cluster.until(lambda: observer.up.context.leader is not None, within_s=2 * ALONE_S)
    assert observer.up.context.followed == cluster.n(reached).id
    cluster.run(30.0)
    assert observer.up.context.leader is not None, "it stays, and the others go on being tried"


def test_all_voters_are_asked_about_a_snapshot_and_left_again() -> None:
    cluster = elected(6, compaction=OFTEN)
    observer = away(cluster)
    cluster.start(observer.name)
    cluster.run(1.0)
    assert observer.up.context.raft.snapshot is not None
    assert observer.wanted == {observer.up.context.followed}


def test_an_observer_becomes_a_voter_though_the_coordinator_had_no_link_with_it() -> None:
    cluster = Cluster(6)
    coordinator = cluster.elect()
    (observer,) = observers(cluster)
    cluster.run(HEALTHY_S + 2.0)
    lost = next(node for node in cluster.followers if node is not observer)
    cluster.crash(lost.name)
    cluster.until(lambda: observer.id in coordinator.up.context.raft.configuration.voters, within_s=DEAD_S + 10.0)
    cluster.run(1.0)
    assert observer.wanted >= {coordinator.id}
