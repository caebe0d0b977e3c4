"""Two histories are told apart by their hashes, as far back as anybody's log goes."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.node import chains, followers
from agent.node.chains import Chains
from agent.node.messages import CallFrame, Failed, FollowLedger, Ledger, ReplyFrame
from tests.node.cluster import OFTEN, Cluster, Node


def chain(index: int) -> str:
    return hashlib.sha256(str(index).encode()).hexdigest()


@given(first=st.integers(0, 50), more=st.integers(0, 60), asked=st.integers(-5, 120))
def test_it_knows_the_newest_ones(first: int, more: int, asked: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chains, "KEPT_CHAINS", 16)
        ring = Chains(first, chain(first))
        for index in range(first + 1, first + more + 1):
            ring.add(chain(index))
    last = first + more
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chains, "KEPT_CHAINS", 16)
        known = max(first, last - 15) <= asked <= last
        assert ring.at(asked) == (chain(asked) if known else None)
        ring.begin(200, chain(200))
        assert (ring.at(asked), ring.at(200)) == (None, chain(200))


def answers(node: Node, peer: Node, request: FollowLedger) -> list[Ledger | Failed]:
    """To somebody else than follows it already."""
    node.sent.clear()
    node.up.frame(peer.id, CallFrame(id=700, request=request), node.when)
    node.cluster.settle()
    told = [s.frame for s in node.sent if s.to == peer.id and isinstance(s.frame, ReplyFrame) and s.frame.id == 700]
    return [frame.reply for frame in told if isinstance(frame.reply, Ledger | Failed)]


def behind(node: Node, chain: str, index: int) -> FollowLedger:
    return FollowLedger(index=index, chain=chain)


@pytest.fixture
def pair() -> tuple[Node, Node]:
    cluster = Cluster(2)
    founder = cluster.elect()
    for name in ("one", "two", "three"):
        founder.result(founder.deploy(name))
    cluster.run(1.0)
    return founder, cluster.n("n2")


def test_entries_come_behind_the_same_history_only(pair: tuple[Node, Node]) -> None:
    founder, other = pair
    index, true = founder.up.context.state.index, founder.up.context.state.chain
    founder.result(founder.deploy("four"))
    (ledger,) = answers(founder, other, behind(founder, true, index + 1))
    assert isinstance(ledger, Ledger)
    assert ledger.entries[0].index == index + 1
    (failed,) = answers(founder, other, behind(founder, chain(1), index + 1))
    assert isinstance(failed, Failed)
    assert "another history" in failed.fault.what
    (ledger,) = answers(founder, other, behind(founder, "", index + 1))
    assert isinstance(ledger, Ledger), "an earlier version doesn't say"


def test_who_is_ahead_is_told_who_coordinates_and_compared_later(pair: tuple[Node, Node]) -> None:
    founder, other = pair
    index = founder.up.context.state.index
    (ledger,) = answers(founder, other, behind(founder, chain(1), index + 4))
    assert isinstance(ledger, Ledger)
    assert (ledger.entries, ledger.leader) == ((), founder.id)
    founder.sent.clear()
    for name in ("four", "five", "six", "seven", "eight"):
        founder.result(founder.deploy(name))
    told = [s.frame for s in founder.sent if isinstance(s.frame, ReplyFrame) and s.frame.id == 700]
    (failed,) = [frame.reply for frame in told]
    assert isinstance(failed, Failed), "and nothing before"


def test_another_history_gets_a_snapshot_where_there_is_one_ahead_of_it() -> None:
    cluster = Cluster(2, compaction=OFTEN)
    founder = cluster.elect()
    for name in ("one", "two", "three", "four"):
        founder.result(founder.deploy(name))
    cluster.run(1.0)
    snapshot = founder.up.context.raft.snapshot
    assert snapshot is not None
    (ledger, *_) = answers(founder, cluster.n("n2"), behind(founder, chain(1), snapshot.index))
    assert isinstance(ledger, Ledger)
    assert ledger.snapshot is not None
    assert len(ledger.snapshot.data) <= followers.PART_BYTES
