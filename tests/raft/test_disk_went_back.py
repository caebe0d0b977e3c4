"""An older copy of a disk was put back: what the member voted and acknowledged is forgotten there (Raft fig. 3.1)."""

from __future__ import annotations

import pytest

from agent.raft import Configuration, EntryKind, Message
from agent.raft.entry import Entry
from agent.raft.messages import Append, Heartbeat, PreVote, TimeoutNow, Vote
from tests.raft.bench import Bench, log_of


def fenced() -> Bench:
    """`a` restarted from a copy of its disk with entry 2; it had 5."""
    bench = Bench(terms=(0, 1), term=1, commit=2)
    bench.raft.fence(5, bench.now)
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


def test_a_leader_that_is_fenced_leads_no_more() -> None:
    bench = Bench()
    bench.lead(commit=True)
    bench.raft.fence(9, bench.now)
    assert not bench.raft.is_leader
    bench.sent.clear()
    bench.wait(60.0)
    assert not bench.sent


def test_it_comes_anew_once_it_has_left_the_configuration() -> None:
    bench = fenced()
    bench.raft.observe(log_of(1, 1, 1, first=3), 5, bench.now)
    assert bench.raft.fenced, "everything it had is here again, and it still counts"
    left = Entry(6, 1, EntryKind.CONFIG, Configuration(("b", "c")).encode())
    bench.raft.observe((left,), 6, bench.now)
    assert not bench.raft.fenced
    back = Entry(7, 1, EntryKind.CONFIG, Configuration(("b", "c"), ("a",)).encode())
    assert bench.receive("b", Append(term=1, prev_index=6, prev_term=1, commit=6, entries=(back,)))


@pytest.mark.parametrize("sender", ["b", "x"])
def test_one_that_says_so_has_nobody_fenced(sender: str) -> None:
    """A heartbeat tells what a leader has the member's word for: but it may lie, or not lead at all."""
    bench = Bench(terms=(0, 1), term=1, commit=2)
    assert not bench.receive(sender, Heartbeat(term=1, commit=5, round=1))
    assert not bench.raft.fenced
    assert bench.vote_for(2, 9, 1, sender="c", forced=True).granted
