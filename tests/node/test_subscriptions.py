"""A subscription's flow: parts of a bounded size, few of them ahead, a snapshot that goes on after a break."""

from __future__ import annotations

from collections import Counter
from itertools import permutations

import pytest

from agent.model.stack import Service
from agent.node.choosing import voter_for
from agent.node.context import Peer
from agent.node.effects import Send
from agent.node.followers import PART_BYTES, STALLED_S, WINDOW_PARTS
from agent.node.messages import CallFrame, Failed, FollowLedger, Frame, Ledger, ReplyFrame, SnapshotPart, TakenFrame
from agent.node.subscriptions import LEADERLESS_S, RETRY_S, SILENT_S, Arriving
from agent.raft import Configuration, ObservationRefused
from tests.node.cluster import OFTEN, Cluster, Node, stack

LARGE = Service(runtime="process", command=("serve",), environment={f"KEY_{n}": "x" * 4000 for n in range(200)})
SEVERAL_PARTS = 3 * WINDOW_PARTS


def large() -> tuple[Cluster, Node, Node]:
    """A cluster whose snapshot has many parts, the observer that needs it and is down, and its voter."""
    cluster = Cluster(2, compaction=OFTEN)
    voter = cluster.elect()
    observer = next(node for node in cluster.alive if node is not voter)
    cluster.crash(observer.name)
    enough = SEVERAL_PARTS * PART_BYTES // 800_000 + 1
    for number in range(enough + OFTEN.every_entries):  # the newest aren't in a snapshot yet
        token = cluster.signed("deploy", f"stack:s{number}", stack(f"s{number}", web=LARGE))
        assert voter.result(voter.submit(*token)).outcome == "applied"
    snapshot = voter.up.context.raft.snapshot
    assert snapshot is not None
    assert len(snapshot.data) > SEVERAL_PARTS * PART_BYTES
    voter.forget()
    return cluster, observer, voter


def parts(voter: Node) -> list[SnapshotPart]:
    """The snapshot's parts that left."""
    replies = [send.frame.reply for send in voter.sent if isinstance(send.frame, ReplyFrame)]
    return [reply.snapshot for reply in replies if isinstance(reply, Ledger) and reply.snapshot is not None]


def test_a_snapshot_comes_in_parts_and_each_once() -> None:
    cluster, observer, voter = large()
    cluster.start(observer.name)
    cluster.run(0.1)
    assert observer.up.context.state.chain == voter.up.context.state.chain
    sent = parts(voter)
    assert max(len(part.data) for part in sent) == PART_BYTES
    assert sum(len(part.data) for part in sent) == sent[0].total


def test_a_part_that_brings_nothing_is_refused() -> None:
    """Whoever asks on for the next one would ask for ever."""
    part = SnapshotPart(
        index=9, term=1, configuration=Configuration(voters=("a",)), digest="0" * 64, total=10, offset=0, data=b""
    )
    with pytest.raises(ObservationRefused):
        Arriving().add(part, 100)


def test_who_takes_nothing_is_sent_a_window_and_no_more() -> None:
    """A slow observer can't fill its voter's queue."""
    cluster, observer, voter = large()
    cluster.lost = lambda sender, to, frame: isinstance(frame, TakenFrame)
    cluster.start(observer.name)
    cluster.run(5.0)
    for number in range(3):
        voter.deploy(f"more{number}")
    cluster.run(1.0)
    assert len(parts(voter)) == WINDOW_PARTS


def test_after_a_break_the_rest_of_the_snapshot_comes() -> None:
    cluster, observer, voter = large()

    def breaks(sender: str, to: str, frame: Frame) -> bool:
        return isinstance(frame, ReplyFrame) and len(parts(voter)) > SEVERAL_PARTS // 2

    cluster.lost = breaks
    cluster.start(observer.name)
    cluster.run(0.1)
    arrived = len(parts(voter)) - 1
    voter.forget()
    cluster.lost = lambda sender, to, frame: False
    cluster.cut(observer.name)
    cluster.mend()
    cluster.run(RETRY_S + 0.1)
    assert observer.up.context.state.chain == voter.up.context.state.chain
    asked = [send.frame.request for send in observer.sent if isinstance(send.frame, CallFrame)]
    assert [ask.offset for ask in asked if isinstance(ask, FollowLedger)][-1] >= (arrived - WINDOW_PARTS) * PART_BYTES
    assert parts(voter)[0].offset > 0


def test_a_part_that_continues_nothing_is_refused_and_all_is_asked_for_again() -> None:
    cluster, observer, voter = large()
    hidden: list[Frame] = []

    def one_is_lost(sender: str, to: str, frame: Frame) -> bool:
        if not hidden and isinstance(frame, ReplyFrame) and len(parts(voter)) == 3:
            hidden.append(frame)
            return True
        return False

    cluster.lost = one_is_lost
    cluster.start(observer.name)
    cluster.run(RETRY_S + 0.1)
    assert hidden
    assert observer.up.context.state.chain == voter.up.context.state.chain


def test_who_takes_nothing_of_a_snapshot_for_long_is_let_go() -> None:
    """Else each slow one would keep an old snapshot in its voter's memory."""
    cluster, observer, voter = large()
    cluster.lost = lambda sender, to, frame: isinstance(frame, TakenFrame)
    cluster.start(observer.name)
    cluster.run(STALLED_S + RETRY_S / 2)
    ends = [s.frame for s in voter.sent if isinstance(s.frame, ReplyFrame) and isinstance(s.frame.reply, Failed)]
    assert len(ends) == 1
    cluster.lost = lambda sender, to, frame: False
    cluster.run(RETRY_S + 0.1)
    assert observer.up.context.state.chain == voter.up.context.state.chain


def test_a_thousand_observers_spread_over_five_voters() -> None:
    """At most 250 streams a voter."""
    voters = [f"voter-{number}" for number in range(5)]
    streams = Counter(voter_for(f"host-{number}", voters) for number in range(1000))
    assert max(streams.values()) <= 250


def test_all_agents_take_the_same_snapshots_so_that_any_voter_goes_on_with_a_transfer() -> None:
    cluster = Cluster(4, compaction=OFTEN)
    coordinator = cluster.elect()
    for number in range(7):
        coordinator.deploy(f"s{number}")
        cluster.run(0.3)
    snapshots = {(s.index, s.data) for node in cluster.alive if (s := node.up.context.raft.snapshot) is not None}
    assert len(snapshots) == 1
    ((index, _),) = snapshots
    assert index % OFTEN.every_entries == 0


def test_of_two_that_follow_each_other_none_is_told_what_it_said_itself() -> None:
    """Each may have been removed unawares and take the other for a voter; they told it each other without end."""
    cluster = Cluster(3, voters=1)
    voter = cluster.elect()
    observer, other = (node for node in cluster.alive if node is not voter)
    cluster.run(1.0)
    assert observer.up.context.lead is not None
    observer.up.link_up(Peer(id=other.id, known=True, boot=other.disk.starts), observer.when)
    for call, node in enumerate((voter, other), 1000):
        request = FollowLedger(index=1, chain=node.up.context.state.chain)
        observer.up.frame(node.id, CallFrame(id=call, request=request), observer.when)
    effects = observer.up.take_effects()
    frames = [(send.to, send.frame) for send in effects if isinstance(send, Send)]
    named = {
        to: frame.reply.leader
        for to, frame in frames
        if isinstance(frame, ReplyFrame) and isinstance(frame.reply, Ledger)
    }
    assert named == {voter.id: None, other.id: voter.id}


def follows(host: Node, *others: Node) -> Node:
    """Whom of these."""
    chosen = voter_for(host.id, [other.id for other in others])
    return next(other for other in others if other.id == chosen)


def test_round_a_ring_of_three_that_follow_each_other_goes_no_word() -> None:
    """They reach no voter, but a host that does; when that is lost, who followed it follows one of those behind.

    What they had told each other of who coordinates went round without end, and so did the news that nobody does.
    """
    cluster = Cluster(10, voters=1)
    voter = cluster.elect()
    four = permutations([node for node in cluster.alive if node is not voter], 4)
    first, second, third, bridge = next(
        (a, b, c, d)
        for a, b, c, d in four
        if follows(a, b, c, d) is d and follows(a, b, c) is c and follows(b, a, c, d) is a and follows(c, a, b, d) is b
    )
    for node in cluster.followers:
        if node not in (first, second, third, bridge):
            cluster.crash(node.name)
    for node in (first, second, third):
        cluster.cut_pair(voter.name, node.name)
    cluster.run(2 * LEADERLESS_S + SILENT_S)
    assert all(node.up.context.leader == voter.id for node in (first, second, third))
    cluster.crash(bridge.name)
    cluster.run(LEADERLESS_S + SILENT_S)
    assert all(node.up.context.leader is None for node in (first, second, third))
