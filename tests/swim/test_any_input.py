"""Whatever comes in, in whatever order."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.swim import (
    Ack,
    Claim,
    Gossip,
    Nack,
    Ping,
    PingRequest,
    SwimMessage,
    Update,
)
from agent.swim.messages import MAX_INCARNATION, MAX_INCARNATION_STEP
from tests.swim.bench import Bench

ids = st.sampled_from(["me", "b", "c", "stranger"])
incarnations = st.sampled_from([0, 1, 2, 9, MAX_INCARNATION_STEP, MAX_INCARNATION])
some_updates = st.lists(st.builds(Update, ids, ids, st.sampled_from(Claim), incarnations), max_size=4).map(tuple)
sequences = st.integers(0, 12)
some_messages = st.one_of(
    st.builds(Ping, sequences, incarnations, some_updates),
    st.builds(PingRequest, sequences, incarnations, ids, some_updates),
    st.builds(Ack, sequences, incarnations, some_updates),
    st.builds(Nack, sequences, incarnations, some_updates),
    st.builds(Gossip, incarnations, some_updates),
)
some_inputs = st.one_of(
    st.tuples(st.just("receive"), ids, some_messages),
    st.tuples(st.sampled_from(["link", "leave", "wait", "stall", "remove", "add"]), ids, st.just(Gossip(0))),
)


@given(st.lists(some_inputs, max_size=40))
def test_no_input_breaks_it(inputs: list[tuple[str, str, SwimMessage]]) -> None:
    """Nothing raises, the own incarnation never falls, every member's neither, and its timers come to rest."""
    bench = Bench("bc")
    for kind, member, message in inputs:
        own, before = bench.swim.incarnation, bench.swim.members()
        if kind == "receive":
            bench.hear(member, message)
            assert len(bench.outputs) <= 16
        elif kind == "link":
            bench.link(member)
        elif kind == "leave":
            bench.swim.leave(bench.now)
        elif kind == "wait":
            bench.run_to(bench.now + 0.7)
        elif kind == "stall":
            bench.now += 7
            bench.swim.on_deadline(bench.now)
        else:
            bench.set_members(*("bc" if kind == "add" else "b"))
        assert bench.swim.incarnation >= own
        after = bench.swim.members()
        assert all(after[id].incarnation >= before[id].incarnation for id in after if id in before and kind != "add")
    steps = 0
    end = bench.now + 5
    while bench.swim.deadline() <= end:
        bench.now = max(bench.now, bench.swim.deadline())
        bench.swim.on_deadline(bench.now)
        steps += 1
        assert steps < 500
