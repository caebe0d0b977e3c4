"""A follower's progress: its invariant under every history, and its window."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from agent.raft import Configuration, Snapshot
from agent.raft.progress import Inflight, Progress, ProgressState

CONFIGURATION = Configuration(("a", "b"))


class ProgressHistory(RuleBasedStateMachine):
    """Whatever a leader sends and a follower (or a liar) answers."""

    def __init__(self) -> None:
        super().__init__()
        self.last_index = 10
        self.progress = Progress(next=11, now=0.0, max_messages=3, max_bytes=100)

    @rule(count=st.integers(0, 5))
    def the_log_grows(self, count: int) -> None:
        self.last_index += count

    @precondition(lambda self: self.progress.ready_for_entries())
    @rule(count=st.integers(0, 5), size=st.integers(0, 60))
    def entries_are_sent(self, count: int, size: int) -> None:
        last = min(self.last_index, self.progress.next - 1 + count)
        self.progress.sent(last, size, commit=last)

    @rule(index=st.integers(0, 60))
    def it_accepts(self, index: int) -> None:
        before = self.progress.match
        news = self.progress.accepted(min(index, self.last_index))
        assert news == (self.progress.match > before)

    @rule(prev_index=st.integers(0, 60), possible=st.integers(0, 60))
    def it_refuses(self, prev_index: int, possible: int) -> None:
        before = self.progress.match
        if self.progress.refused(prev_index, possible):
            assert self.progress.state is ProgressState.PROBE
            assert self.progress.next <= prev_index or self.progress.next == before + 1
        assert self.progress.match == before

    @rule(round=st.integers(0, 20))
    def it_answers_a_heartbeat(self, round: int) -> None:
        self.progress.answered_heartbeat(round, self.last_index)

    @rule()
    def its_link_changes(self) -> None:
        self.progress.become_probe()
        assert self.progress.ready_for_entries()

    @rule()
    def it_needs_a_snapshot(self) -> None:
        snapshot = Snapshot(index=self.last_index, term=1, configuration=CONFIGURATION, data=b"")
        self.progress.become_snapshot(snapshot, 0.0)
        assert not self.progress.ready_for_entries()

    @invariant()
    def match_is_before_next(self) -> None:
        assert 0 <= self.progress.match < self.progress.next

    @invariant()
    def the_window_is_bounded(self) -> None:
        assert len(self.progress.inflight) <= 3
        assert self.progress.inflight.bytes < 100 + 60

    @invariant()
    def only_a_pipeline_has_anything_in_flight(self) -> None:
        assert self.progress.state is ProgressState.REPLICATE or not len(self.progress.inflight)
        assert (self.progress.snapshot is not None) == (self.progress.state is ProgressState.SNAPSHOT)


def test_match_stays_before_next_whatever_is_sent_and_answered() -> None:
    """etcd raft, tracker/progress.go: 0 <= Match < Next."""
    run_state_machine_as_test(ProgressHistory)


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 50)), max_size=20), st.integers(0, 60))
def test_the_window_forgets_exactly_what_was_acknowledged(sent: list[tuple[int, int]], acknowledged: int) -> None:
    window = Inflight(max_messages=100, max_bytes=10_000)
    index, all_sent = 0, []
    for step, size in sent:
        index += step
        all_sent.append((index, size))
        window.add(index, size)
    window.free_to(acknowledged)
    left = [(last, size) for last, size in all_sent if last > acknowledged]
    assert len(window) == len(left)
    assert window.bytes == sum(size for _, size in left)


def test_a_single_large_entry_always_gets_through() -> None:
    window = Inflight(max_messages=2, max_bytes=10)
    assert not window.full
    window.add(1, 1000)
    assert window.full


def test_a_refusal_that_is_out_of_date_changes_nothing() -> None:
    progress = Progress(next=11, now=0.0, max_messages=3, max_bytes=100)
    progress.sent(10, 0, commit=0)
    assert not progress.refused(7, 3), "not the probe on its way"
    assert progress.refused(10, 3)
    assert progress.next == 4
    progress.accepted(8)
    assert not progress.refused(8, 3), "acknowledged since"
    assert progress.match == 8


def test_a_silent_pipeline_is_checked_at_the_second_heartbeat_without_news() -> None:
    progress = Progress(next=5, now=0.0, max_messages=3, max_bytes=100)
    progress.accepted(4)
    progress.sent(6, 10, commit=0)
    progress.answered_heartbeat(1, last_index=6)
    assert not progress.check
    progress.answered_heartbeat(2, last_index=6)
    assert progress.check


def test_a_probe_that_may_still_be_on_its_way_is_repeated_without_its_entries() -> None:
    progress = Progress(next=5, now=0.0, max_messages=3, max_bytes=100)
    assert progress.ready_for_entries()
    progress.sent(9, 100, commit=0)
    for round in (1, 2):
        progress.answered_heartbeat(round, last_index=9)
        assert progress.check
        assert not progress.ready_for_entries()
        progress.sent(4, 0, commit=0)
        assert not progress.check
    progress.accepted(4)
    assert progress.ready_for_entries(), "whether or not the first one arrived"
