"""A member that was expelled, and knows: it takes no part any more."""

from __future__ import annotations

import pytest

from agent.raft import Message
from agent.raft.messages import Append, Heartbeat, PreVote, TimeoutNow, Vote
from tests.raft.bench import Bench


@pytest.mark.parametrize(
    "message",
    [
        Vote(term=2, last_index=9, last_term=1, forced=True),
        PreVote(term=2, last_index=9, last_term=1),
        Append(term=1, prev_index=2, prev_term=1, commit=2, entries=()),
        Heartbeat(term=1, commit=2, round=2),
        TimeoutNow(term=1),
    ],
)
def test_it_answers_nobody_and_never_campaigns(message: Message) -> None:
    bench = Bench(terms=(0, 1), term=1, commit=2)
    bench.raft.retire(bench.now)
    assert not bench.receive("b", message)
    assert bench.raft.dropped["retired"] == 1
    bench.wait(60.0)
    assert not bench.sent


def test_a_leader_leads_no_more() -> None:
    bench = Bench()
    bench.lead(commit=True)
    bench.raft.retire(bench.now)
    assert not bench.raft.is_leader
    bench.sent.clear()
    bench.wait(60.0)
    assert not bench.sent
