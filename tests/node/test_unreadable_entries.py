"""A taken coordinator can stall; it can't make entries that end whoever applies them, at each start again."""

from __future__ import annotations

import msgspec
import pytest

from agent.errors import NeedsRepair
from agent.formats.timestamps import rfc3339
from agent.model.instruction import Recover
from agent.model.ledger import InstructionEntry, LevelEntry, PhaseEntry, encode_entry
from agent.node.messages import CallFrame, Ledger, RaftFrame, ReplyFrame
from agent.raft import Entry, EntryKind
from agent.raft.messages import Append
from agent.state import STATE_LEVEL
from tests.node.cluster import Cluster, Node
from tests.node.test_observers import elected, followed_by, observers

END_OF_TIME_MS = 253_402_300_799_999


def unreadable(node: Node) -> list[bytes]:
    late = PhaseEntry(at=END_OF_TIME_MS + 1, stack="shop", revision=1, phase="main")
    return [
        b"\xff",
        msgspec.msgpack.encode({"type": "of a later version"}),
        encode_entry(LevelEntry(at=0, level=STATE_LEVEL + 1)),
        encode_entry(late),
        node.disk.genesis.data,
    ]


def test_the_last_moment_of_the_ledger_can_be_shown() -> None:
    assert rfc3339(END_OF_TIME_MS) == "9999-12-31T23:59:59.999Z"


@pytest.mark.parametrize("which", range(5))
def test_an_entry_that_nobody_can_apply_is_not_taken_from_a_leader(which: int) -> None:
    cluster: Cluster = elected(3)
    leader = cluster.elect()
    follower = cluster.followers[0]
    raft = follower.up.context.raft
    index, term = raft.last_index, raft.term
    entry = Entry(index + 1, term, EntryKind.NORMAL, unreadable(follower)[which])
    previous = raft.term_at(index)
    assert previous is not None
    message = Append(term=term, prev_index=index, prev_term=previous, commit=index + 1, entries=(entry,))
    follower.up.frame(leader.id, RaftFrame(message=message), follower.when)
    cluster.run(1.0)
    assert follower.up.drops == {"unreadable_entry": 1}
    assert follower.result(follower.deploy()).outcome == "applied"


def test_it_is_said_once_and_with_what_to_do() -> None:
    cluster: Cluster = elected(3)
    leader, follower = cluster.elect(), cluster.followers[0]
    raft = follower.up.context.raft
    for _ in range(3):
        entry = Entry(raft.last_index + 1, raft.term, EntryKind.NORMAL, b"\xff")
        last = raft.term_at(raft.last_index)
        assert last is not None
        message = Append(term=raft.term, prev_index=raft.last_index, prev_term=last, commit=0, entries=(entry,))
        follower.up.frame(leader.id, RaftFrame(message=message), follower.when)
    cluster.run(1.0)
    (said,) = [event.what for event in follower.events if "version" in event.what]
    assert said.startswith(f"{follower.name} doesn't take entries of {leader.name}")


def test_one_that_is_on_the_disk_stops_the_agent_with_what_to_do() -> None:
    """A later version wrote it, and somebody put the older one back."""
    cluster: Cluster = elected(3)
    node = cluster.followers[0]
    cluster.crash(node.name)
    last = max(node.disk.log)
    level = encode_entry(LevelEntry(at=0, level=STATE_LEVEL + 1))
    node.disk.log[last + 1] = Entry(last + 1, node.disk.log[last].term, EntryKind.NORMAL, level)
    node.disk.commit = last + 1
    with pytest.raises(NeedsRepair) as stopped:
        cluster.start(node.name)
    assert "later version" in stopped.value.what
    assert "Install the version" in stopped.value.fix


def test_a_recovery_in_the_ledger_is_refused_and_told() -> None:
    """An operator signed it for a survivor alone; whoever coordinates may put it into the ledger all the same."""
    cluster: Cluster = elected(3)
    leader = cluster.elect()
    state = leader.up.context.state
    body = Recover(epoch=2, survivor=leader.id, index=state.index, chain=state.chain)
    token, raw = cluster.signed("recover", "cluster", body)
    entry = InstructionEntry(at=state.at, token=token, body=raw, via=leader.id)
    leader.up.context.raft.propose(encode_entry(entry), leader.when.mono)
    cluster.run(1.0)
    (told,) = [event for event in leader.events if event.kind == "instruction"]
    assert (told.state, "outside of consensus" in told.what) == ("refused", True)


@pytest.mark.parametrize("which", range(5))
def test_an_observer_takes_none_from_its_voter_and_asks_another(which: int) -> None:
    cluster: Cluster = elected(4)
    (observer,) = observers(cluster)
    voter = followed_by(cluster, observer)
    call = next(s.frame.id for s in reversed(observer.sent) if isinstance(s.frame, CallFrame))
    index = observer.up.context.raft.commit + 1
    entry = Entry(index, observer.up.context.raft.term, EntryKind.NORMAL, unreadable(observer)[which])
    part = Ledger(entries=(entry,), commit=index)
    observer.up.frame(voter.id, ReplyFrame(id=call, reply=part, end=False), observer.when)
    cluster.run(1.0)
    assert followed_by(cluster, observer) is not voter
    assert observer.result(observer.deploy()).outcome == "applied"
