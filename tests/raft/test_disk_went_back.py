"""An older copy of a disk was put back: what the member voted and acknowledged is forgotten there (Raft fig. 3.1)."""

from __future__ import annotations

import copy

import pytest

from agent.raft import Configuration, EntryKind, Message
from agent.raft.entry import Entry
from agent.raft.messages import Append, Heartbeat, PreVote, TimeoutNow, Vote
from tests.raft.bench import Bench, log_of
from tests.raft.cluster import Cluster


def fenced() -> Bench:
    """`a` restarted from a copy of its disk with entry 2; the leader has its word for entry 5."""
    bench = Bench(terms=(0, 1), term=1, commit=2)
    assert not bench.receive("b", Heartbeat(term=1, commit=5, round=1)), "it follows nobody"
    assert bench.raft.fenced
    return bench


@pytest.mark.parametrize(
    "message",
    [
        Vote(term=2, last_index=9, last_term=1),
        Vote(term=2, last_index=9, last_term=1, forced=True),
        PreVote(term=2, last_index=9, last_term=1),
        Append(term=1, prev_index=2, prev_term=1, commit=5, entries=log_of(1, 1, 1, first=3)),
        Heartbeat(term=1, commit=2, round=2),
        TimeoutNow(term=1),
    ],
)
def test_it_gives_nobody_its_word_again(message: Message) -> None:
    bench = fenced()
    assert not bench.receive("b", message)
    assert bench.raft.dropped["fenced"] == 1


def test_it_never_campaigns() -> None:
    bench = fenced()
    bench.wait(60.0)
    assert not bench.sent


def test_a_restart_does_not_free_its_vote_for_another_in_this_term() -> None:
    bench = fenced()
    assert bench.persisted[-1].hard_state is not None
    assert bench.persisted[-1].hard_state.vote == "b"


def test_it_comes_anew_once_it_has_left_the_configuration() -> None:
    bench = fenced()
    bench.raft.observe(log_of(1, 1, 1, first=3), 5, bench.now)
    assert bench.raft.fenced, "everything it had is here again, and it still counts"
    left = Entry(6, 1, EntryKind.CONFIG, Configuration(("b", "c")).encode())
    bench.raft.observe((left,), 6, bench.now)
    assert not bench.raft.fenced
    back = Entry(7, 1, EntryKind.CONFIG, Configuration(("b", "c"), ("a",)).encode())
    assert bench.receive("b", Append(term=1, prev_index=6, prev_term=1, commit=6, entries=(back,)))


def test_a_stranger_cannot_have_it_fenced() -> None:
    bench = Bench(terms=(0, 1), term=1)
    bench.receive("x", Heartbeat(term=1, commit=5, round=1))
    assert not bench.raft.fenced


@pytest.mark.parametrize("seed", range(10))
def test_in_a_cluster_the_leader_that_has_its_word_finds_it_out(seed: int) -> None:
    cluster = Cluster(3, seed=seed)
    leader = cluster.elect_and_settle()
    victim = next(id for id in ("a", "b", "c") if id != leader)
    old = copy.deepcopy(cluster.members[victim].disk)
    for number in range(5):
        cluster.replicate(b"%d" % number)
    cluster.crash(victim)
    cluster.members[victim].disk = old
    cluster.start(victim)
    cluster.run(1.0)
    assert cluster.raft(victim).fenced
    assert cluster.leader() == leader
