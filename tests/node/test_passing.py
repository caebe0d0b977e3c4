"""What goes through the voter that a host follows: reports, errands, instructions, questions, events; and what a voter
that lies can't make of it (docs/security.md "What a taken part can do")."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.model.events import Event
from agent.model.report import HostReport
from agent.node.context import Peer
from agent.node.coordination import BEHIND_S, UNREPORTED_S
from agent.node.inquiries import MAX_OPEN_OF_A_PEER
from agent.node.local_host import REPORT_EVERY_S
from agent.node.messages import (
    AskFrame,
    CallFrame,
    FollowEvents,
    Frame,
    GetStatus,
    Ledger,
    ReplyFrame,
    ReportFrame,
    Request,
    Submit,
    Unheard,
)
from agent.node.passing import PASSED_BYTES_AT_ONCE, PASSED_BYTES_PER_S
from agent.node.subscriptions import AVOIDED_S, BLAMELESS_S, SEEK_S, SILENT_S
from agent.swim import MemberState
from tests.node.cluster import ONE_DEPLOY, Cluster, Node, stack
from tests.node.reports import signed_by
from tests.support.hosts import running


class Trio:
    """An observer, the voter that it follows, and a third agent that coordinates; three more voters."""

    def __init__(self) -> None:
        self.cluster = Cluster(6)
        self.cluster.elect()
        (self.observer,) = [n for n in self.cluster.alive if n.id not in n.up.context.raft.configuration.voters]
        followed = self.observer.up.context.followed
        assert followed is not None
        self.voter = self.cluster.by_id(followed)
        self.others = [n for n in self.cluster.alive if n not in (self.observer, self.voter)]
        self.coordinator = self.others[0]
        if self.cluster.elect() is not self.coordinator:
            self.cluster.elect().hand_over(self.coordinator)
        self.cluster.until(lambda: self.observer.up.context.leader == self.coordinator.id)
        self.cluster.run(1.0)
        self.cluster.elect()
        for node in self.cluster.alive:
            node.sent.clear()

    @property
    def known(self) -> HostReport:
        """The observer's report, as the coordinator has it."""
        return self.coordinator.up.coordination.reports[self.observer.id]


@pytest.fixture
def trio() -> Trio:
    return Trio()


def visit(node: Node, peer: Node) -> None:
    """A link that `node` doesn't need."""
    node.up.link_up(Peer(id=peer.id, known=True, boot=peer.disk.starts), node.when)


def frames_to(node: Node, to: Node) -> list[Frame]:
    return [send.frame for send in node.sent if send.to == to.id]


# All goes through the voter


def test_a_report_goes_to_the_coordinator_through_the_voter_that_is_followed(trio: Trio) -> None:
    before = trio.known.sequence
    trio.observer.up.observed(replace(trio.observer.up.observation, applied=99), trio.observer.when)
    trio.cluster.settle()
    assert trio.known.sequence == before + 1
    assert trio.known.applied == 99
    assert not [f for f in frames_to(trio.observer, trio.coordinator) if isinstance(f, ReportFrame)]
    assert [
        f for f in frames_to(trio.voter, trio.coordinator) if isinstance(f, ReportFrame) and f.host == trio.observer.id
    ]


def test_an_instruction_goes_through_the_voter_and_comes_back_applied(trio: Trio) -> None:
    assert trio.observer.result(trio.observer.deploy()).outcome == "applied"
    assert "shop" in trio.observer.up.context.state.stacks
    assert not [f for f in frames_to(trio.observer, trio.coordinator) if isinstance(f, CallFrame)]


def test_the_same_instruction_through_two_voters_applies_once(trio: Trio) -> None:
    """Its voter is lost over it; the next one is asked, and knows the token."""
    trio.cluster.lost = lambda sender, to, frame: to == trio.observer.name and isinstance(frame, ReplyFrame)
    request = trio.observer.deploy()
    assert request not in trio.observer.answers
    trio.cluster.lost = lambda sender, to, frame: False
    trio.cluster.crash(trio.voter.name)
    trio.cluster.until(lambda: request in trio.observer.answers, within_s=2.0)
    result = trio.observer.result(request)
    assert (result.outcome, result.revision) == ("applied", 1)
    assert trio.observer.up.context.followed not in (None, trio.voter.id)


def test_the_status_is_the_coordinators(trio: Trio) -> None:
    status = trio.observer.status(trio.observer.ask_status())
    assert (status.answered_by.id, status.stale) == (trio.coordinator.id, False)
    assert not [f for f in frames_to(trio.observer, trio.coordinator) if isinstance(f, CallFrame)]


def test_a_voter_that_gets_no_answer_lets_the_host_answer_itself(trio: Trio) -> None:
    trio.cluster.lost = lambda sender, to, frame: sender == trio.coordinator.name and isinstance(frame, ReplyFrame)
    request = trio.observer.ask_status()
    trio.cluster.run(1.0)
    assert trio.observer.status(request).stale


def test_events_come_through_the_voter_once(trio: Trio) -> None:
    trio.observer.up.listen(True)
    trio.voter.up.listen(True)
    trio.cluster.settle()
    trio.others[1].deploy()
    trio.cluster.run(0.5)
    for node in (trio.observer, trio.voter):
        assert len(instructions(node.events)) == 1
    trio.observer.up.listen(False)
    trio.voter.up.listen(False)
    trio.cluster.settle()
    trio.voter.forget()
    trio.others[1].deploy("blog")
    trio.cluster.run(0.5)
    assert not instructions(trio.voter.events), "nobody listens any more, and it follows nobody for anybody"


def instructions(events: list[Event]) -> list[Event]:
    return [event for event in events if event.kind == "instruction"]


def test_events_go_on_when_the_followed_voter_comes_to_coordinate_and_resigns(trio: Trio) -> None:
    trio.observer.up.listen(True)
    trio.cluster.settle()
    for following, other in ((trio.voter, trio.coordinator), (trio.coordinator, trio.others[1])):
        trio.cluster.elect().hand_over(following)
        trio.cluster.until(lambda following=following: trio.observer.up.context.leader == following.id)  # type: ignore[misc]  # bound now
        trio.observer.forget()
        other.deploy(f"by-{other.name}")
        trio.cluster.run(0.5)
        assert len(instructions(trio.observer.events)) == 1


def test_errands_reach_a_host_through_its_voter(trio: Trio) -> None:
    assert not trio.cluster.linked(trio.coordinator.name, trio.observer.name)
    for node in trio.cluster.alive:
        node.obeys = True
        node.up.observed(running(node.desired[-1]), node.when)
    trio.cluster.run(1.0)
    service = replace(ONE_DEPLOY, replicas="global")
    trio.coordinator.submit(*trio.cluster.signed("deploy", "stack:shop", stack(web=service)))
    trio.cluster.until(lambda: trio.coordinator.up.context.state.stacks["shop"].phase == "healthy")
    asked = [f for f in frames_to(trio.voter, trio.observer) if isinstance(f, AskFrame)]
    assert asked
    assert {f.host for f in asked} == {trio.observer.id}


def test_a_host_is_seen_alive_through_its_voter_where_udp_is_shut(trio: Trio) -> None:
    trio.cluster.udp_is_shut = True
    trio.cluster.run(60.0)
    assert trio.coordinator.up.context.swim.state_of(trio.observer.id) is MemberState.DEAD
    status = trio.coordinator.status(trio.coordinator.ask_status())
    assert {host.state for host in status.hosts} == {"alive"}
    trio.cluster.crash(trio.observer.name)
    trio.cluster.run(0.1)
    status = trio.coordinator.status(trio.coordinator.ask_status())
    assert {host.name for host in status.hosts if host.state == "dead"} == {trio.observer.name}


# What a lying voter can't


def test_a_host_whose_reports_arent_passed_on_is_asked_for_a_link(trio: Trio) -> None:
    trio.cluster.lost = lambda sender, to, frame: (
        sender == trio.voter.name and isinstance(frame, ReportFrame) and frame.host == trio.observer.id
    )
    trio.observer.up.observed(replace(trio.observer.up.observation, applied=99), trio.observer.when)
    trio.cluster.until(lambda: trio.known.applied == 99, within_s=UNREPORTED_S + SEEK_S)
    trio.observer.up.observed(replace(trio.observer.up.observation, applied=100), trio.observer.when)
    trio.cluster.until(lambda: trio.known.applied == 100, within_s=UNREPORTED_S + 2 * SEEK_S)


def test_a_host_leaves_a_voter_that_passes_nothing_on_and_follows_it_again_much_later(trio: Trio) -> None:
    """Once the coordinator has told it so: to the host all looks well."""
    trio.cluster.lost = lambda sender, to, frame: (
        sender == trio.voter.name and isinstance(frame, ReportFrame) and frame.host == trio.observer.id
    )
    trio.cluster.until(lambda: trio.observer.up.context.followed != trio.voter.id, within_s=UNREPORTED_S + SEEK_S)
    trio.cluster.run(SEEK_S)
    assert trio.observer.up.context.followed not in (None, trio.voter.id)
    assert trio.observer.up.context.leader == trio.coordinator.id
    trio.cluster.lost = lambda sender, to, frame: False
    trio.cluster.run(AVOIDED_S)
    assert trio.observer.up.context.followed == trio.voter.id


def test_a_host_leaves_a_voter_that_keeps_the_ledgers_news_from_it(trio: Trio) -> None:
    """It goes on passing its reports, which say how far the host is."""
    keep_news(trio)
    trio.coordinator.deploy()
    trio.cluster.until(
        lambda: "shop" in trio.observer.up.context.state.stacks, within_s=BEHIND_S + REPORT_EVERY_S + SEEK_S + 1.0
    )
    assert trio.observer.up.context.followed not in (None, trio.voter.id)


def test_a_host_that_is_a_little_behind_follows_its_voter_on(trio: Trio) -> None:
    keep_news(trio)
    trio.coordinator.deploy()
    trio.cluster.run(BEHIND_S - REPORT_EVERY_S)
    assert trio.observer.up.context.followed == trio.voter.id


def test_a_host_whose_version_doesnt_tell_how_far_it_is_isnt_blamed_for_it(trio: Trio) -> None:
    trio.coordinator.up.coordination.report(
        replace(trio.known, sequence=10_000, index=0), trio.voter.id, trio.coordinator.when
    )
    trio.cluster.lost = lambda sender, to, frame: sender == trio.observer.name and isinstance(frame, ReportFrame)
    trio.coordinator.deploy()
    trio.cluster.run(UNREPORTED_S - 1.0)
    assert trio.observer.id in trio.coordinator.up.coordination.reached(trio.coordinator.when)


def keep_news(trio: Trio) -> None:
    """Of the ledger, from the observer; not who coordinates."""
    trio.cluster.lost = lambda sender, to, frame: (
        (sender, to) == (trio.voter.name, trio.observer.name)
        and isinstance(frame, ReplyFrame)
        and isinstance(frame.reply, Ledger)
        and bool(frame.reply.entries)
    )


def test_an_expelled_voter_cant_keep_that_from_who_follows_it(trio: Trio) -> None:
    """It says nothing more at all, and keeps the link."""
    trio.cluster.lost = lambda sender, to, frame: sender == trio.voter.name and isinstance(frame, ReplyFrame)
    trio.cluster.expel(trio.voter.name, at=trio.coordinator.name)
    trio.cluster.until(
        lambda: trio.voter.id in trio.observer.up.context.state.expelled, within_s=UNREPORTED_S + SEEK_S + SILENT_S
    )
    trio.cluster.run(1.0)
    assert trio.observer.up.context.leader == trio.coordinator.id


def test_only_a_voter_can_tell_a_host_that_it_isnt_heard(trio: Trio) -> None:
    other = trio.cluster.enrol("n7")
    trio.cluster.run(BLAMELESS_S)
    visit(trio.observer, other)
    trio.observer.up.frame(other.id, Unheard(), trio.observer.when)
    assert trio.observer.up.context.followed == trio.voter.id
    visit(trio.observer, trio.coordinator)
    trio.observer.up.frame(trio.coordinator.id, Unheard(), trio.observer.when)
    assert trio.observer.up.context.followed is None


def test_a_host_that_was_away_itself_blames_nobody_for_it(trio: Trio) -> None:
    trio.cluster.crash(trio.observer.name)
    trio.cluster.run(UNREPORTED_S + SEEK_S)
    trio.cluster.start(trio.observer.name)
    assert trio.cluster.linked(trio.coordinator.name, trio.observer.name), "the coordinator has dialled it"
    trio.cluster.run(1.0)
    assert trio.observer.up.context.followed == trio.voter.id


@pytest.mark.parametrize(("waits_s", "taken"), [(0.0, False), (UNREPORTED_S, True)])
def test_a_report_of_an_earlier_life_counts_only_where_the_host_isnt_heard(
    trio: Trio, waits_s: float, taken: bool
) -> None:
    """A voter held it back. Of a disk that went back it may be the word: then nothing else comes."""
    before = signed_by(trio.observer, replace(trio.known, agent_version="before"))
    trio.cluster.crash(trio.observer.name)
    trio.cluster.start(trio.observer.name)
    trio.cluster.run(1.0)
    assert trio.known.boot == 2
    trio.cluster.lost = lambda sender, to, frame: isinstance(frame, ReportFrame) and frame.host == trio.observer.id
    trio.cluster.run(waits_s)
    trio.coordinator.up.frame(trio.voter.id, before, trio.coordinator.when)
    assert (trio.known.agent_version == "before") is taken


def test_a_hosts_flood_of_reports_doesnt_fill_the_link_of_its_voter(trio: Trio) -> None:
    flood = replace(signed_by(trio.observer, trio.known), report=bytes(PASSED_BYTES_PER_S // 4))

    def passed_on() -> int:
        for _ in range(100):
            trio.voter.up.frame(trio.observer.id, flood, trio.voter.when)
        trio.voter.sent.clear()
        trio.cluster.settle()
        passed = [f for f in frames_to(trio.voter, trio.coordinator) if isinstance(f, ReportFrame)]
        return sum(len(f.report) for f in passed)

    assert passed_on() <= PASSED_BYTES_AT_ONCE + len(flood.report)
    trio.cluster.run(1.0)
    assert passed_on() <= PASSED_BYTES_PER_S + len(flood.report)
    trio.cluster.run(PASSED_BYTES_AT_ONCE / PASSED_BYTES_PER_S)
    before = trio.known.sequence
    trio.observer.up.observed(replace(trio.observer.up.observation, applied=99), trio.observer.when)
    trio.cluster.settle()
    assert trio.known.sequence == before + 1, "and it is heard afterwards"


def test_one_hosts_questions_leave_room_on_the_link_of_its_voter(trio: Trio) -> None:
    for call in range(900, 950):
        trio.voter.up.frame(trio.observer.id, CallFrame(id=call, request=GetStatus(pass_on=True)), trio.voter.when)
    trio.cluster.settle()
    assert len([f for f in frames_to(trio.voter, trio.coordinator) if isinstance(f, CallFrame)]) == MAX_OPEN_OF_A_PEER
    assert len([f for f in frames_to(trio.voter, trio.observer) if isinstance(f, ReplyFrame) and f.id >= 900]) == 50


def test_an_instruction_finds_another_way_where_the_voter_is_cut_off_itself(trio: Trio) -> None:
    for other in trio.others:
        trio.cluster.cut_pair(trio.voter.name, other.name)
    request = trio.observer.deploy()
    trio.cluster.until(lambda: request in trio.observer.answers)
    assert trio.observer.result(request).outcome == "applied"


def test_a_voter_cant_alter_what_it_passes_on(trio: Trio) -> None:
    lie = replace(trio.known, sequence=10_000, agent_version="lie")
    forged = replace(signed_by(trio.voter, lie), host=trio.observer.id)
    trio.coordinator.up.frame(trio.voter.id, forged, trio.coordinator.when)
    assert trio.known.agent_version != "lie"
    assert trio.coordinator.up.drops == {"report_unsigned": 1}


def test_a_report_signed_for_another_term_isnt_taken(trio: Trio) -> None:
    term = trio.coordinator.up.context.raft.term
    old = signed_by(trio.observer, replace(trio.known, sequence=10_000), term=term - 1)
    trio.coordinator.up.frame(trio.voter.id, old, trio.coordinator.when)
    assert trio.known.sequence < 10_000
    trio.coordinator.up.frame(trio.voter.id, replace(old, term=term), trio.coordinator.when)
    assert trio.known.sequence < 10_000
    assert trio.coordinator.up.drops == {"report_of_another_term": 1, "report_unsigned": 1}


def test_a_report_is_passed_on_by_voters_only(trio: Trio) -> None:
    frame = signed_by(trio.voter, replace(trio.coordinator.up.coordination.reports[trio.voter.id], sequence=10_000))
    visit(trio.coordinator, trio.observer)
    trio.coordinator.up.frame(trio.observer.id, frame, trio.coordinator.when)
    assert trio.coordinator.up.drops == {"report_for_another": 1}


def test_what_was_passed_on_isnt_passed_on_again(trio: Trio) -> None:
    """Two agents that take each other for the coordinator would never end."""
    frame = signed_by(trio.observer, replace(trio.known, sequence=10_000), term=trio.coordinator.up.context.raft.term)
    other = trio.others[1]
    other.up.frame(trio.voter.id, frame, other.when)
    assert other.up.drops == {"report_for_another": 1}
    token, body = trio.cluster.signed("deploy", "stack:shop", stack())
    requests: tuple[Request, ...] = (Submit(token=token, body=body), GetStatus(), FollowEvents())
    for call, request in enumerate(requests, start=900):
        other.forget()
        other.up.frame(trio.voter.id, CallFrame(id=call, request=request), other.when)
        trio.cluster.settle()
        assert not [f for f in frames_to(other, trio.coordinator) if isinstance(f, CallFrame)]


def test_errands_of_who_is_neither_coordinator_nor_followed_are_dropped(trio: Trio) -> None:
    other = trio.others[1]
    visit(trio.observer, other)
    trio.observer.up.frame(other.id, AskFrame(host=trio.observer.id), trio.observer.when)
    trio.voter.up.frame(other.id, AskFrame(host=trio.observer.id), trio.voter.when)
    assert trio.observer.up.drops == trio.voter.up.drops == {"errands_of_another": 1}
    trio.cluster.settle()
    assert not [f for f in frames_to(trio.voter, trio.observer) if isinstance(f, AskFrame)]
