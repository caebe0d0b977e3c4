"""Compaction and snapshots in chunks (Raft §7; thesis §5.1), and observers that are fed from the side."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.raft import (
    Compacted,
    Configuration,
    Entry,
    EntryKind,
    ObservationRefused,
    RaftLimits,
    RaftTiming,
    Role,
    Snapshot,
)
from agent.raft.messages import (
    Append,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
    Message,
)
from tests.raft.bench import Bench, log_of, of, only

TIMING = RaftTiming.lan()
CONFIGURATION = Configuration(("a", "b", "c"))
SNAPSHOT = Snapshot(index=9, term=2, configuration=CONFIGURATION, data=b"0123456789")


def chunk(offset: int, data: bytes, *, term: int = 3, index: int = 9) -> InstallSnapshot:
    return InstallSnapshot(
        term=term, index=index, snapshot_term=2, configuration=CONFIGURATION, offset=offset, total=10, data=data
    )


def leader_with_snapshot() -> Bench:
    """A leader whose log begins after its snapshot at 5, and whose follower b is before that."""
    bench = Bench(terms=(0, 1, 1, 1, 1, 1), commit=6, limits=RaftLimits(chunk_bytes=4))
    bench.raft.compact(5, b"0123456789", keep_entries=0)
    bench.lead()
    bench.receive("b", AppendResponse(term=2, accepted=False, index=6, hint_index=1, hint_term=0))
    return bench


class TestCompaction:
    def test_the_snapshot_is_stored_and_older_entries_may_go_except_some(self) -> None:
        bench = Bench(terms=(0, 1, 1, 1, 1), commit=5)
        bench.raft.compact(4, b"state", keep_entries=2)
        bench.settle()
        assert bench.persisted[-1].snapshot == Snapshot(index=4, term=1, configuration=CONFIGURATION, data=b"state")
        assert bench.persisted[-1].compact_to == 2
        assert (bench.raft.first_index, bench.raft.last_index) == (3, 5)
        with pytest.raises(Compacted):
            bench.raft.entries_between(2, 5, 1000)
        assert [entry.index for entry in bench.raft.entries_between(3, 9, 1000)] == [3, 4, 5]

    def test_only_what_is_applied_and_news_can_be_compacted(self) -> None:
        bench = Bench(terms=(0, 1, 1, 1), commit=3)
        with pytest.raises(ValueError):
            bench.raft.compact(4, b"", keep_entries=0)
        bench.raft.compact(3, b"", keep_entries=0)
        with pytest.raises(ValueError):
            bench.raft.compact(3, b"", keep_entries=0)

    def test_the_configuration_in_it_is_the_one_at_its_index(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        bench.raft.propose_configuration(Configuration(("a", "b")), bench.now)
        bench.settle()
        bench.raft.compact(2, b"", keep_entries=0)
        assert bench.raft.snapshot is not None
        assert bench.raft.snapshot.configuration == CONFIGURATION

    def test_entries_that_are_not_committed_are_not_shown(self) -> None:
        bench = Bench(terms=(0, 1, 1), commit=2)
        assert [entry.index for entry in bench.raft.entries_between(1, 3, 1000)] == [1, 2]


class TestSending:
    def test_it_goes_out_in_chunks_each_asked_for_by_the_answer_before(self) -> None:
        bench = leader_with_snapshot()
        got = only(bench.sent[-1:], InstallSnapshot, "b").data
        while len(got) < 10:
            answer = InstallSnapshotResponse(term=2, index=5, offset=len(got))
            piece = only(bench.receive("b", answer), InstallSnapshot, "b")
            assert (piece.offset, piece.total) == (len(got), 10)
            got += piece.data
        assert got == b"0123456789"
        assert not of(bench.receive("b", InstallSnapshotResponse(term=2, index=5, offset=10)), InstallSnapshot)

    def test_once_installed_entries_follow(self) -> None:
        bench = leader_with_snapshot()
        sent = bench.accept("b", 5)
        assert only(sent, Append, "b").prev_index == 5

    def test_a_follower_that_lost_what_it_had_gets_it_again(self) -> None:
        bench = leader_with_snapshot()
        bench.receive("b", InstallSnapshotResponse(term=2, index=5, offset=8))
        assert only(bench.receive("b", InstallSnapshotResponse(term=2, index=5, offset=0)), InstallSnapshot).offset == 0

    def test_a_lost_chunk_is_repeated_after_the_retry_time_with_a_sign_of_life(self) -> None:
        bench = leader_with_snapshot()
        alive = HeartbeatResponse(term=2, round=1)
        assert not of(bench.receive("b", alive), InstallSnapshot)
        bench.now += 1.0
        assert only(bench.receive("b", alive), InstallSnapshot, "b").offset == 0
        assert not of(bench.receive("b", alive), InstallSnapshot)

    def test_answers_to_a_chunk_that_went_out_twice_ask_for_the_next_once(self) -> None:
        """Else each repetition doubled all that follows, on a link that is slow already."""
        bench = leader_with_snapshot()
        bench.now += 1.0
        bench.receive("b", HeartbeatResponse(term=2, round=1))
        next_wanted = InstallSnapshotResponse(term=2, index=5, offset=4)
        assert only(bench.receive("b", next_wanted), InstallSnapshot, "b").offset == 4
        assert not of(bench.receive("b", next_wanted), InstallSnapshot)

    def test_a_new_link_repeats_it_at_once(self) -> None:
        bench = leader_with_snapshot()
        bench.raft.peer_linked("b", bench.now)
        assert only(bench.settle(), InstallSnapshot, "b").offset == 0

    @pytest.mark.parametrize(("index", "offset"), [(4, 3), (5, 11)])
    def test_answers_that_make_no_sense_are_ignored(self, index: int, offset: int) -> None:
        bench = leader_with_snapshot()
        assert not bench.receive("b", InstallSnapshotResponse(term=2, index=index, offset=offset))

    def test_one_that_is_delivered_and_not_believed_is_replaced_by_a_newer_one(self) -> None:
        bench = leader_with_snapshot()
        bench.receive("b", InstallSnapshotResponse(term=2, index=5, offset=10))
        bench.accept("c")
        bench.raft.compact(7, b"newer", keep_entries=0)
        bench.now += 1.0
        assert only(bench.receive("b", HeartbeatResponse(term=2, round=1)), InstallSnapshot, "b").index == 7

    def test_entries_compacted_while_on_their_way_are_replaced_by_a_snapshot(self) -> None:
        bench = Bench(limits=RaftLimits(inflight_messages=1))
        bench.lead(commit=True)
        for _ in range(3):
            bench.propose(b"x")
            bench.accept("c")
        bench.raft.compact(5, b"state", keep_entries=0)
        alive = HeartbeatResponse(term=1, round=1)
        sent = [message for _ in range(3) for message in bench.receive("b", alive)]
        sent += bench.receive("b", alive)
        assert only(sent, InstallSnapshot, "b").index == 5


def bring(bench: Bench, chunk_s: float, *, lost: int | None = None) -> list[float]:
    """When chunks went out until b had all: each is `chunk_s` on the link, behind those before it, and heartbeats
    overtake them by datagram. The chunk of number `lost` is dropped in front of it."""
    link: list[tuple[float, InstallSnapshot]] = []
    went: list[float] = []
    got, free_at, beat_at = 0, bench.now, bench.now

    def take(sent: list[tuple[str, Message]]) -> None:
        nonlocal free_at
        for piece in of(sent, InstallSnapshot):
            went.append(bench.now)
            if len(went) - 1 != lost:
                free_at = max(free_at, bench.now) + chunk_s
                link.append((free_at, piece))

    take(bench.sent[-1:])
    while got < 10:
        beat_at += RaftTiming.lan().heartbeat_s
        while link and link[0][0] <= beat_at:
            bench.now, piece = link.pop(0)
            got = max(got, piece.offset + len(piece.data) if piece.offset <= got else 0)
            take(bench.receive("b", InstallSnapshotResponse(term=2, index=5, offset=got)))
        bench.now = beat_at
        take(bench.receive("b", HeartbeatResponse(term=2, round=1)))
    return went


@given(st.floats(0.001, 10.0))
def test_a_slow_link_is_not_filled_with_what_it_carries_already(chunk_s: float) -> None:
    """Each chunk once, but for the first, which is repeated, ever more seldom, until it is known how long one takes."""
    bench = leader_with_snapshot()
    went = bring(bench, chunk_s)
    assert len(went) <= 3 + math.log2(chunk_s + 1.0)
    assert bench.now - went[0] <= (len(went) + 1) * chunk_s + 1


@given(st.floats(0.001, 30.0), st.integers(0, 2))
def test_a_chunk_that_a_link_drops_costs_no_more_than_a_few_of_its_times(chunk_s: float, lost: int) -> None:
    bench = leader_with_snapshot()
    went = bring(bench, chunk_s, lost=lost)
    assert bench.now - went[0] <= (len(went) + 3) * chunk_s + 2


class TestReceiving:
    def test_chunks_are_gathered_and_the_whole_replaces_the_log(self) -> None:
        bench = Bench(terms=(0, 1))
        first = only(bench.receive("b", chunk(0, b"01234")), InstallSnapshotResponse)
        assert first.offset == 5
        sent = bench.receive("b", chunk(5, b"56789"))
        assert only(sent, AppendResponse, "b").index == 9
        assert bench.restored == [SNAPSHOT]
        assert bench.persisted[-1].snapshot == SNAPSHOT
        assert bench.persisted[-1].truncate_from == 0
        assert (bench.raft.commit, bench.raft.applied, bench.raft.last_index) == (9, 9, 9)
        bench.receive("b", Append(term=3, prev_index=9, prev_term=2, commit=10, entries=log_of(3, first=10)))
        assert [entry.index for entry in bench.committed] == [10]

    def test_it_is_acknowledged_only_from_disk_and_applied_only_when_done(self) -> None:
        bench = Bench()
        bench.raft.receive("b", chunk(0, b"0123456789"), bench.now)
        ready = bench.take()
        assert not ready.send_now
        assert isinstance(ready.send_after_persist[0].message, AppendResponse)
        assert bench.raft.applied == 1
        bench.raft.advance(ready, bench.now)
        assert bench.raft.applied == 9

    @pytest.mark.parametrize(("offset", "wanted"), [(5, 3), (2, 3), (0, 3)])
    def test_a_chunk_out_of_order_is_answered_with_what_is_wanted(self, offset: int, wanted: int) -> None:
        bench = Bench()
        bench.receive("b", chunk(0, b"012"))
        assert only(bench.receive("b", chunk(offset, b"x")), InstallSnapshotResponse).offset == wanted

    def test_another_snapshot_starts_over(self) -> None:
        bench = Bench()
        bench.receive("b", chunk(0, b"012"))
        assert only(bench.receive("b", chunk(3, b"345", index=12)), InstallSnapshotResponse).offset == 0

    @pytest.mark.parametrize("limits", [RaftLimits(snapshot_bytes=9), RaftLimits()])
    def test_more_than_was_announced_or_allowed_is_dropped(self, limits: RaftLimits) -> None:
        bench = Bench(limits=limits)
        data = b"0" if limits.snapshot_bytes == 9 else b"0" * 11
        assert not bench.receive("b", chunk(0, data))
        assert bench.raft.dropped["snapshot out of bounds"] == 1

    def test_one_that_is_here_already_is_only_confirmed(self) -> None:
        bench = Bench(terms=(0, 1, 1, 1, 2, 2, 2, 2, 2, 2), commit=9)
        assert only(bench.receive("b", chunk(0, b"01")), AppendResponse).index == 9
        assert not bench.restored

    def test_one_whose_entries_are_here_commits_them_instead(self) -> None:
        bench = Bench(terms=(0, 1, 1, 1, 2, 2, 2, 2, 2, 2), commit=1)
        bench.receive("b", chunk(0, b"01"))
        assert bench.raft.commit == 9
        assert bench.raft.last_index == 10
        assert not bench.restored

    def test_after_a_restart_it_goes_on_from_the_snapshot(self) -> None:
        bench = Bench(terms=(2,), snapshot=SNAPSHOT, term=3)
        assert (bench.raft.first_index, bench.raft.last_index, bench.raft.commit) == (10, 10, 9)
        assert bench.raft.term_at(9) == 2
        assert bench.raft.configuration == CONFIGURATION


class TestJudging:
    """`verify_snapshots`: the shell checks signatures and asks other voters before it believes one."""

    def bench(self) -> Bench:
        bench = Bench(verify_snapshots=True)
        bench.receive("b", chunk(0, b"0123456789"))
        assert bench.offered == [SNAPSHOT]
        assert bench.raft.commit == 1
        return bench

    def test_it_is_installed_when_accepted(self) -> None:
        bench = self.bench()
        bench.raft.accept_snapshot(SNAPSHOT, bench.now)
        assert only(bench.settle(), AppendResponse, "b").index == 9
        assert bench.restored == [SNAPSHOT]

    def test_meanwhile_the_member_votes_and_the_leader_hears_that_all_is_there(self) -> None:
        bench = self.bench()
        assert only(bench.receive("b", chunk(10, b"")), InstallSnapshotResponse).offset == 10
        assert bench.vote_for(4, 9, 2, sender="c", forced=True).granted
        assert bench.offered == [SNAPSHOT]

    def test_what_the_log_got_beyond_it_meanwhile_stays(self) -> None:
        """A later leader may count these entries: they were acknowledged (Raft fig. 5.3, step 6)."""
        bench = self.bench()
        entries = log_of(*(2,) * 8, 4, 4, first=2)
        bench.receive("c", Append(term=4, prev_index=1, prev_term=0, commit=1, entries=entries))
        bench.raft.accept_snapshot(SNAPSHOT, bench.now)
        bench.settle()
        assert (bench.raft.commit, bench.raft.last_index, bench.restored) == (SNAPSHOT.index, 11, [])

    def test_one_refused_is_not_gathered_again_but_the_next_is(self) -> None:
        bench = self.bench()
        bench.raft.refuse_snapshot(SNAPSHOT, bench.now)
        assert not bench.receive("b", chunk(0, b"01"))
        assert bench.receive("b", chunk(0, b"01", index=12))
        bench.raft.accept_snapshot(SNAPSHOT, bench.now)
        assert not bench.restored

    def test_one_that_nobody_judged_is_offered_again(self) -> None:
        bench = self.bench()
        bench.raft.refuse_snapshot(SNAPSHOT, bench.now, again=True)
        assert only(bench.receive("b", chunk(10, b"")), InstallSnapshotResponse).offset == 0
        bench.receive("b", chunk(0, b"0123456789"))
        assert bench.offered == [SNAPSHOT, SNAPSHOT]


class TestDoubting:
    """A leader whose snapshot isn't believed leads nowhere; whose is may be kept out by nobody's trust in that one."""

    def bench(self) -> Bench:
        return Bench(verify_snapshots=True)

    def hear(self, bench: Bench, seconds: float, *, term: int = 3) -> None:
        """The leader goes on to be heard."""
        for _ in range(round(seconds / TIMING.heartbeat_s)):
            bench.wait(TIMING.heartbeat_s)
            bench.receive("b", Heartbeat(term=term, commit=0, round=1))
        assert bench.raft.leader == "b"

    def protects(self, bench: Bench) -> bool:
        return not bench.pre_vote_for(bench.raft.term + 1, 20, 2, sender="c").granted

    def test_who_offers_one_is_protected_while_it_is_judged_and_not_for_ever(self) -> None:
        bench = self.bench()
        bench.receive("b", chunk(0, b"0123456789"))
        self.hear(bench, TIMING.unbelieved_s / 2)
        assert self.protects(bench)
        self.hear(bench, TIMING.unbelieved_s / 2 + 1.0)
        assert not self.protects(bench)
        assert bench.vote_for(4, 20, 2, sender="c").granted

    def test_one_on_a_slow_link_is_waited_for(self) -> None:
        bench = self.bench()
        bench.receive("b", chunk(0, b"01234"))
        self.hear(bench, 3 * TIMING.unbelieved_s)
        assert self.protects(bench)

    def test_a_later_one_in_the_same_term_gains_no_time(self) -> None:
        bench = self.bench()
        for index in (9, 12, 15):
            bench.receive("b", chunk(0, b"0123456789", index=index))
            self.hear(bench, TIMING.unbelieved_s / 2)
        assert not self.protects(bench)

    def test_the_next_leader_has_its_own_time(self) -> None:
        bench = self.bench()
        bench.receive("b", chunk(0, b"0123456789"))
        self.hear(bench, TIMING.unbelieved_s + 1.0)
        bench.receive("b", chunk(0, b"0123456789", term=4))
        self.hear(bench, 1.0, term=4)
        assert self.protects(bench)

    def test_one_that_is_refused_costs_its_leader_the_protection_too(self) -> None:
        bench = self.bench()
        bench.receive("b", chunk(0, b"0123456789"))
        bench.raft.refuse_snapshot(SNAPSHOT, bench.now)
        self.hear(bench, TIMING.unbelieved_s + 1.0)
        assert not self.protects(bench)

    def test_once_it_is_believed_the_leader_is_trusted_again(self) -> None:
        bench = self.bench()
        bench.receive("b", chunk(0, b"0123456789"))
        self.hear(bench, TIMING.unbelieved_s + 1.0)
        bench.raft.accept_snapshot(SNAPSHOT, bench.now)
        bench.settle()
        assert self.protects(bench)
        bench.receive("b", chunk(0, b"0123456789", index=12))
        self.hear(bench, 1.0)
        assert self.protects(bench), "the next one is judged anew"


class TestObserving:
    """Observers subscribe to one voter; the entries don't come from a leader."""

    def observer(self) -> Bench:
        return Bench(voters=("b", "c", "d"))

    def test_committed_entries_are_taken_stored_and_applied(self) -> None:
        bench = self.observer()
        bench.raft.observe(log_of(1, 1, 2, first=2), 4, bench.now)
        bench.settle()
        assert [entry.index for entry in bench.committed] == [2, 3, 4]
        assert bench.persisted[-1].commit == 4
        assert bench.raft.term == 2, "a log never holds a later term than its member's"
        assert not bench.sent

    def test_what_is_known_already_is_skipped(self) -> None:
        bench = self.observer()
        bench.raft.observe(log_of(1, 1, first=2), 3, bench.now)
        bench.raft.observe(log_of(1, 1, 1, first=2), 4, bench.now)
        bench.settle()
        assert [entry.index for entry in bench.committed] == [2, 3, 4]

    @pytest.mark.parametrize(
        ("entries", "commit"),
        [
            (log_of(1, first=5), 5),
            (log_of(1, 1, first=4), 4),
            (log_of(2, 2, first=3), 4),
            ((*log_of(1, first=4), *log_of(1, first=6)), 6),
            ((Entry(4, 1, EntryKind.CONFIG, b"junk"),), 4),
        ],
        ids=["gap", "beyond the commit index", "contradicts", "gap inside", "unreadable"],
    )
    def test_what_does_not_fit_is_refused_and_changes_nothing(self, entries: tuple[Entry, ...], commit: int) -> None:
        bench = self.observer()
        bench.raft.observe(log_of(1, 1, first=2), 3, bench.now)
        bench.settle()
        with pytest.raises(ObservationRefused):
            bench.raft.observe(entries, commit, bench.now)
        assert (bench.raft.last_index, bench.raft.commit) == (3, 3)
        assert not bench.raft.has_ready()

    def test_a_leftover_of_its_time_as_a_voter_gives_way(self) -> None:
        bench = Bench(terms=(0, 1, 1), voters=("b", "c", "d"))
        bench.raft.observe(log_of(2, first=2), 2, bench.now)
        bench.settle()
        assert bench.log_terms == [0, 2]
        assert bench.persisted[-1].truncate_from == 2

    def test_a_voter_that_follows_a_leader_takes_nothing_from_the_side(self) -> None:
        bench = Bench()
        bench.receive("b", Heartbeat(term=1, commit=1, round=1))
        with pytest.raises(ObservationRefused):
            bench.raft.observe(log_of(1, first=2), 2, bench.now)

    def test_a_voter_that_missed_its_own_removal_learns_of_it(self) -> None:
        """Nobody sends it the entry any more, and nobody votes for it."""
        bench = Bench()
        bench.time_out()
        removal = Entry(2, 1, EntryKind.CONFIG, Configuration(("b", "c")).encode())
        bench.raft.observe((removal,), 2, bench.now)
        assert bench.raft.role is Role.FOLLOWER
        assert bench.raft.deadline() == float("inf")

    def test_an_observer_far_behind_starts_over_from_a_snapshot(self) -> None:
        bench = self.observer()
        bench.raft.observe_snapshot(SNAPSHOT, bench.now)
        bench.settle()
        assert bench.restored == [SNAPSHOT]
        assert (bench.raft.commit, bench.raft.term) == (9, 2)
        with pytest.raises(ObservationRefused):
            bench.raft.observe_snapshot(SNAPSHOT, bench.now)
        bench.raft.observe(log_of(2, first=10), 10, bench.now)

    def test_a_voter_without_a_leader_keeps_what_it_has_beyond_a_snapshot(self) -> None:
        bench = Bench(terms=(0, *(2,) * 10), term=2)
        bench.raft.observe_snapshot(SNAPSHOT, bench.now)
        bench.settle()
        assert (bench.raft.commit, bench.raft.last_index, bench.restored) == (SNAPSHOT.index, 11, [])

    def test_an_observer_that_becomes_a_learner_is_found_where_it_is(self) -> None:
        leader = Bench()
        leader.lead(commit=True)
        observer = self.observer()
        observer.raft.observe(leader.raft.entries_between(2, 2, 1000), 2, observer.now)
        observer.settle()
        leader.raft.propose_configuration(Configuration(("a", "b", "c"), ("o",)), leader.now)
        question = only(leader.settle(), Append, "o")
        assert only(observer.receive("b", question), AppendResponse).accepted
        assert observer.raft.configuration.learners == ("o",)
