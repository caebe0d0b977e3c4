"""The log against a dumb twin that keeps everything in a dict."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from agent.raft import Compacted, Configuration, Entry, EntryKind, LogDiverged, Snapshot
from agent.raft.log import RaftLog, follows, open_log

CONFIGURATION = Configuration(("a",))


def entry(index: int, term: int, data: bytes = b"") -> Entry:
    return Entry(index, term, EntryKind.NORMAL, data)


def entries(first: int, *terms: int) -> tuple[Entry, ...]:
    return tuple(entry(first + position, term) for position, term in enumerate(terms))


def log_of(*terms: int, commit: int = 0, applied: int = 0) -> RaftLog:
    return RaftLog(base_index=0, base_term=0, entries=entries(1, *terms), commit=commit, applied=applied)


class LogHistory(RuleBasedStateMachine):
    """A follower's log under leaders of growing terms, with a disk that finishes late."""

    def __init__(self) -> None:
        super().__init__()
        self.log = log_of(0, commit=1, applied=1)
        self.twin = {1: entry(1, 0)}
        self.disk = {1: entry(1, 0)}
        self.committed = {1: entry(1, 0)}
        self.writing: tuple[int | None, tuple[Entry, ...]] | None = None
        self.term = 0

    @rule(back=st.integers(0, 4), count=st.integers(0, 4), same_term=st.booleans())
    def a_leader_sends(self, back: int, count: int, same_term: bool) -> None:
        if not same_term or self.term == 0:
            self.term += 1
        last = max(self.twin)
        first = max(last - back, self.log.commit) + 1
        if same_term:
            # A leader never rewrites its own entries: from one term, only more of the same.
            while first <= last and self.twin[first].term == self.term:
                first += 1
        sent = entries(first, *[self.term] * count)
        for one in sent:
            if one.index in self.twin and self.twin[one.index].term != one.term:
                self.twin = {index: kept for index, kept in self.twin.items() if index < one.index}
            self.twin.setdefault(one.index, one)
        self.log.merge(sent)

    @rule(ahead=st.integers(0, 3))
    def more_is_committed(self, ahead: int) -> None:
        index = min(max(self.twin), self.log.commit + ahead)
        assert self.log.commit_to(index) == (ahead > 0 and index > max(self.committed))
        self.committed.update({at: self.twin[at] for at in range(1, index + 1) if at in self.twin})

    @precondition(lambda self: self.writing is None)
    @rule()
    def the_disk_begins(self) -> None:
        self.writing = self.log.take_unwritten()
        assert not self.log.has_unwritten()

    @precondition(lambda self: self.writing is not None)
    @rule()
    def the_disk_ends(self) -> None:
        assert self.writing is not None
        truncate_from, written = self.writing
        if truncate_from is not None:
            self.disk = {index: kept for index, kept in self.disk.items() if index < truncate_from}
        for one in written:
            assert one.index == max(self.disk) + 1, "what is written follows on what is there"
            self.disk[one.index] = one
        self.writing = None
        self.log.written()

    @precondition(lambda self: self.writing is None)
    @rule()
    def it_applies(self) -> None:
        ready = self.log.take_committed(max_bytes=100)
        for one in ready:
            assert self.disk[one.index] == one, "only what is on disk is applied"
            assert self.committed[one.index] == one
            assert one.index == self.log.applied + 1
            self.log.applied = one.index

    @rule(keep=st.integers(0, 3))
    def it_compacts(self, keep: int) -> None:
        self.log.compact(self.log.applied - keep)

    @invariant()
    def it_says_what_the_twin_says(self) -> None:
        assert self.log.last_index == max(self.twin)
        for index in range(self.log.base_index, self.log.last_index + 1):
            assert self.log.term_at(index) == (self.twin[index].term if index else 0)
        assert self.log.slice(self.log.base_index + 1, self.log.last_index, 1000) == tuple(
            self.twin[index] for index in range(self.log.base_index + 1, self.log.last_index + 1)
        )

    @invariant()
    def what_counts_as_persisted_is_on_disk(self) -> None:
        for index in range(self.log.base_index + 1, self.log.persisted + 1):
            assert self.disk.get(index) == self.twin[index]


def test_the_log_and_the_disk_agree_with_the_twin_through_any_history() -> None:
    """Raft §5.3, with writes that end late."""
    run_state_machine_as_test(LogHistory)


def test_a_committed_entry_is_never_truncated() -> None:
    log = log_of(1, 1, 2, commit=2)
    with pytest.raises(LogDiverged):
        log.merge(entries(2, 3))
    assert log.last_index == 3


def test_a_late_repeated_message_truncates_nothing() -> None:
    """Raft §5.3: only a conflict truncates."""
    log = log_of(1, 1, 1, 1)
    assert log.merge(entries(2, 1)) is None
    assert log.last_index == 4


def test_an_entry_rewritten_while_the_disk_writes_does_not_count_as_persisted() -> None:
    log = log_of(1, commit=1, applied=1)
    log.append(entries(2, 1, 1))
    assert log.take_unwritten() == (None, entries(2, 1, 1))
    log.merge(entries(3, 2))
    log.written()
    assert log.persisted == 2
    assert log.take_unwritten() == (3, entries(3, 2))
    log.written()
    assert log.persisted == 3


@given(st.lists(st.integers(1, 4), max_size=8).map(sorted), st.integers(0, 10), st.integers(0, 5))
def test_the_last_possible_match_skips_exactly_what_cannot_match(terms: list[int], index: int, term: int) -> None:
    """Raft §5.3, end, by trying every index."""
    log = log_of(*terms)
    possible = [at for at in range(min(index, len(terms)) + 1) if (log.term_at(at) or 0) <= term]
    assert log.last_possible_match(index, term) == (possible[-1], log.term_at(possible[-1]))


def test_a_slice_is_bounded_in_bytes_but_never_empty() -> None:
    log = RaftLog(
        base_index=0, base_term=0, entries=[entry(index, 1, b"x" * 10) for index in (1, 2, 3)], commit=0, applied=0
    )
    assert [one.index for one in log.slice(1, 3, max_bytes=25)] == [1, 2]
    assert [one.index for one in log.slice(2, 3, max_bytes=1)] == [2]
    assert [one.index for one in log.slice(1, 3, max_bytes=100, max_entries=1)] == [1]
    assert log.slice(4, 9, max_bytes=1) == ()
    log.commit_to(2)
    log.applied = 2
    log.compact(2)
    with pytest.raises(Compacted):
        log.slice(2, 3, max_bytes=1)


@pytest.mark.parametrize(
    ("terms", "index", "term", "expected"),
    [((1, 2), 2, 2, True), ((1, 2), 3, 2, True), ((1, 2), 1, 3, True), ((1, 2), 1, 2, False), ((1, 2), 9, 1, False)],
)
def test_up_to_date_is_by_last_term_then_by_length(
    terms: tuple[int, ...], index: int, term: int, expected: bool
) -> None:
    """Raft §5.4.1."""
    assert log_of(*terms).is_up_to_date(index, term) is expected


def test_entries_follow_only_without_gap_and_with_growing_terms() -> None:
    assert follows(entries(3, 1, 2, 2), 2, 1, 2)
    assert not follows(entries(4, 1), 2, 1, 2)
    assert not follows(entries(3, 2, 1), 2, 1, 2)
    assert not follows(entries(3, 3), 2, 1, 2)
    assert not follows((entry(3, 1), entry(5, 1)), 2, 1, 2)


class TestOpening:
    """What storage kept, opened again."""

    snapshot = Snapshot(index=5, term=2, configuration=CONFIGURATION, data=b"")

    def test_without_a_snapshot_it_begins_at_the_genesis(self) -> None:
        log = open_log(entries(1, 0, 1), None, commit=1, applied=0)
        assert (log.base_index, log.last_index, log.commit) == (0, 2, 1)

    def test_entries_kept_before_the_snapshot_serve_slow_followers(self) -> None:
        log = open_log(entries(3, 1, 1, 2, 2), self.snapshot, commit=1, applied=5)
        assert (log.base_index, log.base_term, log.last_index, log.commit) == (3, 1, 6, 5)

    def test_an_empty_log_begins_at_the_snapshot(self) -> None:
        log = open_log((), self.snapshot, commit=0, applied=5)
        assert (log.base_index, log.base_term, log.last_index, log.commit) == (5, 2, 5, 5)

    def test_what_was_applied_was_committed(self) -> None:
        assert open_log(entries(1, 0, 1, 1), None, commit=1, applied=3).commit == 3

    @pytest.mark.parametrize("stored", [entries(7, 2), entries(3, 1), (entry(6, 2), entry(8, 2)), entries(6, 1)])
    def test_a_log_with_a_gap_is_refused(self, stored: tuple[Entry, ...]) -> None:
        with pytest.raises(ValueError):
            open_log(stored, self.snapshot, commit=5, applied=5)
