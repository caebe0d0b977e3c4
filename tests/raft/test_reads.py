"""ReadIndex (Raft §6.4 of the thesis): a read is served from no earlier than it began, without trusting a clock."""

from __future__ import annotations

import pytest

from agent.raft import NotLeader, RaftLimits, ReadDropped, ReadState
from agent.raft.messages import Heartbeat, HeartbeatResponse, ReadIndex, ReadIndexResponse
from tests.raft.bench import Bench, of, only


def confirm(bench: Bench, sender: str, round: int) -> list[object]:
    return [message for _, message in bench.receive(sender, HeartbeatResponse(term=bench.raft.term, round=round))]


def test_a_read_is_served_once_a_majority_answered_a_round_that_began_after_it() -> None:
    bench = Bench()
    bench.lead(commit=True)
    bench.raft.read_index(b"r", bench.now)
    round = only(bench.settle(), Heartbeat, "b").round
    confirm(bench, "b", round - 1)
    assert not bench.reads
    confirm(bench, "b", round)
    assert bench.reads == [ReadState(b"r", 2)]


def test_reads_of_one_step_share_a_round() -> None:
    bench = Bench()
    bench.lead(commit=True)
    for context in (b"1", b"2", b"3"):
        bench.raft.read_index(context, bench.now)
    beats = of(bench.settle(), Heartbeat, "b")
    assert len(beats) == 1
    confirm(bench, "c", beats[0].round)
    assert [read.context for read in bench.reads] == [b"1", b"2", b"3"]


def test_an_answer_to_a_round_that_never_was_confirms_nothing_later() -> None:
    bench = Bench()
    bench.lead(commit=True)
    confirm(bench, "b", 10_000)
    bench.raft.read_index(b"r", bench.now)
    bench.settle()
    assert not bench.reads


def test_a_read_before_the_terms_first_commit_waits_for_it() -> None:
    """Until then the commit index may be behind what an earlier leader promised."""
    bench = Bench(terms=(0, 1, 1))
    bench.lead()
    bench.raft.read_index(b"r", bench.now)
    bench.settle()
    for round in range(1, 4):
        confirm(bench, "b", round)
    assert not bench.reads
    sent = bench.accept("b")
    confirm(bench, "b", only(sent, Heartbeat, "b").round)
    assert bench.reads == [ReadState(b"r", 4)]


def test_the_index_is_the_one_when_the_read_began() -> None:
    bench = Bench()
    bench.lead(commit=True)
    bench.raft.read_index(b"r", bench.now)
    round = only(bench.settle(), Heartbeat, "b").round
    bench.propose(b"later")
    bench.accept("b")
    confirm(bench, "b", round)
    assert bench.reads == [ReadState(b"r", 2)]


def test_learners_confirm_nothing() -> None:
    bench = Bench(learners=("l",))
    bench.lead(commit=True)
    bench.raft.read_index(b"r", bench.now)
    confirm(bench, "l", only(bench.settle(), Heartbeat, "l").round)
    assert not bench.reads


def test_a_single_voter_confirms_itself() -> None:
    bench = Bench(voters=("a",))
    bench.lead()
    bench.settle()
    bench.raft.read_index(b"r", bench.now)
    bench.settle()
    assert bench.reads == [ReadState(b"r", 2)]


def test_a_follower_asks_the_leader_and_believes_only_it() -> None:
    bench = Bench()
    bench.receive("b", Heartbeat(term=1, commit=1, round=1))
    bench.raft.read_index(b"r", bench.now)
    assert only(bench.settle(), ReadIndex, "b").context == b"r"
    bench.receive("c", ReadIndexResponse(context=b"r", index=0))
    assert not bench.reads
    bench.receive("b", ReadIndexResponse(context=b"r", index=5))
    assert bench.reads == [ReadState(b"r", 5)]


def test_a_leader_answers_whoever_asked() -> None:
    bench = Bench()
    bench.lead(commit=True)
    round = only(bench.receive("observer", ReadIndex(context=b"r")), Heartbeat, "b").round
    answers = confirm(bench, "b", round)
    assert answers == [ReadIndexResponse(context=b"r", index=2)]
    assert not bench.reads


def test_without_a_leader_there_is_nobody_to_ask() -> None:
    bench = Bench()
    with pytest.raises(NotLeader) as caught:
        bench.raft.read_index(b"r", bench.now)
    assert caught.value.leader is None
    assert not bench.receive("b", ReadIndex(context=b"r"))


def test_waiting_reads_are_bounded() -> None:
    bench = Bench(limits=RaftLimits(pending_reads=2))
    bench.lead(commit=True)
    bench.raft.read_index(b"1", bench.now)
    bench.raft.read_index(b"2", bench.now)
    with pytest.raises(ReadDropped):
        bench.raft.read_index(b"3", bench.now)
    bench.receive("c", ReadIndex(context=b"4"))
    assert bench.raft.dropped["too many reads"] == 1
