"""Which way heartbeats go: by datagram only where an answer proved that both directions work."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.net.beats import RETRY_S, TRIES_S, Beats, Ways
from agent.raft import RaftTiming
from agent.raft.messages import Heartbeat, HeartbeatResponse

TIMING = RaftTiming.lan()
BEAT_S = TIMING.heartbeat_s
LATE_S = BEAT_S / 2  # of timers on a busy host, all in all, while a follower waits
BOTH, LINK, DATAGRAM = Ways(link=True, datagram=True), Ways(link=True, datagram=False), Ways(link=False, datagram=True)


class Pair:
    """A leader and a follower, and between them a link that works and datagrams that may not."""

    def __init__(self) -> None:
        self.leader, self.follower = Beats(BEAT_S), Beats(BEAT_S)
        for beats in (self.leader, self.follower):
            beats.linked("peer", 0.0)
        self.now, self.round = 0.0, 0
        self.heard: list[float] = []
        self.ways: list[Ways] = []
        self.answers = 0

    def beat(self, *, there: bool = True, back: bool = True) -> Ways:
        """One heartbeat and what comes of it; whether datagrams pass."""
        self.now += BEAT_S
        self.round += 1
        heartbeat = Heartbeat(term=1, commit=0, round=self.round)
        ways = self.leader.ways("peer", heartbeat, self.now)
        came = [by_datagram for by_datagram, sent in ((True, ways.datagram and there), (False, ways.link)) if sent]
        for by_datagram in came:
            self.follower.came("peer", heartbeat, by_datagram=by_datagram)
            self.heard.append(self.now)
            self._answer(back)
        return ways

    def _answer(self, back: bool) -> None:
        answer = HeartbeatResponse(term=1, round=self.round)
        ways = self.follower.ways("peer", answer, self.now)
        for by_datagram, arrived in ((True, ways.datagram and back), (False, ways.link)):
            if arrived:
                self.leader.came("peer", answer, by_datagram=by_datagram)
                self.answers += 1


def test_once_one_was_answered_by_datagram_the_link_is_left_alone() -> None:
    pair = Pair()
    assert [pair.beat() for _ in range(5)] == [BOTH, *[DATAGRAM] * 4]


@pytest.mark.parametrize("timing", ["lan", "wan", "local"])
def test_when_datagrams_stop_the_link_carries_the_next_before_anybody_loses_patience(timing: str) -> None:
    preset: RaftTiming = getattr(RaftTiming, timing)()
    beats, answered_at = Beats(preset.heartbeat_s), 100.0
    beats.linked("peer", 0.0)
    assert beats.ways("peer", Heartbeat(term=1, commit=0, round=0), answered_at).datagram
    beats.came("peer", HeartbeatResponse(term=1, round=0), by_datagram=True)
    missed = 1
    while not beats.ways(
        "peer", Heartbeat(term=1, commit=0, round=missed), answered_at + missed * preset.heartbeat_s
    ).link:
        missed += 1
    assert missed == 2, "one is lost"
    assert missed * preset.heartbeat_s + preset.heartbeat_s / 2 < preset.election_timeout_min_s


@pytest.mark.parametrize(("there", "back"), [(False, True), (True, False), (False, False)])
def test_where_datagrams_pass_one_way_or_none_every_heartbeat_and_answer_goes_over_the_link(
    there: bool, back: bool
) -> None:
    pair = Pair()
    ways = [pair.beat(there=there, back=back) for _ in range(100)]
    assert all(way.link for way in ways)
    assert pair.answers >= 100
    tries = sum(way.datagram for way in ways)
    assert tries <= TRIES_S / BEAT_S + (100 * BEAT_S - TRIES_S) / RETRY_S + 2, "and datagrams are tried now and then"
    assert [pair.beat() for _ in range(8)][-1] == DATAGRAM, "so that they are found to work again"


def test_a_peer_that_takes_none_gets_none() -> None:
    beats = Beats(BEAT_S)
    heartbeat = Heartbeat(term=1, commit=0, round=1)
    assert beats.ways("peer", heartbeat, 0.0) == LINK
    beats.came("peer", heartbeat, by_datagram=True)  # from before its link went down
    assert beats.ways("peer", HeartbeatResponse(term=1, round=1), 0.0) == LINK


def test_a_new_link_has_to_be_proved_anew() -> None:
    pair = Pair()
    pair.beat()
    pair.leader.unlinked("peer")
    pair.leader.linked("peer", pair.now)
    assert pair.beat().link


def test_an_answer_that_came_over_the_link_proves_nothing() -> None:
    beats = Beats(BEAT_S)
    beats.linked("peer", 0.0)
    beats.ways("peer", Heartbeat(term=1, commit=0, round=1), 0.0)
    beats.came("peer", HeartbeatResponse(term=1, round=1), by_datagram=False)
    assert beats.ways("peer", Heartbeat(term=1, commit=0, round=2), 0.0).link


@pytest.mark.parametrize("late_s", [0.9 * BEAT_S, 2.2 * BEAT_S])
def test_answers_that_come_late_put_no_second_heartbeat_at_risk(late_s: float) -> None:
    """A queue of datagrams delays them, in a flood say; when they stop, the last answers still come."""
    leader, rounds = Beats(BEAT_S), range(1, 9)
    leader.linked("peer", 0.0)
    answers = [(number * BEAT_S + late_s, number) for number in rounds if number <= 4]
    ways = []
    for number in rounds:
        now = number * BEAT_S
        while answers and answers[0][0] <= now:
            _, answered = answers.pop(0)
            leader.came("peer", HeartbeatResponse(term=1, round=answered), by_datagram=True)
        ways.append(leader.ways("peer", Heartbeat(term=1, commit=0, round=number), now))
    assert ways[5:] == [BOTH] * 3


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=10, max_size=200))
def test_whatever_datagrams_get_lost_no_follower_waits_long_enough_for_an_election(
    passes: list[tuple[bool, bool]],
) -> None:
    pair = Pair()
    pair.heard.append(0.0)
    for there, back in passes:
        pair.beat(there=there, back=back)
    gaps = [later - earlier for earlier, later in zip(pair.heard, [*pair.heard[1:], pair.now], strict=True)]
    assert max(gaps) + LATE_S < TIMING.election_timeout_min_s
