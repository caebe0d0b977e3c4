"""Reports, status and events: what the coordinator alone knows, told anew to the next (ARCHITECTURE.md "The way of a
report")."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from agent.host import HostContext, HostObservation, desired
from agent.model.events import Event
from agent.model.instruction import Remove
from agent.model.ledger import AssignEntry, PhaseEntry, encode_entry
from agent.model.report import HostReport, ObservedReplica
from agent.model.stack import PortSpec
from agent.node.chronicle import KEPT_EVENTS
from agent.node.effects import Serve, Unserve
from agent.node.inquiries import STATUS_WAIT_S
from agent.node.local_host import REPORT_EVERY_S
from agent.node.messages import CallFrame, CancelFrame, FollowEvents, FollowLogs, RaftFrame, ReplyFrame, ReportFrame
from agent.raft.messages import AppendResponse, PreVote, Vote, VoteResponse
from tests.node.cluster import ONE_DEPLOY, Cluster, Node, stack
from tests.node.reports import signed_by
from tests.support.hosts import running


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(3)
    cluster.elect()
    return cluster


def reports_by(node: Node) -> list[HostReport]:
    frames = [send.frame for send in node.sent if isinstance(send.frame, ReportFrame)]
    return [msgspec.msgpack.decode(frame.report, type=HostReport) for frame in frames]


def obeying(cluster: Cluster) -> Cluster:
    """Its hosts run what is wanted of them, from the start."""
    for node in cluster.alive:
        node.obeys = True
        node.up.observed(running(node.desired[-1]), node.when)
    cluster.settle()
    return cluster


def running_with(*replicas: ObservedReplica) -> HostObservation:
    return HostObservation(applied=1, replicas=replicas)


# Reports


def test_a_change_is_told_at_once_and_the_same_now_and_then(cluster: Cluster) -> None:
    follower = cluster.followers[0]
    cluster.run(1.0)
    follower.forget()
    follower.up.observed(HostObservation(applied=1), follower.when)
    cluster.settle()
    assert len(reports_by(follower)) == 1
    cluster.run(REPORT_EVERY_S * 2 + 0.1)
    assert len(reports_by(follower)) == 3


def test_the_next_coordinator_is_told_anew(cluster: Cluster) -> None:
    lost = cluster.elect()
    cluster.run(1.0)
    cluster.crash(lost.name)
    following = cluster.elect()
    assert following.up.coordination.reports.keys() == {node.id for node in cluster.alive}


def test_a_coordinator_that_is_elected_again_is_told_anew(cluster: Cluster) -> None:
    """It forgot everything with its term, though not everybody noticed that another one was in between."""
    coordinator, (other, unaware) = cluster.elect(), cluster.followers
    unheard = (Vote, PreVote, VoteResponse)
    cluster.lost = lambda sender, to, frame: (
        to == unaware.name
        and isinstance(frame, RaftFrame)
        and (sender == other.name or isinstance(frame.message, unheard))
    )
    coordinator.hand_over(other)
    assert not coordinator.up.coordination.reports, "soft state belongs to one coordinator's time"
    other.hand_over(coordinator)
    assert coordinator.up.coordination.reports.keys() == {node.id for node in cluster.alive}


def test_nothing_is_decided_while_a_decision_is_on_its_way(cluster: Cluster) -> None:
    coordinator = cluster.elect()
    for node in cluster.alive:
        node.up.observed(running(node.desired[-1]), node.when)
    cluster.lost = lambda sender, to, frame: isinstance(frame, RaftFrame) and isinstance(frame.message, AppendResponse)
    raft = coordinator.up.context.raft
    before = raft.last_index
    stuck = [node.deploy(name) for node, name in ((coordinator, "shop"), (cluster.followers[0], "blog"))]
    assert raft.last_index == before + len(stuck)
    cluster.lost = lambda sender, to, frame: False
    cluster.until(lambda: coordinator.up.context.state.assignments)
    cluster.lost = lambda sender, to, frame: isinstance(frame, RaftFrame) and isinstance(frame.message, AppendResponse)
    for node in cluster.alive:
        node.obeys = True
        node.up.observed(running(node.desired[-1]), node.when)
    cluster.run(0.1)
    decided = raft.last_index
    for _ in range(30):
        cluster.run(0.1)
        follower = cluster.followers[0]
        follower.up.observed(running(follower.desired[-1], busy_ports=()), follower.when)
        cluster.settle()
    assert raft.last_index == decided


def test_a_report_for_another_host_is_dropped(cluster: Cluster) -> None:
    coordinator, (one, other) = cluster.elect(), cluster.followers
    cluster.run(1.0)
    true = coordinator.up.coordination.reports[other.id]
    lie = replace(true, sequence=10_000, agent_version="lie")
    coordinator.up.frame(one.id, signed_by(one, lie), coordinator.when)
    assert coordinator.up.coordination.reports[other.id] == true
    assert coordinator.up.drops["report_for_another"] == 1


@pytest.mark.parametrize(
    ("boot", "sequence", "taken"), [(1, 0, False), (1, 1, False), (1, 99, True), (2, 1, True), (0, 1, True)]
)
def test_a_late_report_is_older_than_what_is_known(cluster: Cluster, boot: int, sequence: int, taken: bool) -> None:
    coordinator, follower = cluster.elect(), cluster.followers[0]
    cluster.run(1.0)
    known = coordinator.up.coordination.reports[follower.id]
    late = replace(known, boot=boot, sequence=sequence, agent_version="later")
    coordinator.up.frame(follower.id, signed_by(follower, late), coordinator.when)
    assert (coordinator.up.coordination.reports[follower.id] == late) is taken


def test_whoever_doesnt_coordinate_keeps_no_reports(cluster: Cluster) -> None:
    one, other = cluster.followers
    one.up.frame(other.id, signed_by(other, cluster.elect().up.coordination.reports[other.id]), one.when)
    assert not one.up.coordination.reports


def test_replicas_run_where_the_coordinator_puts_them(cluster: Cluster) -> None:
    follower = obeying(cluster).followers[0]
    follower.deploy()
    cluster.until(lambda: follower.up.context.state.stacks["shop"].phase == "healthy")
    status = follower.status(follower.ask_status())
    assert status.health_score == 100.0
    (replica,) = status.stacks[0].services[0].replicas
    assert replica.state == "healthy"
    assert cluster.n(replica.host).desired[-1].desired.specs


def test_a_catch_up_asks_the_host_once_for_what_it_ends_at(cluster: Cluster) -> None:
    """Not for every deployment of the past on the way there."""
    away = cluster.followers[0]
    cluster.crash(away.name)
    cluster.elect()
    away.obeys, at = True, cluster.alive[0]
    for name in ("one", "two", "three"):
        assert cluster.instruct("deploy", f"stack:{name}", stack(name), at=at.name).outcome == "applied"
    away.desired.clear()
    cluster.start(away.name)
    cluster.run(1.0)
    assert len(away.desired) <= 3
    up, reports = away.up.context, cluster.elect().up.coordination.reports
    assert away.desired[-1].desired == desired(up.state, away.id, HostContext(address=away.member.address))
    moved = max(stack.moved_index for stack in up.state.stacks.values())
    cluster.until(lambda: reports[away.id].applied >= moved, within_s=REPORT_EVERY_S + 0.1)


def test_what_changes_nothing_on_a_host_is_neither_asked_of_it_nor_told_at_once(cluster: Cluster) -> None:
    away, coordinator = obeying(cluster).followers[0], cluster.elect()
    cluster.run(REPORT_EVERY_S)
    away.desired.clear()
    away.forget()
    pinned = stack("shop", web=replace(ONE_DEPLOY, host=coordinator.name))
    assert cluster.instruct("deploy", "stack:shop", pinned).outcome == "applied"
    cluster.until(lambda: away.up.context.state.stacks["shop"].phase == "healthy", within_s=2.0)
    assert away.desired == []
    cluster.run(REPORT_EVERY_S + 0.1)
    assert len(reports_by(away)) <= 2, "now and then"
    assert coordinator.up.coordination.reports[away.id].applied >= away.up.context.state.stacks["shop"].moved_index


def test_a_host_that_a_stacks_move_leaves_as_it_is_tells_at_once_that_it_is_that_far() -> None:
    """One that the stack's other replica was on is expelled: nobody asks this host for anything, and it is awaited."""
    cluster = Cluster(4)
    cluster.elect()
    obeying(cluster)
    assert (
        cluster.instruct("deploy", "stack:shop", stack("shop", web=replace(ONE_DEPLOY, replicas=4))).outcome
        == "applied"
    )
    cluster.until(lambda: cluster.elect().up.context.state.stacks["shop"].phase == "healthy", within_s=3.0)
    coordinator = cluster.elect()
    gone, stays = cluster.followers[:2]
    assert cluster.expel(gone.name, at=coordinator.name).outcome == "applied"
    moved = coordinator.up.context.state.stacks["shop"].moved_index
    reports = coordinator.up.coordination.reports
    cluster.until(lambda: reports[stays.id].applied >= moved, within_s=0.5)


def test_a_removal_with_volumes_waits_for_no_host_that_has_known_of_it_for_long() -> None:
    """Each replica that is let go moves the stack, and any host may have volumes of an earlier one."""
    cluster = Cluster(4)
    cluster.elect()
    coordinator = obeying(cluster).elect()
    shop = stack("shop", web=replace(ONE_DEPLOY, replicas=3))
    assert cluster.instruct("deploy", "stack:shop", shop).outcome == "applied"
    state = coordinator.up.context
    cluster.until(lambda: state.state.stacks["shop"].phase == "healthy", within_s=3.0)
    cluster.run(REPORT_EVERY_S)
    hosts = {assignment.host for assignment in state.state.assignments.values()}
    slow = next(node for node in cluster.followers if node.id in hosts)
    slow.obeys = False
    assert cluster.instruct("remove", "stack:shop", Remove(delete_volumes=True), rev=2).outcome == "applied"
    cluster.until(lambda: len(state.state.assignments) == 1, within_s=1.0)
    slow.up.observed(running(slow.desired[-1]), slow.when)
    cluster.until(lambda: not state.state.stacks, within_s=1.0)


# Status


def test_every_agent_tells_the_coordinators_status(cluster: Cluster) -> None:
    coordinator = cluster.elect()
    for node in cluster.alive:
        status = node.status(node.ask_status())
        assert status.answered_by.id == coordinator.id
        assert not status.stale
        assert status.coordinator is not None
        assert (status.quorum.voters, status.quorum.reachable) == (3, 3)


def test_without_a_coordinator_an_agent_tells_what_it_sees_and_that_it_is_stale(cluster: Cluster) -> None:
    cluster.cut("n1")
    cluster.run(3.0)
    status = cluster.n("n1").status(cluster.n("n1").ask_status())
    assert (status.answered_by.name, status.stale, status.coordinator) == ("n1", True, None)


def test_who_is_cut_off_still_knows_itself_and_takes_nobody_else_for_unhealthy(cluster: Cluster) -> None:
    for node in cluster.alive:
        node.obeys = True
        node.up.observed(running(node.desired[-1]), node.when)
    shop = stack(web=replace(ONE_DEPLOY, replicas=3))
    cluster.instruct("deploy", "stack:shop", shop)
    cluster.until(lambda: cluster.n("n1").up.context.state.stacks["shop"].phase == "healthy")
    cluster.cut("n1")
    cluster.run(20.0)
    status = cluster.n("n1").status(cluster.n("n1").ask_status())
    mine = status.hosts[0]
    assert (mine.name, mine.fit, mine.reasons) == ("n1", True, ())
    (web,) = status.stacks[0].services
    assert {each.host: each.state for each in web.replicas} == {"n1": "healthy", "n2": "unknown", "n3": "unknown"}
    assert (web.healthy, web.unknown, status.health_score) == (1, 2, 100.0)


def test_it_is_told_that_main_reaches_its_workers(cluster: Cluster) -> None:
    """docs/seed.md "Phases 2 and 3"."""
    for node in cluster.alive:
        node.obeys = True
        node.up.observed(running(node.desired[-1]), node.when)
    part = replace(ONE_DEPLOY, ports=(PortSpec(host_port=8443, container_port=8443),))
    shop = stack(
        main=replace(part, role="main", host="n2"),
        job=replace(part, role="worker", replicas=2),
        other=replace(ONE_DEPLOY, role="worker"),
    )
    cluster.instruct("deploy", "stack:shop", shop)
    coordinator = cluster.elect()
    cluster.until(lambda: coordinator.up.context.state.stacks["shop"].phase == "healthy")
    told = [event for event in coordinator.up.chronicle.recent if event.state == "registered"]
    assert [(event.what, event.host, event.service, event.revision) for event in told] == [
        ("shop/job (2 replicas) is registered with main on n2", "n2", "job", 1)
    ]


def test_a_coordinator_that_doesnt_answer_isnt_waited_for_long(cluster: Cluster) -> None:
    follower, coordinator = cluster.followers[0], cluster.elect()
    cluster.lost = lambda sender, to, frame: sender == coordinator.name and isinstance(frame, ReplyFrame)
    request = follower.ask_status()
    assert request not in follower.answers
    cluster.run(STATUS_WAIT_S)
    status = follower.status(request)
    assert (status.answered_by.name, status.stale) == (follower.name, True)
    cluster.lost = lambda sender, to, frame: False
    cluster.run(1.0)  # the late answer is nobody's


def test_a_coordinator_lost_over_the_question_is_answered_for(cluster: Cluster) -> None:
    follower, coordinator = cluster.followers[0], cluster.elect()
    cluster.lost = lambda sender, to, frame: isinstance(frame, CallFrame)
    request = follower.ask_status()
    cluster.crash(coordinator.name)
    assert follower.status(request).stale


def test_a_silent_host_is_dead_after_a_while(cluster: Cluster) -> None:
    lost = cluster.followers[0]
    cluster.crash(lost.name)
    cluster.run(20.0)
    node = cluster.elect()
    assert {host.name: host.state for host in node.status(node.ask_status()).hosts}[lost.name] == "dead"


def test_a_host_that_left_isnt_called_dead(cluster: Cluster) -> None:
    leaving = cluster.followers[0]
    leaving.up.leave(leaving.when)
    cluster.settle()
    cluster.crash(leaving.name)
    cluster.run(2.0)
    node = cluster.elect()
    assert {host.name: host.state for host in node.status(node.ask_status()).hosts}[leaving.name] == "left"


# Events


def listening(cluster: Cluster, node: Node) -> list[Event]:
    node.up.listen(True)
    cluster.settle()
    node.forget()
    return node.events


def test_a_listener_at_any_agent_hears_what_the_coordinator_tells(cluster: Cluster) -> None:
    heard = [listening(cluster, node) for node in cluster.alive]
    cluster.followers[0].deploy()
    cluster.run(0.5)
    for events in heard:
        (event,) = [event for event in events if event.kind == "instruction"]
        assert event.what == "ann deployed stack:shop, revision 1"
        assert (event.stack, event.revision, event.by, event.state) == ("shop", 1, "ann", "applied")


def test_an_expulsion_is_told_with_the_name_that_the_host_had(cluster: Cluster) -> None:
    coordinator = cluster.elect()
    heard, gone = listening(cluster, coordinator), cluster.followers[0]
    cluster.expel(gone.name, at=coordinator.name)
    cluster.run(0.5)
    told = [(event.what, event.host) for event in heard if event.kind == "instruction"]
    assert told == [(f"ann expelled host {gone.name}, revision 1", gone.name)]


def test_what_the_coordinator_planned_and_the_ledger_did_not_take_is_told_with_why(cluster: Cluster) -> None:
    coordinator = cluster.elect()
    coordinator.deploy()
    cluster.run(0.5)
    events = listening(cluster, coordinator)
    for entry in (
        AssignEntry(at=coordinator.when.wall_ms, stack="shop", revision=7),
        PhaseEntry(at=coordinator.when.wall_ms, stack="shop", revision=7, phase="healthy"),
    ):
        coordinator.up.context.raft.propose(encode_entry(entry), cluster.now)
    cluster.run(0.5)
    why = "the coordinator's plan changed nothing: planned from revision 7 of shop, which is at 1"
    told = [(event.kind, event.stack, event.what) for event in events if "changed nothing" in event.what]
    assert told == [("assignment", "shop", why), ("phase", "shop", why)]


def test_each_agent_numbers_its_events_itself_without_a_gap(cluster: Cluster) -> None:
    follower = cluster.followers[0]
    follower.up.listen(True)
    follower.deploy()
    follower.deploy("blog")
    cluster.run(1.0)
    numbers = [event.id for event in follower.up.chronicle.recent]
    assert numbers == list(range(1, len(numbers) + 1))


def test_events_from_the_coordinator_get_the_agents_own_numbers(cluster: Cluster) -> None:
    coordinator, follower = cluster.elect(), cluster.followers[0]
    for number in range(10):
        coordinator.up.chronicle.tell(coordinator.when, "host", f"event {number}")
    follower.up.listen(True)
    cluster.settle()
    before = follower.up.chronicle.recent[-1].id
    follower.deploy()
    new = [event for event in follower.up.chronicle.recent if event.id > before]
    assert [event.id for event in new] == list(range(before + 1, before + 1 + len(new)))
    assert new[0].kind == "instruction"


def test_an_agent_without_listeners_follows_nobody(cluster: Cluster) -> None:
    follower = cluster.followers[0]
    listening(cluster, follower)
    follower.up.listen(False)
    cluster.settle()
    assert isinstance(follower.sent[-1].frame, CancelFrame)
    follower.forget()
    follower.deploy()
    cluster.run(0.5)
    assert not [event for event in follower.events if event.kind == "instruction"]
    assert not [s for s in cluster.elect().sent if isinstance(s.frame, CallFrame)]


def test_listeners_follow_from_coordinator_to_coordinator(cluster: Cluster) -> None:
    lost, follower = cluster.elect(), cluster.followers[0]
    events = listening(cluster, follower)
    cluster.crash(lost.name)
    following = cluster.elect()
    cluster.run(0.5)
    assert [event.host for event in events if event.kind == "coordinator"][-1] == following.name
    events.clear()
    other = following if following is not follower else cluster.followers[0]
    other.deploy()
    cluster.run(0.5)
    assert len([event for event in events if event.kind == "instruction"]) == 1


def test_a_lost_follower_is_told_nothing_more(cluster: Cluster) -> None:
    coordinator, follower = cluster.elect(), cluster.followers[0]
    listening(cluster, follower)
    cluster.cut_pair(coordinator.name, follower.name)
    coordinator.forget()
    coordinator.deploy()
    assert not [s for s in coordinator.sent if s.to == follower.id and isinstance(s.frame, ReplyFrame)]


def test_a_peer_is_told_once_however_often_it_asks(cluster: Cluster) -> None:
    coordinator, follower = cluster.elect(), cluster.followers[0]
    for call in range(500, 503):
        coordinator.up.frame(follower.id, CallFrame(id=call, request=FollowEvents()), coordinator.when)
    coordinator.forget()
    coordinator.deploy()
    told = [s for s in coordinator.sent if isinstance(s.frame, ReplyFrame) and s.frame.id in range(500, 503)]
    assert {s.frame.id for s in told if isinstance(s.frame, ReplyFrame)} == {502}


def test_a_replicas_change_is_told_but_not_what_a_new_coordinator_hears_first(cluster: Cluster) -> None:
    coordinator, follower = cluster.elect(), cluster.followers[0]
    cluster.run(1.0)
    events = listening(cluster, coordinator)
    seen = ObservedReplica(
        stack="shop", service="web", slot=1, state="unhealthy", revision=1, spec_hash="", reason="no answer"
    )
    follower.up.observed(running_with(seen), follower.when)
    cluster.settle()
    assert [event.what for event in events] == [f"shop/web.1 on {follower.name} is unhealthy: no answer"]
    follower.up.observed(running_with(replace(seen, restarts=1)), follower.when)
    cluster.settle()
    assert len(events) == 1
    cluster.crash(coordinator.name)
    following = cluster.elect()
    assert not [event for event in following.events if event.kind == "replica"]


def test_only_the_newest_events_are_kept(cluster: Cluster) -> None:
    node = cluster.n("n1")
    for number in range(KEPT_EVENTS + 5):
        node.up.chronicle.tell(node.when, "host", f"event {number}")
    assert len(node.up.chronicle.recent) == KEPT_EVENTS
    assert node.up.chronicle.recent[-1].what == f"event {KEPT_EVENTS + 4}"


# What the host behind the core answers


def test_a_peers_question_to_the_host_goes_on_and_ends_with_its_cancel_or_its_link(cluster: Cluster) -> None:
    node, peer = cluster.followers
    asked = FollowLogs(stack="shop", service="web", slot=1)
    for call in (7, 8):
        node.up.frame(peer.id, CallFrame(id=call, request=asked), node.when)
    node.up.frame(peer.id, CancelFrame(id=7), node.when)
    cluster.settle()
    cluster.cut_pair(node.name, peer.name)
    assert node.served == [
        Serve(peer=peer.id, call=7, request=asked),
        Serve(peer=peer.id, call=8, request=asked),
        Unserve(peer=peer.id, call=7),
        Unserve(peer=peer.id),
    ]
