"""Changes of members: one voter at a time (Raft §4.1, thesis §4.2; Ongaro, raft-dev, 2015)."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.raft import (
    Configuration,
    ConfigurationRefused,
    Entry,
    EntryKind,
    HardState,
    NotLeader,
    Raft,
    RaftTiming,
    Role,
)
from agent.raft.membership import check_change
from agent.raft.messages import Append, Heartbeat, TimeoutNow, VoteResponse
from agent.raft.quorum import majority
from tests.raft.bench import Bench, log_of, of, only

IDS = st.sampled_from(list("abcdef"))


def change(bench: Bench, *voters: str, learners: tuple[str, ...] = ()) -> int:
    index = bench.raft.propose_configuration(Configuration.of(voters, learners), bench.now)
    bench.settle()
    return index


class TestConfiguration:
    @given(st.sets(IDS, min_size=1), st.sets(IDS))
    def test_it_survives_encoding(self, voters: set[str], learners: set[str]) -> None:
        configuration = Configuration.of(list(voters), list(learners - voters))
        assert Configuration.decode(configuration.encode()) == configuration
        assert configuration.members == tuple(sorted(voters | learners))

    @pytest.mark.parametrize(
        ("voters", "learners"), [((), ()), (("b", "a"), ()), (("a", "a"), ()), (("a",), ("a",)), (("a",), ("c", "b"))]
    )
    def test_what_means_nothing_is_refused(self, voters: tuple[str, ...], learners: tuple[str, ...]) -> None:
        with pytest.raises(ValueError):
            Configuration(voters, learners)

    @pytest.mark.parametrize(
        "data", [b"", b"genesis", b"\x92\x90\x90", b"\x92\x92\xa1b\xa1a\x90", b"\x93\x91\xa1a\x90\x90", b"\x91\x91\xa0"]
    )
    def test_what_cannot_be_read_is_refused(self, data: bytes) -> None:
        with pytest.raises(ValueError):
            Configuration.decode(data)

    @given(st.sets(IDS, min_size=1), st.sets(IDS, min_size=1))
    def test_every_change_let_through_keeps_majorities_meeting(self, before: set[str], after: set[str]) -> None:
        """Raft §4.1, by counting: two majorities meet if they have more members together than there are."""
        try:
            check_change(Configuration.of(list(before)), Configuration.of(list(after)))
        except ConfigurationRefused:
            return
        assert majority(len(before)) + majority(len(after)) > len(before | after)


class TestChanging:
    def test_a_change_is_in_force_as_soon_as_it_is_in_the_log(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        change(bench, "a", "b", "c", "d")
        assert bench.raft.configuration.voters == ("a", "b", "c", "d")
        assert not bench.raft.configuration_committed
        index = bench.raft.last_index
        bench.accept("b")
        assert bench.raft.commit < index, "two of four are no majority"
        bench.accept("d")
        assert bench.raft.commit == index
        assert bench.raft.configuration_committed

    def test_not_before_an_entry_of_the_own_term_is_committed(self) -> None:
        """Ongaro 2015: else two leaders' changes could have majorities that don't meet."""
        bench = Bench()
        bench.lead()
        with pytest.raises(ConfigurationRefused):
            change(bench, "a", "b")
        bench.accept("b")
        change(bench, "a", "b")

    def test_one_change_at_a_time(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        change(bench, "a", "b", "c", "d")
        with pytest.raises(ConfigurationRefused):
            change(bench, "a", "b", "c", "d", "e")
        for voter in ("b", "d"):
            bench.accept(voter)
        change(bench, "a", "b", "c", "d", "e")

    @pytest.mark.parametrize("voters", ["ab", "abcd", "ac", "bc"])
    def test_one_voter_may_come_or_go(self, voters: str) -> None:
        bench = Bench()
        bench.lead(commit=True)
        change(bench, *voters)

    @pytest.mark.parametrize("voters", ["a", "abd", "abcde", "abc"])
    def test_more_or_nothing_may_not(self, voters: str) -> None:
        bench = Bench()
        bench.lead(commit=True)
        with pytest.raises(ConfigurationRefused):
            change(bench, *voters)

    def test_learners_come_and_go_freely_and_get_the_log(self) -> None:
        bench = Bench()
        bench.lead(commit=True)
        change(bench, "a", "b", "c", learners=("x", "y"))
        assert only(bench.sent[-10:], Append, "x").prev_index == 2
        bench.accept("b")
        change(bench, "a", "b", "c", "x", learners=("z",))

    def test_only_a_leader_can(self) -> None:
        bench = Bench()
        with pytest.raises(NotLeader):
            change(bench, "a", "b")

    def test_a_change_that_is_truncated_never_was(self) -> None:
        bench = Bench(terms=(0,), term=1)
        config = Entry(2, 1, EntryKind.CONFIG, Configuration(("a", "b", "c", "d")).encode())
        bench.receive("b", Append(term=1, prev_index=1, prev_term=0, commit=1, entries=(config,)))
        changed = bench.raft.configuration
        assert changed.voters == ("a", "b", "c", "d")
        bench.receive("c", Append(term=2, prev_index=1, prev_term=0, commit=1, entries=log_of(2, first=2)))
        assert bench.raft.configuration.voters == ("a", "b", "c")

    def test_an_unreadable_change_is_dropped_with_its_message(self) -> None:
        bench = Bench()
        config = Entry(2, 1, EntryKind.CONFIG, b"junk")
        assert not bench.receive("b", Append(term=1, prev_index=1, prev_term=0, commit=1, entries=(config,)))
        assert bench.raft.last_index == 1

    def test_after_a_restart_the_log_says_who_is_a_member(self) -> None:
        config = Entry(2, 1, EntryKind.CONFIG, Configuration(("a", "b")).encode())
        raft = Raft(
            id="a",
            timing=RaftTiming.lan(),
            rng=random.Random(1),
            now=0.0,
            hard_state=HardState(1, None),
            log=(*log_of(0), config),
            configuration=Configuration(("a", "b", "c")),
            commit=1,
            applied=1,
        )
        assert raft.configuration.voters == ("a", "b")


class TestRemoval:
    def test_a_leader_that_removes_itself_does_not_count_and_leaves_when_it_is_committed(self) -> None:
        """Thesis §4.2.2."""
        bench = Bench()
        bench.lead(commit=True)
        index = change(bench, "b", "c")
        bench.accept("b")
        assert bench.raft.commit < index, "it doesn't count itself"
        assert bench.raft.is_leader
        sent = bench.accept("c")
        assert bench.raft.commit == index
        assert bench.raft.role is Role.FOLLOWER
        assert of(sent, TimeoutNow)
        assert bench.raft.deadline() == float("inf")

    def test_until_its_removal_is_committed_it_may_have_to_campaign(self) -> None:
        """Thesis §4.2.2, figure 4.6: only it may have the entry that must be committed."""
        bench = Bench(voters=("a", "b"))
        bench.lead(commit=True)
        change(bench, "b")
        bench.receive("b", Heartbeat(term=5, commit=1, round=1))
        bench.stand()
        bench.receive("b", VoteResponse(term=bench.raft.term, granted=True))
        assert bench.raft.is_leader
        bench.accept("b")
        assert bench.raft.role is Role.FOLLOWER
        assert bench.raft.configuration.voters == ("b",)

    def test_of_two_voters_the_living_one_can_remove_the_dead_one(self) -> None:
        """A two-voter group must not be stuck when one dies during its removal."""
        bench = Bench(voters=("a", "b"))
        bench.lead(commit=True)
        index = change(bench, "a")
        assert bench.raft.commit == index
        assert bench.raft.is_leader

    def test_who_is_removed_hears_of_it_once_it_is_committed_and_never_again(self) -> None:
        """Before, it could refuse its vote to those that lack the entry (thesis §4.2.2)."""
        bench = Bench(voters=("a", "b", "c", "d"))
        bench.lead(commit=True)
        bench.accept("c")
        bench.accept("d")
        bench.raft.propose_configuration(Configuration(("a", "b", "c")), bench.now)
        assert not of(bench.settle(), Append, "d")
        sent = bench.accept("b")
        farewell = only(sent, Append, "d")
        assert farewell.entries[-1].index == farewell.commit == bench.raft.commit
        bench.raft.propose(b"later", bench.now)
        assert not of(bench.settle(), Append, "d")

    def test_a_removed_member_that_learns_of_it_stops_campaigning(self) -> None:
        bench = Bench(term=1)
        config = Entry(2, 1, EntryKind.CONFIG, Configuration(("b", "c")).encode())
        bench.receive("b", Append(term=1, prev_index=1, prev_term=0, commit=2, entries=(config,)))
        assert bench.raft.deadline() == float("inf")

    def test_a_promoted_learner_is_patient_first(self) -> None:
        bench = Bench(voters=("b", "c"), learners=("a",))
        bench.now += 60.0
        config = Entry(2, 1, EntryKind.CONFIG, Configuration(("a", "b", "c")).encode())
        bench.receive("b", Append(term=1, prev_index=1, prev_term=0, commit=1, entries=(config,)))
        assert bench.raft.deadline() - bench.now >= 0.5
