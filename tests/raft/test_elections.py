"""Who campaigns when, and who helps: pre-votes, stickiness, links, CheckQuorum (thesis §4.2.3, §6.2, §9.6)."""

from __future__ import annotations

import math
from typing import ClassVar

import pytest

from agent.raft import Configuration, Entry, EntryKind, Message, ProposalDropped, Role, TransferRefused
from agent.raft.messages import (
    Append,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
    PreVote,
    PreVoteResponse,
    TimeoutNow,
    Vote,
    VoteResponse,
)
from tests.raft.bench import Bench, of, only


def following(bench: Bench, leader: str = "b", term: int = 1) -> Bench:
    bench.receive(leader, Heartbeat(term=term, commit=1, round=1))
    return bench


class TestPreVote:
    """Thesis §9.6."""

    def test_asking_moves_nobodys_term(self) -> None:
        """A pre-vote that bumps terms disturbs what it should protect (salt #69087)."""
        asker, asked = Bench(term=3), Bench(term=3)
        sent = asker.time_out()
        request = only(sent, PreVote, "b")
        assert (request.term, asker.raft.term) == (4, 3)
        answer = only(asked.receive("b", request), PreVoteResponse)
        assert answer.granted
        assert (asked.raft.term, asked.raft.role) == (3, Role.FOLLOWER)
        assert not asker.persisted
        assert not asked.persisted

    def test_an_isolated_member_asks_for_ever_in_the_same_term(self) -> None:
        bench = Bench(term=3)
        bench.wait(60.0)
        assert bench.raft.term == 3
        assert len(of(bench.sent, PreVote)) > 60

    def test_it_is_granted_to_many_in_one_term(self) -> None:
        bench = Bench(term=3)
        assert bench.pre_vote_for(4, sender="b").granted
        assert bench.pre_vote_for(4, sender="c").granted

    def test_who_sees_the_leader_refuses_but_not_for_longer_than_the_minimum_timeout(self) -> None:
        bench = following(Bench())
        bench.now += 0.499
        assert not bench.pre_vote_for(2, sender="c").granted
        bench.now += 0.001
        assert bench.pre_vote_for(2, sender="c").granted

    def test_a_leader_with_a_majority_refuses(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        assert not bench.pre_vote_for(2, 9, 9).granted

    def test_a_refusal_by_a_later_term_is_followed(self) -> None:
        """So that a member which was away can ask in the right term next time."""
        bench = Bench(term=3)
        bench.time_out()
        bench.receive("b", PreVoteResponse(term=8, granted=False))
        assert (bench.raft.term, bench.raft.role) == (8, Role.FOLLOWER)

    def test_grants_for_another_term_do_not_count(self) -> None:
        bench = Bench(term=3)
        bench.time_out()
        for late in (3, 5):
            bench.receive("b", PreVoteResponse(term=late, granted=True))
        assert bench.raft.role is Role.PRE_CANDIDATE

    def test_who_gives_its_vote_stops_asking_for_others(self) -> None:
        bench = Bench(term=3)
        bench.time_out()
        assert bench.vote_for(3).granted
        bench.receive("c", PreVoteResponse(term=4, granted=True))
        assert (bench.raft.role, bench.raft.term) == (Role.FOLLOWER, 3)

    def test_refused_by_a_majority_it_waits_a_full_timeout(self) -> None:
        bench = Bench(term=3)
        bench.time_out()
        for voter in ("b", "c"):
            bench.receive(voter, PreVoteResponse(term=3, granted=False))
        assert bench.raft.role is Role.FOLLOWER
        assert bench.raft.deadline() - bench.now >= 0.5


class TestStrangers:
    """A peer that isn't in our configuration: removed, hostile, or a voter whose coming we missed (Raft §4.1)."""

    TERMED: ClassVar = [
        Vote(term=9, last_index=9, last_term=9),
        Vote(term=9, last_index=9, last_term=9, forced=True),
        Heartbeat(term=9, commit=1, round=1),
        Append(term=9, prev_index=1, prev_term=0, commit=1),
        InstallSnapshot(
            term=9, index=5, snapshot_term=1, configuration=Configuration(("x",)), offset=0, total=1, data=b"x"
        ),
        AppendResponse(term=9, accepted=False, index=1),
        HeartbeatResponse(term=9, round=1),
        InstallSnapshotResponse(term=9, index=1, offset=0),
        VoteResponse(term=9, granted=False),
        PreVoteResponse(term=9, granted=False),
        TimeoutNow(term=9),
    ]

    @pytest.mark.parametrize("message", TERMED)
    def test_it_deposes_no_leader_that_is_well(self, message: Message) -> None:
        """Thesis §4.2.3."""
        bench = Bench()
        bench.lead(commit=True)
        assert not bench.receive("x", message)
        assert bench.raft.is_leader
        assert bench.raft.term == 1
        assert bench.raft.dropped["stranger moves the term"] == 1

    @pytest.mark.parametrize("message", TERMED)
    def test_it_takes_no_follower_away_from_a_leader_that_is_well(self, message: Message) -> None:
        bench = following(Bench())
        assert not bench.receive("x", message)
        assert (bench.raft.term, bench.raft.leader) == (1, "b")

    def test_a_voter_that_our_log_does_not_name_yet_gets_our_vote_when_the_leader_is_gone(self) -> None:
        bench = following(Bench())
        bench.now += 0.5
        assert bench.vote_for(2, sender="x").granted

    def test_and_is_followed_and_known_as_soon_as_its_log_names_it(self) -> None:
        bench = following(Bench())
        bench.now += 0.5
        config = Entry(2, 2, EntryKind.CONFIG, Configuration(("a", "b", "x")).encode())
        append = Append(term=2, prev_index=1, prev_term=0, commit=1, entries=(config,))
        assert only(bench.receive("x", append), AppendResponse).accepted
        bench.receive("x", Heartbeat(term=2, commit=1, round=1))
        assert not bench.pre_vote_for(3, 9, 9).granted, "its leadership is protected as anybody's"

    def test_and_leads_us_in_the_term_for_which_we_voted_for_it(self) -> None:
        """It may need us: a vote that doesn't let it lead would elect it in vain, each time anew."""
        bench = following(Bench())
        bench.now += 0.5
        assert bench.vote_for(2, sender="x").granted
        sent = bench.receive("x", Append(term=2, prev_index=1, prev_term=0, commit=1))
        assert only(sent, AppendResponse).accepted
        assert bench.raft.leader == "x"

    def test_nor_puts_our_campaign_off_by_leading_what_it_was_elected_for(self) -> None:
        bench = following(Bench())
        bench.now += 0.5
        assert bench.vote_for(2, sender="x").granted
        due = bench.raft.deadline()
        bench.now += 0.1
        bench.receive("x", Heartbeat(term=2, commit=1, round=1))
        assert bench.raft.deadline() == due

    def test_nor_by_losing_the_link_and_leading_again_and_again(self) -> None:
        bench = following(Bench())
        bench.now += 0.5
        assert bench.vote_for(2, sender="x").granted
        due = bench.raft.deadline()
        while bench.now < due - 0.1:
            bench.now += 0.015
            bench.receive("x", Heartbeat(term=2, commit=1, round=1))
            bench.raft.peer_unlinked("x", bench.now)
            bench.raft.peer_linked("x", bench.now)
        bench.now = due - 0.001
        bench.receive("x", Heartbeat(term=2, commit=1, round=1))
        bench.raft.peer_unlinked("x", bench.now)
        assert bench.raft.deadline() <= due

    def test_it_cannot_thwart_one_election_after_another(self) -> None:
        """A voter heard once every two longest timeouts has time for an election in between."""
        bench = Bench()
        for tenth in range(200):
            bench.wait(0.1)
            bench.receive("x", Vote(term=bench.raft.term + 1, last_index=99, last_term=99))
            bench.receive("x", Heartbeat(term=bench.raft.term, commit=1, round=tenth + 1))
        assert bench.raft.term <= 1 + 20.0 / 2.0
        assert len(of(bench.sent, PreVote)) >= 2 * 10

    def test_what_says_that_it_leads_is_no_reason_to_refuse_a_voter_that_we_know(self) -> None:
        bench = Bench()
        bench.receive("x", Heartbeat(term=1, commit=1, round=1))
        assert bench.raft.leader == "x"
        assert bench.pre_vote_for(2, sender="b").granted
        assert bench.vote_for(2, sender="b").granted

    def test_a_leader_that_we_know_takes_the_place_of_one_that_we_do_not(self) -> None:
        bench = Bench()
        bench.receive("x", Heartbeat(term=1, commit=1, round=1))
        bench.receive("b", Heartbeat(term=1, commit=1, round=1))
        assert bench.raft.leader == "b"
        bench.receive("x", Heartbeat(term=1, commit=1, round=2))
        assert bench.raft.leader == "b"

    def test_it_cannot_keep_a_voter_from_campaigning(self) -> None:
        """Only the one that it silences may have the log that the others need (Raft §5.4.1)."""
        bench = Bench()
        bench.receive("x", Heartbeat(term=1, commit=1, round=1))
        for number in range(100):
            bench.wait(0.02)
            bench.receive("x", Heartbeat(term=1, commit=1, round=number + 2))
        assert of(bench.sent, PreVote)

    def test_a_member_whose_removal_is_not_committed_yet_is_none(self) -> None:
        """Thesis §4.2.2: until then it may be the only one who can commit it."""
        bench = Bench()
        bench.lead(commit=True)
        bench.raft.propose_configuration(Configuration(("a", "b")), bench.now)
        bench.settle()
        bench.receive("c", AppendResponse(term=9, accepted=False, index=1))
        assert bench.raft.term == 9


class TestStickiness:
    """Thesis §4.2.3: a removed or confused member can't depose a leader that is well."""

    def test_a_vote_is_not_even_answered_while_the_leader_is_well(self) -> None:
        bench = following(Bench())
        assert not bench.receive("c", Vote(term=9, last_index=9, last_term=9))
        assert bench.raft.term == 1
        assert bench.raft.dropped["vote asked while the leader is well"] == 1

    def test_a_removed_server_that_keeps_campaigning_disturbs_nobody(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        for term in range(2, 20):
            bench.receive("removed", Vote(term=term, last_index=99, last_term=99))
        assert bench.raft.is_leader
        assert bench.raft.term == 1

    def test_an_election_that_the_leader_asked_for_is_helped(self) -> None:
        """Thesis §3.10."""
        bench = following(Bench())
        assert bench.vote_for(2, sender="c", forced=True).granted

    def test_a_vote_counts_as_contact_and_puts_the_own_campaign_off(self) -> None:
        bench = Bench()
        bench.now = bench.raft.deadline() - 0.001
        bench.vote_for(1)
        assert bench.raft.deadline() - bench.now >= 0.5

    def test_a_refused_vote_does_not(self) -> None:
        bench = Bench(terms=(0, 1))
        deadline = bench.raft.deadline()
        bench.vote_for(5, last_index=1, last_term=0)
        assert bench.raft.deadline() == deadline


class TestLinks:
    """What the shell's links tell is faster than silence."""

    def test_at_term_0_a_member_campaigns_once_linked_to_a_majority(self) -> None:
        bench = Bench(voters=tuple("abcde"))
        bench.raft.peer_linked("b", bench.now)
        assert bench.raft.deadline() - bench.now >= 0.4
        bench.raft.peer_linked("c", bench.now)
        assert bench.raft.deadline() - bench.now <= 0.150

    def test_links_to_others_than_voters_make_no_majority(self) -> None:
        bench = Bench()
        deadline = bench.raft.deadline()
        bench.raft.peer_linked("x", bench.now)
        assert bench.raft.deadline() == deadline

    def test_after_a_restart_it_campaigns_as_soon_as_a_leader_would_have_greeted_it(self) -> None:
        bench = Bench(voters=tuple("abcde"), term=1)
        bench.raft.peer_linked("b", bench.now)
        assert bench.raft.deadline() - bench.now >= 0.4
        bench.raft.peer_linked("c", bench.now)
        assert 0.020 <= bench.raft.deadline() - bench.now <= 0.150

    def test_after_a_restart_the_leaders_greeting_is_reason_enough_to_wait(self) -> None:
        bench = Bench(term=1)
        bench.raft.peer_linked("b", bench.now)
        following(bench)
        assert bench.raft.deadline() - bench.now >= 0.5

    def test_who_has_heard_a_leader_since_its_start_takes_no_link_for_a_reason_to_campaign(self) -> None:
        bench = following(Bench(term=1))
        bench.receive("c", VoteResponse(term=bench.raft.term + 1, granted=False))  # a later term, nobody leads it
        assert bench.raft.leader is None
        deadline = bench.raft.deadline()
        bench.raft.peer_linked("c", bench.now)
        assert bench.raft.deadline() == deadline

    def test_when_the_link_to_the_leader_closes_patience_ends(self) -> None:
        bench = following(Bench())
        bench.raft.peer_unlinked("b", bench.now)
        assert bench.raft.leader is None
        assert 0.020 <= bench.raft.deadline() - bench.now < 0.150
        assert bench.pre_vote_for(2, sender="c").granted

    def test_another_members_link_is_none_of_its_business(self) -> None:
        bench = following(Bench())
        deadline = bench.raft.deadline()
        bench.raft.peer_unlinked("c", bench.now)
        assert (bench.raft.leader, bench.raft.deadline()) == ("b", deadline)

    def test_a_heartbeat_over_the_next_link_restores_trust(self) -> None:
        bench = following(Bench())
        bench.raft.peer_unlinked("b", bench.now)
        following(bench)
        assert bench.raft.leader == "b"
        assert bench.raft.deadline() - bench.now >= 0.5
        assert not bench.pre_vote_for(2, sender="c").granted

    def test_a_tie_after_a_lost_leader_is_broken_quickly_but_not_for_ever(self) -> None:
        bench = following(Bench())
        bench.raft.peer_linked("c", bench.now)
        bench.raft.peer_unlinked("b", bench.now)
        waits = []
        for _ in range(5):
            bench.stand_with("c")
            bench.receive("c", VoteResponse(term=bench.raft.term, granted=False))
            waits.append(bench.raft.deadline() - bench.now)
        assert all(wait < 0.150 for wait in waits[:2])
        assert all(wait >= 0.5 for wait in waits[2:])

    def test_a_campaign_under_way_asks_who_comes_late(self) -> None:
        bench = Bench()
        bench.time_out()
        bench.raft.peer_linked("b", bench.now)
        assert [to for to, message in bench.settle() if isinstance(message, PreVote)] == ["b"]

    def test_a_leader_greets_who_comes_back(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        bench.raft.peer_unlinked("b", bench.now)
        bench.raft.peer_linked("b", bench.now)
        sent = bench.settle()
        assert of(sent, Heartbeat, "b")
        assert only(sent, Append, "b").prev_index == 2


class TestCheckQuorum:
    """Thesis §6.2."""

    def test_a_leader_that_hears_no_majority_steps_down_within_an_election_timeout(self) -> None:
        bench = Bench(voters=tuple("abcde"))
        bench.lead(commit=True)
        bench.wait(0.9)
        assert bench.raft.is_leader
        bench.wait(0.3)
        assert not bench.raft.is_leader
        assert bench.raft.leader is None

    def test_with_a_majority_it_stays(self) -> None:
        bench = Bench(voters=tuple("abcde"))
        bench.lead(commit=True)
        for number in range(40):
            bench.wait(0.1)
            for voter in ("b", "c"):
                bench.receive(voter, HeartbeatResponse(term=1, round=number))
        assert bench.raft.is_leader
        assert bench.raft.active_members(bench.now) == ("a", "b", "c")

    def test_reads_that_nobody_answers_do_not_keep_it_in_office(self) -> None:
        """Each of them begins a round of heartbeats, and puts the next one off."""
        bench = Bench()
        bench.lead(commit=True)
        for number in range(13):
            bench.wait(0.1)
            if bench.raft.is_leader:
                bench.raft.read_index(b"%d" % number, bench.now)
                bench.settle()
        assert not bench.raft.is_leader

    def test_learners_do_not_make_a_majority(self) -> None:
        bench = Bench(learners=("l",))
        bench.lead(commit=True)
        for number in range(20):
            bench.wait(0.1)
            bench.receive("l", HeartbeatResponse(term=1, round=number))
        assert not bench.raft.is_leader

    def test_after_it_stepped_down_it_helps_others_again(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        bench.wait(1.3)
        assert bench.pre_vote_for(2, last_index=2, last_term=1).granted


class TestDiskStall:
    """A disk that hangs must end leadership too, though the timers go on (etcd #13527)."""

    def test_a_leader_whose_disk_hangs_falls_silent_and_steps_down(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        bench.raft.propose(b"x", bench.now)
        bench.take()
        for _ in range(12):
            bench.now += 0.1
            bench.raft.on_deadline(bench.now)
            assert bench.raft.take_ready() is None
        assert not bench.raft.is_leader

    def test_a_member_whose_disk_hangs_does_not_campaign(self) -> None:
        bench = Bench(term=1)
        bench.raft.receive("b", Vote(term=2, last_index=1, last_term=0), bench.now)
        flight = bench.take()
        for _ in range(50):
            bench.now += 0.1
            bench.raft.on_deadline(bench.now)
        hanging = bench.raft.role
        assert hanging is Role.FOLLOWER
        bench.raft.advance(flight, bench.now)
        bench.wait(1.0)
        assert bench.raft.role is Role.PRE_CANDIDATE

    def test_a_write_under_way_is_no_stall(self) -> None:
        bench = following(Bench())
        bench.raft.peer_unlinked("b", bench.now)
        bench.raft.receive("c", Vote(term=2, last_index=0, last_term=0), bench.now)
        bench.take()
        bench.now = bench.raft.deadline()
        bench.raft.on_deadline(bench.now)
        assert bench.raft.role is Role.PRE_CANDIDATE


class TestNonVoters:
    def test_an_observer_never_campaigns(self) -> None:
        bench = Bench(voters=("b", "c", "d"))
        assert bench.raft.deadline() == math.inf
        bench.wait(60.0)
        assert not bench.sent

    def test_a_learner_never_campaigns_not_even_when_told(self) -> None:
        bench = following(Bench(voters=("b", "c"), learners=("a",)))
        assert not bench.receive("b", TimeoutNow(term=1))
        bench.wait(60.0)
        assert bench.raft.role is Role.FOLLOWER
        assert bench.raft.deadline() == math.inf

    def test_a_learner_that_hears_nothing_has_no_leader_any_more(self) -> None:
        """Whoever was removed hears nothing of it from its leader: the shell must be able to tell (thesis §4.2.2)."""
        bench = following(Bench(voters=("b", "c"), learners=("a",)))
        assert bench.raft.leader == "b"
        bench.wait(0.4)
        assert bench.raft.leader == "b"
        bench.wait(1.0)
        assert bench.raft.leader is None

    def test_a_learner_grants_votes_when_asked(self) -> None:
        """It may be a voter already and not know it yet (Raft §4.1)."""
        bench = Bench(voters=("b", "c"), learners=("a",))
        assert bench.pre_vote_for(1).granted
        assert bench.vote_for(1).granted

    def test_a_voter_votes_for_a_candidate_it_does_not_know(self) -> None:
        """Raft §4.1: else a returning voter and a new one shut each other out for ever."""
        assert Bench().vote_for(1, sender="stranger").granted

    def test_a_follower_takes_entries_from_a_leader_it_does_not_know(self) -> None:
        bench = Bench()
        sent = bench.receive("stranger", Append(term=1, prev_index=1, prev_term=0, commit=1))
        assert only(sent, AppendResponse).accepted


class TestTransfer:
    """Thesis §3.10."""

    def test_a_caught_up_voter_is_told_at_once(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        assert bench.raft.transfer_leadership("b", bench.now) == "b"
        assert only(bench.settle(), TimeoutNow).term == 1

    def test_one_that_lags_is_told_once_it_caught_up(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        bench.propose(b"x")
        bench.raft.transfer_leadership("b", bench.now)
        assert not of(bench.settle(), TimeoutNow)
        assert of(bench.accept("b"), TimeoutNow, "b")

    def test_no_proposals_meanwhile_and_they_go_on_when_it_failed(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        bench.raft.transfer_leadership("b", bench.now)
        with pytest.raises(ProposalDropped):
            bench.raft.propose(b"x", bench.now)
        for number in range(11):
            bench.wait(0.1)
            bench.receive("c", HeartbeatResponse(term=1, round=number))
        bench.propose(b"x")

    def test_the_longest_log_is_chosen(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        bench.propose(b"x")
        bench.accept("c")
        assert bench.raft.transfer_leadership(None, bench.now) == "c"

    @pytest.mark.parametrize("to", ["a", "l", "x"])
    def test_only_another_voter_can_take_over(self, to: str) -> None:
        bench = Bench(learners=("l",))
        bench.lead(commit=True)
        with pytest.raises(TransferRefused):
            bench.raft.transfer_leadership(to, bench.now)

    def test_who_is_told_campaigns_at_once_without_pre_votes(self) -> None:
        bench = following(Bench())
        votes = of(bench.receive("b", TimeoutNow(term=1)), Vote)
        assert [(vote.term, vote.forced) for vote in votes] == [(2, True), (2, True)]

    def test_only_the_leader_can_tell(self) -> None:
        bench = following(Bench())
        assert not bench.receive("c", TimeoutNow(term=1))
        assert bench.raft.term == 1
