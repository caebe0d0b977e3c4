"""The Raft paper, section by section ("In Search of an Understandable Consensus Algorithm", extended version)."""

from __future__ import annotations

import pytest

from agent.raft import MAX_ENTRY_BYTES, Entry, LogDiverged, NotLeader, ProposalDropped, RaftLimits, Role
from agent.raft.messages import (
    Append,
    AppendResponse,
    Heartbeat,
    PreVoteResponse,
    Vote,
    VoteResponse,
)
from tests.raft.bench import Bench, log_of, of, only


class TestTerms:
    """Raft §5.1."""

    @pytest.mark.parametrize("role", [Role.FOLLOWER, Role.CANDIDATE, Role.LEADER])
    def test_everybody_follows_a_leader_of_a_later_term(self, role: Role) -> None:
        bench = Bench()
        if role is Role.CANDIDATE:
            bench.stand()
        if role is Role.LEADER:
            bench.lead()
        bench.receive("b", Heartbeat(term=7, commit=0, round=1))
        assert (bench.raft.term, bench.raft.role, bench.raft.leader) == (7, Role.FOLLOWER, "b")
        assert bench.persisted[-1].hard_state is not None
        assert bench.persisted[-1].hard_state.vote is None

    def test_a_leader_of_an_earlier_term_hears_that_it_is_over(self) -> None:
        bench = Bench(term=5)
        for stale in (
            Heartbeat(term=4, commit=0, round=1),
            Append(term=4, prev_index=1, prev_term=0, commit=1, entries=log_of(4, first=2)),
        ):
            answer = only(bench.receive("b", stale), AppendResponse)
            assert (answer.term, answer.accepted) == (5, False)
        assert bench.raft.last_index == 1
        assert bench.raft.leader is None

    def test_a_stale_answer_changes_nothing(self) -> None:
        bench = Bench(term=5)
        bench.stand()
        bench.receive("b", VoteResponse(term=bench.raft.term - 1, granted=True))
        assert bench.raft.role is Role.CANDIDATE

    def test_a_term_out_of_bounds_is_not_followed(self) -> None:
        bench = Bench()
        bench.receive("b", Heartbeat(term=2**61, commit=0, round=1))
        assert bench.raft.term == 0
        assert bench.raft.dropped["term out of bounds"] == 1


class TestElections:
    """Raft §5.2."""

    def test_members_start_as_followers(self) -> None:
        assert Bench().raft.role is Role.FOLLOWER

    def test_a_leader_sends_heartbeats_to_everybody_at_its_interval(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        sent = bench.wait(0.150)
        assert [to for to, message in sent if isinstance(message, Heartbeat)] == ["b", "c"]

    def test_a_follower_without_a_leader_campaigns_in_the_next_term_for_itself(self) -> None:
        bench = Bench(term=2)
        bench.stand()
        assert (bench.raft.role, bench.raft.term) == (Role.CANDIDATE, 3)
        hard_state = bench.persisted[-1].hard_state
        assert hard_state is not None
        assert (hard_state.term, hard_state.vote) == (3, "a")
        assert [vote.term for vote in of(bench.sent, Vote)] == [3, 3]

    @pytest.mark.parametrize(
        ("voters", "granted", "refused", "role"),
        [
            (3, 1, 0, Role.LEADER),
            (3, 0, 1, Role.CANDIDATE),
            (3, 0, 2, Role.FOLLOWER),
            (5, 2, 0, Role.LEADER),
            (5, 2, 2, Role.LEADER),
            (5, 1, 2, Role.CANDIDATE),
            (5, 0, 3, Role.FOLLOWER),
            (4, 1, 1, Role.CANDIDATE),
            (4, 2, 1, Role.LEADER),
            (4, 0, 2, Role.FOLLOWER),
        ],
    )
    def test_one_round_of_votes_is_won_lost_or_open(self, voters: int, granted: int, refused: int, role: Role) -> None:
        bench = Bench(voters=tuple("abcde"[:voters]))
        bench.stand()
        others = list(bench.others())
        for voter in others[:granted]:
            bench.receive(voter, VoteResponse(term=1, granted=True))
        for voter in others[granted : granted + refused]:
            bench.receive(voter, VoteResponse(term=1, granted=False))
        assert bench.raft.role is role

    def test_one_voter_does_not_count_twice(self) -> None:
        bench = Bench(voters=tuple("abcde"))
        bench.stand()
        for _ in range(3):
            bench.receive("b", VoteResponse(term=1, granted=True))
        assert bench.raft.role is Role.CANDIDATE

    def test_a_stranger_does_not_count(self) -> None:
        bench = Bench()
        bench.stand()
        bench.receive("x", VoteResponse(term=1, granted=True))
        assert bench.raft.role is Role.CANDIDATE

    @pytest.mark.parametrize(("vote", "sender", "granted"), [(None, "b", True), ("b", "b", True), ("c", "b", False)])
    def test_a_vote_goes_to_whom_asks_first_in_a_term(self, vote: str | None, sender: str, granted: bool) -> None:
        bench = Bench(term=3, vote=vote)
        assert bench.vote_for(3, sender=sender).granted is granted

    def test_a_vote_is_remembered_over_a_restart(self) -> None:
        """Term and vote are one record (PySyncObj #202, hashicorp/raft #661): the same crash can't split them."""
        bench = Bench()
        assert bench.vote_for(4, sender="b").granted
        stored = bench.persisted[-1].hard_state
        assert stored is not None
        assert (stored.term, stored.vote) == (4, "b")
        again = Bench(term=stored.term, vote=stored.vote)
        assert not again.vote_for(4, sender="c").granted
        assert again.vote_for(4, sender="b").granted

    @pytest.mark.parametrize("ahead", [0, 1])
    def test_a_candidate_falls_back_when_a_leader_shows(self, ahead: int) -> None:
        bench = Bench()
        bench.stand()
        term = bench.raft.term + ahead
        bench.receive("b", Append(term=term, prev_index=1, prev_term=0, commit=1))
        assert (bench.raft.role, bench.raft.leader, bench.raft.term) == (Role.FOLLOWER, "b", term)

    def test_every_campaign_draws_its_timeout_anew(self) -> None:
        """Raft §9.3; a timeout drawn once means ties for ever (fluree/db #1845)."""
        bench = Bench()
        waits = []
        for _ in range(40):
            bench.time_out()
            waits.append(bench.raft.deadline() - bench.now)
        assert len(set(waits)) == 40
        assert all(0.5 <= wait < 1.0 for wait in waits)
        assert max(waits) - min(waits) > 0.3

    def test_a_candidate_that_hears_nothing_tries_again(self) -> None:
        bench = Bench()
        bench.stand()
        term = bench.raft.term
        bench.stand()
        assert bench.raft.term == term + 1

    def test_a_second_leader_of_the_same_term_is_not_believed(self) -> None:
        bench = Bench()
        bench.receive("b", Heartbeat(term=1, commit=0, round=1))
        assert not bench.receive("c", Heartbeat(term=1, commit=0, round=1))
        assert bench.raft.leader == "b"
        assert bench.raft.dropped["second leader in a term"] == 1


class TestReplication:
    """Raft §5.3."""

    def test_a_proposal_is_appended_sent_with_what_precedes_it_and_stored(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        bench.raft.propose(b"x", bench.now)
        ready = bench.take()
        for envelope in ready.send_now:
            assert isinstance(envelope.message, Append)
            assert (envelope.message.prev_index, envelope.message.prev_term) == (2, 1)
            assert [entry.data for entry in envelope.message.entries] == [b"x"]
        assert [envelope.to for envelope in ready.send_now] == ["b", "c"]
        assert ready.persist is not None
        assert [entry.data for entry in ready.persist.entries] == [b"x"]

    def test_a_committed_entry_is_applied_and_the_others_are_told(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        index = bench.propose(b"x")
        sent = bench.accept("b")
        assert bench.raft.commit == index
        assert bench.committed[-1].data == b"x"
        assert only(sent, Append, "b").commit == index

    @pytest.mark.parametrize(
        ("voters", "acknowledged", "committed"),
        [
            (1, 0, True),
            (2, 0, False),
            (3, 0, False),
            (3, 1, True),
            (4, 1, False),
            (4, 2, True),
            (5, 1, False),
            (5, 2, True),
        ],
    )
    def test_an_entry_is_committed_once_a_majority_has_it(
        self, voters: int, acknowledged: int, committed: bool
    ) -> None:
        bench = Bench(voters=tuple("abcde"[:voters]))
        bench.lead(commit=True)
        index = bench.propose(b"x")
        for voter in list(bench.others())[:acknowledged]:
            bench.accept(voter)
        assert (bench.raft.commit >= index) is committed

    def test_the_leaders_own_copy_counts_only_from_its_disk(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        before = bench.raft.commit
        index = bench.raft.propose(b"x", bench.now)
        ready = bench.take()
        bench.raft.receive("b", AppendResponse(term=1, accepted=True, index=index), bench.now)
        assert bench.raft.commit == before
        bench.raft.advance(ready, bench.now)
        assert bench.raft.commit == index

    def test_a_leader_without_its_disk_can_still_commit_but_not_apply(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        index = bench.raft.propose(b"x", bench.now)
        ready = bench.take()
        for voter in ("b", "c"):
            bench.raft.receive(voter, AppendResponse(term=1, accepted=True, index=index), bench.now)
        assert bench.raft.commit == index
        assert not ready.committed
        bench.raft.advance(ready, bench.now)
        assert [entry.data for entry in bench.take().committed] == [b"x"]

    @pytest.mark.parametrize(
        ("prev_index", "prev_term", "accepted"),
        [(1, 0, True), (2, 1, True), (3, 2, True), (3, 1, False), (4, 2, False)],
    )
    def test_a_follower_takes_only_what_fits_onto_its_log(
        self, prev_index: int, prev_term: int, accepted: bool
    ) -> None:
        bench = Bench(terms=(0, 1, 2))
        sent = bench.receive("b", Append(term=2, prev_index=prev_index, prev_term=prev_term, commit=1))
        answer = only(sent, AppendResponse)
        assert (answer.accepted, answer.index) == (accepted, prev_index)

    @pytest.mark.parametrize(
        ("prev", "sent", "result", "written"),
        [
            ((3, 2), (3,), [0, 1, 2, 3], (None, [3])),
            ((2, 1), (3, 4), [0, 1, 3, 4], (3, [3, 4])),
            ((1, 0), (1,), [0, 1, 2], None),
            ((1, 0), (3,), [0, 3], (2, [3])),
            ((1, 0), (1, 2, 3), [0, 1, 2, 3], (None, [3])),
        ],
    )
    def test_a_conflict_removes_what_follows_and_nothing_else_does(
        self,
        prev: tuple[int, int],
        sent: tuple[int, ...],
        result: list[int],
        written: tuple[int | None, list[int]] | None,
    ) -> None:
        bench = Bench(terms=(0, 1, 2), term=4)
        bench.persisted.clear()
        message = Append(
            term=4, prev_index=prev[0], prev_term=prev[1], commit=1, entries=log_of(*sent, first=prev[0] + 1)
        )
        bench.receive("b", message)
        assert bench.log_terms == result
        if written is None:
            assert not bench.persisted
        else:
            assert (bench.persisted[0].truncate_from, [one.term for one in bench.persisted[0].entries]) == written

    @pytest.mark.parametrize(("leader_commit", "commit"), [(1, 1), (2, 2), (3, 3), (9, 3)])
    def test_a_follower_commits_what_the_leader_committed_and_this_message_vouched_for(
        self, leader_commit: int, commit: int
    ) -> None:
        """Raft fig. 2, AppendEntries 5: min(leaderCommit, index of last new entry), not this log's last."""
        bench = Bench(terms=(0, 1, 1, 1))
        bench.receive("b", Append(term=2, prev_index=2, prev_term=1, commit=leader_commit, entries=log_of(1, first=3)))
        assert bench.raft.commit == commit
        assert [one.index for one in bench.committed] == list(range(2, commit + 1))

    def test_news_of_the_commit_index_alone_is_not_answered(self) -> None:
        """The leader has this member's word for those entries. What asks (the same once more) is answered."""
        bench = Bench(terms=(0,))
        bench.receive("b", Append(term=2, prev_index=1, prev_term=0, commit=1, entries=log_of(2, 2, first=2)))
        news = Append(term=2, prev_index=3, prev_term=2, commit=2)
        assert bench.receive("b", news) == []
        assert bench.raft.commit == 2
        assert only(bench.receive("b", news), AppendResponse).index == 3

    def test_news_of_the_commit_index_are_answered_once_the_word_for_the_entries_may_be_lost(self) -> None:
        bench = Bench(terms=(0,))
        bench.receive("b", Append(term=2, prev_index=1, prev_term=0, commit=1, entries=log_of(2, 2, first=2)))
        bench.raft.peer_linked("b", bench.now)
        news = Append(term=2, prev_index=3, prev_term=2, commit=2)
        assert only(bench.receive("b", news), AppendResponse).index == 3
        later = Append(term=3, prev_index=3, prev_term=2, commit=3)
        assert only(bench.receive("c", later), AppendResponse).index == 3

    FIGURE_7 = (0, 1, 1, 1, 4, 4, 5, 5, 6, 6, 6)

    @pytest.mark.parametrize(
        "follower",
        [
            (0, 1, 1, 1, 4, 4, 5, 5, 6, 6),
            (0, 1, 1, 1, 4),
            (0, 1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6),
            (0, 1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7),
            (0, 1, 1, 1, 4, 4, 4, 4),
            (0, 1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3),
        ],
        ids="abcdef",
    )
    def test_a_leader_brings_every_follower_of_figure_7_into_line(self, follower: tuple[int, ...]) -> None:
        """… and skips whole terms, so that it takes few questions (Raft §5.3, end)."""
        leader = Bench(terms=self.FIGURE_7, term=7)
        leader.lead()
        other = Bench(terms=follower, term=7)
        questions, queue = 0, leader.sent
        leader.sent = []
        while queue:
            heard = [message for to, message in queue if to == "b" and isinstance(message, Append | Heartbeat)]
            questions += sum(isinstance(message, Append) for message in heard)
            answers = [answer for message in heard for _, answer in other.receive("b", message)]
            queue = [sent for answer in answers for sent in leader.receive("b", answer)]
        assert other.log_terms == [*self.FIGURE_7, 8]
        assert questions <= 5

    @pytest.mark.parametrize(
        "entries",
        [
            log_of(2, first=4),
            log_of(2, first=2),
            log_of(9, first=3),
            log_of(0, first=3),
            (*log_of(2, first=3), *log_of(2, first=5)),
        ],
        ids=["gap", "overlap", "later term than the leader", "term goes back", "gap inside"],
    )
    def test_entries_that_no_leader_would_send_are_dropped(self, entries: tuple[Entry, ...]) -> None:
        bench = Bench(terms=(0, 1))
        assert not bench.receive("b", Append(term=2, prev_index=2, prev_term=1, commit=1, entries=entries))
        assert bench.raft.dropped["malformed append"] == 1
        assert bench.raft.last_index == 2

    def test_a_heartbeat_commits_only_what_is_known_to_match(self) -> None:
        bench = Bench(terms=(0, 1, 1))
        bench.receive("b", Heartbeat(term=2, commit=2, round=1))
        assert bench.raft.commit == 2
        bench.receive("b", Heartbeat(term=2, commit=9, round=2))
        assert bench.raft.commit == 2

    def test_a_leaders_heartbeat_never_commits_beyond_what_a_follower_has(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        bench.propose(b"x")
        bench.accept("b")
        sent = bench.wait(0.150)
        assert only(sent, Heartbeat, "b").commit == 3
        assert only(sent, Heartbeat, "c").commit == 2


class TestBounds:
    """What a leader keeps for a majority that doesn't answer, and what it sends to one slow follower."""

    def test_only_so_many_entries_wait_for_a_majority(self) -> None:
        bench = Bench(limits=RaftLimits(uncommitted_entries=3))
        bench.lead(commit=True)
        for _ in range(3):
            bench.propose(b"x")
        with pytest.raises(ProposalDropped):
            bench.propose(b"x")
        bench.accept("b")
        bench.propose(b"x")

    def test_only_so_many_bytes_wait_for_a_majority_but_one_entry_always_may(self) -> None:
        bench = Bench(limits=RaftLimits(uncommitted_bytes=10))
        bench.lead(commit=True)
        for _ in range(3):
            bench.propose(b"0123456789ab")
            with pytest.raises(ProposalDropped):
                bench.propose(b"x")
            bench.accept("b")

    def test_entries_of_earlier_terms_count_too(self) -> None:
        bench = Bench(terms=(0, 1, 1), limits=RaftLimits(uncommitted_bytes=8))
        bench.lead()
        bench.propose(b"xx")
        with pytest.raises(ProposalDropped):
            bench.propose(b"xx")
        bench.accept("b")
        bench.propose(b"0123456789")

    def test_an_entry_too_large_for_a_frame_is_dropped(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        with pytest.raises(ProposalDropped):
            bench.propose(b"x" * (MAX_ENTRY_BYTES + 1))

    def test_a_slow_follower_is_sent_a_window_and_no_more(self) -> None:
        bench = Bench(limits=RaftLimits(inflight_messages=2, append_entries=1))
        bench.lead(commit=True)
        before = len(of(bench.sent, Append, "b"))
        for _ in range(5):
            bench.propose(b"x")
        assert len(of(bench.sent, Append, "b")) - before == 2
        sent = bench.accept("b", 3)
        assert [append.prev_index for append in of(sent, Append, "b")] == [4]

    def test_a_follower_that_proposes_hears_who_leads(self) -> None:
        bench = Bench()
        bench.receive("b", Heartbeat(term=1, commit=0, round=1))
        with pytest.raises(NotLeader) as caught:
            bench.propose(b"x")
        assert caught.value.leader == "b"


class TestSafety:
    """Raft §5.4."""

    @pytest.mark.parametrize(
        ("terms", "last_term", "last_index", "granted"),
        [
            ((0, 1), 1, 2, True),
            ((0, 1), 1, 3, True),
            ((0, 1, 1), 1, 2, False),
            ((0, 1), 2, 2, True),
            ((0, 1, 1), 2, 2, True),
            ((0, 2), 1, 3, False),
            ((0, 2, 2), 1, 9, False),
        ],
    )
    def test_a_vote_is_refused_to_a_shorter_log(
        self, terms: tuple[int, ...], last_term: int, last_index: int, granted: bool
    ) -> None:
        """Raft §5.4.1; pre-votes by the same rule."""
        assert Bench(terms=terms).vote_for(5, last_index, last_term).granted is granted
        assert Bench(terms=terms).pre_vote_for(5, last_index, last_term).granted is granted

    def test_a_vote_request_tells_where_the_log_ends(self) -> None:
        bench = Bench(terms=(0, 1, 3))
        bench.stand()
        assert {(vote.last_index, vote.last_term) for vote in of(bench.sent, Vote)} == {(3, 3)}

    @pytest.mark.parametrize(("acknowledged", "commit"), [(2, 1), (3, 1), (4, 4)])
    def test_only_entries_of_the_own_term_are_committed_by_counting(self, acknowledged: int, commit: int) -> None:
        """Raft §5.4.2, figure 8: entries of earlier terms come along with one of the own."""
        bench = Bench(terms=(0, 1, 2))
        bench.lead()
        bench.accept("b", acknowledged)
        assert bench.raft.commit == commit

    def test_a_follower_never_rolls_back_what_is_committed(self) -> None:
        """A wiped founder and fresh members outvote a survivor (hashicorp/raft #122): it stops."""
        survivor = Bench(terms=(0, 1, 1, 1), commit=4)
        with pytest.raises(LogDiverged):
            survivor.receive("b", Append(term=9, prev_index=1, prev_term=0, commit=1, entries=log_of(9, first=2)))
        assert survivor.log_terms == [0, 1, 1, 1]

    def test_a_leader_that_contradicts_a_committed_entry_ends_the_process(self) -> None:
        survivor = Bench(terms=(0, 1, 1, 1), commit=4)
        with pytest.raises(LogDiverged):
            survivor.receive("b", Append(term=9, prev_index=3, prev_term=5, commit=1))

    def test_somebody_who_is_no_voter_of_ours_ends_nothing_by_contradicting(self) -> None:
        survivor = Bench(terms=(0, 1, 1, 1), commit=4)
        survivor.receive("z", Append(term=9, prev_index=3, prev_term=5, commit=1))
        survivor.receive("z", Append(term=9, prev_index=1, prev_term=0, commit=1, entries=log_of(9, first=2)))
        assert survivor.log_terms == [0, 1, 1, 1]
        assert survivor.raft.dropped["contradicts what is committed"] == 2

    def test_a_new_leader_begins_with_an_entry_of_its_own(self) -> None:
        bench = Bench(terms=(0, 1))
        bench.lead()
        assert bench.log_terms == [0, 1, 2]

    def test_a_leader_never_removes_entries_of_its_own_log(self) -> None:
        """Leader append-only (Raft fig. 3), whatever is answered."""
        bench = Bench(terms=(0, 1, 1))
        bench.lead()
        bench.receive("b", AppendResponse(term=2, accepted=False, index=3, hint_index=1, hint_term=0))
        bench.receive("c", PreVoteResponse(term=2, granted=False))
        assert bench.log_terms == [0, 1, 1, 2]


class TestOrderOfDiskAndNetwork:
    """What `Ready` promises: nothing leaves that a crash could take back."""

    def test_a_vote_request_waits_for_the_own_vote(self) -> None:
        bench = Bench()
        bench.time_out()
        bench.raft.receive("b", PreVoteResponse(term=1, granted=True), bench.now)
        ready = bench.take()
        assert not of([(envelope.to, envelope.message) for envelope in ready.send_now], Vote)
        assert len(ready.send_after_persist) == 2
        assert ready.persist is not None

    def test_a_granted_vote_waits_for_the_disk(self) -> None:
        bench = Bench()
        bench.raft.receive("b", Vote(term=3, last_index=1, last_term=0), bench.now)
        ready = bench.take()
        assert not ready.send_now
        assert isinstance(ready.send_after_persist[0].message, VoteResponse)
        assert ready.persist is not None
        assert ready.persist.hard_state is not None

    def test_an_acknowledgement_waits_for_the_disk(self) -> None:
        bench = Bench(term=1)
        message = Append(term=1, prev_index=1, prev_term=0, commit=1, entries=log_of(1, first=2))
        bench.raft.receive("b", message, bench.now)
        ready = bench.take()
        assert not ready.send_now
        assert isinstance(ready.send_after_persist[0].message, AppendResponse)

    def test_an_election_is_won_only_with_the_own_vote_on_disk(self) -> None:
        bench = Bench(voters=("a",))
        bench.raft.on_deadline(bench.now)
        ready = bench.take()
        assert not bench.raft.is_leader
        bench.raft.advance(ready, bench.now)
        assert bench.raft.role is Role.LEADER

    def test_an_earlier_write_that_ends_does_not_bring_the_own_vote(self) -> None:
        bench = Bench(voters=("a",))
        bench.raft.receive("b", Vote(term=3, last_index=0, last_term=0), bench.now)
        earlier = bench.take()
        bench.raft.on_deadline(bench.now)
        bench.raft.advance(earlier, bench.now)
        assert (bench.raft.role, bench.raft.term) == (Role.CANDIDATE, 4)
        bench.settle()
        assert bench.raft.role is Role.LEADER

    def test_only_what_is_on_disk_is_handed_out_for_applying(self) -> None:
        bench = Bench(term=1)
        message = Append(term=1, prev_index=1, prev_term=0, commit=2, entries=log_of(1, first=2))
        bench.raft.receive("b", message, bench.now)
        first = bench.take()
        assert not first.committed
        bench.raft.advance(first, bench.now)
        assert [entry.index for entry in bench.take().committed] == [2]

    def test_one_ready_is_in_flight_and_input_gathers_for_the_next(self) -> None:
        """Group commit: many proposals, one write, one message to each."""
        bench = Bench()
        bench.lead(commit=True)
        bench.raft.propose(b"1", bench.now)
        flight = bench.take()
        for data in (b"2", b"3", b"4"):
            bench.raft.propose(data, bench.now)
        assert not bench.raft.has_ready()
        assert bench.raft.take_ready() is None
        bench.raft.advance(flight, bench.now)
        ready = bench.take()
        assert ready.persist is not None
        assert [entry.data for entry in ready.persist.entries] == [b"2", b"3", b"4"]
        assert len(of([(envelope.to, envelope.message) for envelope in ready.send_now], Append, "b")) == 1

    def test_the_commit_index_is_stored_along_and_never_alone(self) -> None:
        bench = Bench(terms=(0, 1, 1))
        bench.receive("b", Heartbeat(term=1, commit=3, round=1))
        assert bench.raft.applied == 3
        assert not bench.persisted
