"""Who is dead for scheduling: dead in SWIM and no voter has that host's stream (ARCHITECTURE.md "Membership and
links")."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.control import HostFacts, Sighting, Watch, cluster_facts
from agent.control.failure import AWAIT_REPORT_S, LEFT_GRACE_S, NEW_COORDINATOR_GRACE_S, TOLD_S
from agent.model.report import HostReport
from agent.model.status import HostState
from tests.control.world import report

ME, VOTER, HOST = "me", "voter", "host"
LONG = 1000.0


def look(
    state: HostState | None,
    *,
    now: float = LONG,
    since: float = 0.0,
    linked: tuple[str, ...] = (VOTER,),
    reports: dict[str, HostReport] | None = None,
    heard: dict[str, float] | None = None,
    voters: tuple[str, ...] = (ME, VOTER),
    seen_at: float = 0.0,
    drained: tuple[str, ...] = (),
) -> HostFacts:
    watch = Watch(
        coordinator=ME,
        since=since,
        since_ms=7,
        linked=frozenset(linked),
        swim={} if state is None else {HOST: Sighting(state=state, since=seen_at)},
        reports=reports or {},
        heard=heard or {},
    )
    facts = cluster_facts((ME, VOTER, HOST), voters, watch, now, drained=drained)
    assert facts.since_ms == 7
    return facts.hosts[HOST]


def test_dead_in_swim_and_no_stream_is_lost() -> None:
    assert look("dead") == HostFacts(liveness="dead", lost=True)


def test_gossip_alone_never_moves_a_host_that_we_are_linked_with() -> None:
    facts = look("dead", linked=(HOST,))
    assert (facts.liveness, facts.lost) == ("suspect", False)


def test_gossip_alone_never_moves_a_host_that_a_voter_is_linked_with() -> None:
    facts = look("dead", reports={VOTER: report(VOTER, linked=(HOST,))})
    assert not facts.lost


def test_a_voter_that_we_no_longer_hear_vouches_for_nobody() -> None:
    assert look("dead", linked=(), reports={VOTER: report(VOTER, linked=(HOST,))}).lost


def test_an_observer_vouches_for_nobody() -> None:
    assert look("dead", voters=(ME,), reports={VOTER: report(VOTER, linked=(HOST,))}).lost


def test_silence_without_swims_death_is_not_death() -> None:
    for state in ("alive", "suspect", "unknown", None):
        assert not look(state).lost


def test_a_new_coordinator_gives_every_host_a_grace() -> None:
    assert not look("dead", now=NEW_COORDINATOR_GRACE_S - 0.1).lost
    assert look("dead", now=NEW_COORDINATOR_GRACE_S - 0.1).liveness == "suspect"
    assert look("dead", now=NEW_COORDINATOR_GRACE_S).lost


def test_a_clean_stop_is_an_upgrade_until_its_grace_is_over() -> None:
    assert not look("left", now=LONG, seen_at=LONG - LEFT_GRACE_S + 0.1).lost
    assert look("left", now=LONG, seen_at=LONG - LEFT_GRACE_S) == HostFacts(liveness="left", lost=True)


def test_a_linked_host_is_alive_even_before_swim_heard_of_it() -> None:
    assert look(None, linked=(HOST,)).liveness == "alive"


def test_a_host_that_tells_of_itself_through_a_voter_is_alive_though_probes_are_lost() -> None:
    """UDP may be shut between it and us; it has a link with the voter that it follows, and none with us."""
    told = {VOTER: report(VOTER, linked=(HOST,)), HOST: report(HOST)}
    for state in ("suspect", "dead"):
        assert look(state, reports=told, heard={HOST: LONG - TOLD_S}).liveness == "alive"
        assert look(state, reports=told, heard={HOST: LONG - TOLD_S - 0.1}).liveness == "suspect"
    gone = look("dead", reports={HOST: report(HOST)}, heard={HOST: LONG})
    assert gone.lost, "what it told before its link broke says nothing"


def test_a_first_report_is_awaited_for_a_while() -> None:
    early, late = look("alive", now=AWAIT_REPORT_S - 0.1), look("alive", now=AWAIT_REPORT_S)
    told, gone = look("alive", now=1.0, reports={HOST: report(HOST)}), look("dead", now=NEW_COORDINATOR_GRACE_S)
    assert [facts.awaited for facts in (early, late, told, gone)] == [True, False, False, False]


def test_the_coordinator_itself_is_alive() -> None:
    watch = Watch(
        coordinator=ME,
        since=0.0,
        since_ms=0,
        linked=frozenset(),
        swim={ME: Sighting(state="dead", since=0.0)},
        reports={},
    )
    facts = cluster_facts((ME,), (ME,), watch, LONG)
    assert facts.hosts[ME].liveness == "alive"
    assert not facts.hosts[ME].lost


def test_drained_is_passed_on() -> None:
    assert look("alive", drained=(HOST,)).drained


STATES: st.SearchStrategy[HostState] = st.sampled_from(["alive", "suspect", "dead", "left", "unknown"])


@given(st.dictionaries(st.sampled_from("abcdef"), STATES), st.sets(st.sampled_from("abcdef")), st.floats(0, 100))
def test_a_host_with_a_stream_is_never_lost(states: dict[str, HostState], linked: set[str], now: float) -> None:
    watch = Watch(
        coordinator=ME,
        since=0.0,
        since_ms=0,
        linked=frozenset(linked),
        swim={host: Sighting(state=state, since=0.0) for host, state in states.items()},
        reports={},
    )
    facts = cluster_facts("abcdef", (ME,), watch, now)
    assert not any(facts.hosts[host].lost for host in linked)
