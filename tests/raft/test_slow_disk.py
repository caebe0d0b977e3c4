"""A disk that stalls: its leader doesn't go on leading as if nothing were (etcd #13527)."""

from __future__ import annotations

import pytest

from agent.raft import RaftTiming
from agent.raft.messages import AppendResponse, TimeoutNow
from tests.raft.bench import Bench, of
from tests.raft.cluster import Cluster


def write_slowly(bench: Bench, seconds: float) -> None:
    """One proposal, whose write takes so long; the others answer all the while."""
    bench.raft.propose(b"x", bench.now)
    ready = bench.take()
    assert ready.persist is not None
    for _ in range(10):
        bench.now += seconds / 10
        for voter in bench.others():
            bench.raft.receive(
                voter, AppendResponse(term=bench.raft.term, accepted=True, index=bench.raft.last_index), bench.now
            )
    bench.raft.advance(ready, bench.now)
    bench.settle()


def test_a_write_of_a_second_makes_the_leader_hand_over() -> None:
    bench = Bench()
    bench.lead(commit=True)
    write_slowly(bench, 1.01)
    assert of(bench.sent, TimeoutNow)


def test_a_shorter_one_does_not() -> None:
    bench = Bench()
    bench.lead(commit=True)
    write_slowly(bench, 0.9)
    assert not of(bench.sent, TimeoutNow)


def test_the_only_voter_goes_on() -> None:
    bench = Bench(voters=("a",))
    bench.time_out()
    write_slowly(bench, 5.0)
    assert bench.raft.is_leader
    bench.propose(b"y")


def test_a_write_that_never_ends_is_not_waited_for() -> None:
    """No heartbeat leaves while a write is under way, so the others elect somebody within two timeouts."""
    cluster = Cluster(3)
    leader = cluster.elect_and_settle()
    cluster.stall(leader)
    cluster.propose(b"x", to=leader)
    cluster.run_until(lambda: cluster.leader() not in (None, leader), within_s=2.5)
    index = cluster.propose(b"y")
    others = [id for id in cluster.ids if id != leader]
    cluster.run_until(lambda: all(cluster.raft(id).applied >= index for id in others))


@pytest.mark.parametrize("timing", [RaftTiming.wan()])
def test_with_patient_timing_too_the_slow_one_hands_over_when_its_write_is_done(timing: RaftTiming) -> None:
    cluster = Cluster(3, timing=timing)
    leader = cluster.elect_and_settle()
    cluster.stall(leader, for_s=1.2)
    cluster.propose(b"x", to=leader)
    assert cluster.run_until(lambda: cluster.leader() not in (None, leader), within_s=3.0) < 1.5
