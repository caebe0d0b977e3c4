"""An instruction's way: from any agent to the coordinator, into the ledger, and its one answer back."""

from __future__ import annotations

import pytest

from agent.instruction import encode_body
from agent.model.instruction import Remove, Scale
from agent.node.effects import Answer
from agent.node.messages import CallFrame, CancelFrame, RaftFrame, ReplyFrame, Submit, Submitted
from agent.node.submissions import (
    ANSWER_DEADLINE_S,
    CLOCK_SKEW_S,
    MAX_PENDING,
    NO_MAJORITY_AFTER_S,
    OWN_APPLY_WAIT_S,
)
from agent.raft.messages import Append, AppendResponse
from tests.node.cluster import Cluster, Node, stack
from tests.support.ledger import START_MS, jti_of


@pytest.fixture
def cluster() -> Cluster:
    """Three agents, one of them coordinating."""
    cluster = Cluster(3)
    cluster.elect()
    return cluster


def deploys_in_ledger(node: Node) -> int:
    """How often anything was admitted for the stack: each applied instruction is one more entry."""
    raft = node.up.context.raft
    return sum(b"instruction" in entry.data for entry in raft.entries_between(1, raft.commit, 1 << 30))


def test_an_instruction_taken_by_a_follower_is_answered_by_the_coordinators_apply(cluster: Cluster) -> None:
    follower = cluster.followers[0]
    result = follower.result(follower.deploy())
    assert (result.outcome, result.target, result.revision, result.repeated) == ("applied", "stack:shop", 1, False)
    assert result.by == "ann"
    cluster.run(1.0)
    assert all("shop" in node.up.context.state.stacks for node in cluster.alive)


def test_an_agent_that_coordinates_answers_without_a_call(cluster: Cluster) -> None:
    coordinator = cluster.elect()
    coordinator.forget()
    assert coordinator.result(coordinator.deploy()).outcome == "applied"
    assert not any(isinstance(send.frame, CallFrame) for send in coordinator.sent)


def test_the_same_again_gets_the_first_answer(cluster: Cluster) -> None:
    follower = cluster.followers[0]
    token, body = cluster.signed("deploy", "stack:shop", stack())
    first = follower.result(follower.submit(token, body))
    again = follower.result(follower.submit(token, body))
    assert again.repeated
    assert (again.outcome, again.index) == ("applied", first.index)


def test_the_same_at_two_agents_at_once_is_applied_once(cluster: Cluster) -> None:
    one, other = cluster.followers
    token, body = cluster.signed("deploy", "stack:shop", stack())
    cluster.n(one.name).up.submit(7, token, body, one.when)
    cluster.n(other.name).up.submit(7, token, body, other.when)
    cluster.settle()
    assert {one.result(7).outcome, other.result(7).outcome} == {"applied"}
    assert one.result(7).index == other.result(7).index


def test_a_second_instruction_for_the_revision_is_a_conflict_that_names_the_first(cluster: Cluster) -> None:
    follower = cluster.followers[0]
    follower.deploy()
    before = deploys_in_ledger(cluster.elect())
    conflict = follower.result(follower.deploy(jti=jti_of("another")))
    assert (conflict.outcome, conflict.by) == ("conflict", "ann")
    assert deploys_in_ledger(cluster.elect()) == before, "a conflict known at admission takes no entry"


def test_what_apply_would_refuse_never_enters_the_ledger(cluster: Cluster) -> None:
    follower = cluster.followers[0]
    last = cluster.elect().up.context.raft.last_index
    refused = follower.result(follower.submit(*cluster.signed("remove", "stack:shop", Remove())))
    assert (refused.outcome, refused.kind) == ("refused", "not-found")
    assert cluster.elect().up.context.raft.last_index == last


def test_a_deposed_coordinator_that_doesnt_know_it_says_no_to_nothing(cluster: Cluster) -> None:
    """Raft §6.4: its state may be older than what others were told already."""
    deposed, (one, other) = cluster.elect(), cluster.followers
    deposed.deploy()
    cluster.lost = lambda sender, to, frame: deposed.name in (sender, to)  # nobody notices by the links
    cluster.run(0.1)
    one.up.context.raft.peer_unlinked(deposed.id, cluster.now)
    other.up.context.raft.peer_unlinked(deposed.id, cluster.now)
    cluster.until(lambda: one.up.context.leads or other.up.context.leads)
    following = one if one.up.context.leads else other
    assert following.result(following.deploy(rev=2, jti=jti_of("second"))).outcome == "applied"
    assert deposed.up.context.leads, "it believes so still"
    third = deposed.deploy(rev=3, jti=jti_of("third"))
    assert third not in deposed.answers, "its own state knows no revision 2"
    cluster.lost = lambda sender, to, frame: False
    cluster.until(lambda: third in deposed.answers)
    assert deposed.result(third).outcome == "applied"


@pytest.mark.parametrize("at", ["the coordinator", "a follower"])
def test_a_forged_token_is_refused_where_it_arrives(cluster: Cluster, at: str) -> None:
    node = cluster.elect() if at == "the coordinator" else cluster.followers[0]
    node.forget()
    token, _ = cluster.signed("deploy", "stack:shop", stack())
    fault = node.fault(node.submit(token, encode_body(stack("other"))))
    assert (fault.kind, fault.status) == ("not-authenticated", 401)
    assert not any(isinstance(send.frame, CallFrame) for send in node.sent)


def test_a_follower_that_applies_it_first_answers_itself(cluster: Cluster) -> None:
    cluster.lost = lambda sender, to, frame: isinstance(frame, ReplyFrame)
    follower = cluster.followers[0]
    request = follower.deploy()
    cluster.until(lambda: request in follower.answers, within_s=1.0)
    assert follower.result(request).outcome == "applied"


def test_whoever_changes_something_through_a_follower_reads_it_there_afterwards(cluster: Cluster) -> None:
    coordinator, follower = cluster.elect(), cluster.followers[0]
    cluster.lost = lambda sender, to, frame: (
        to == follower.name and isinstance(frame, RaftFrame) and isinstance(frame.message, Append)
    )
    request = follower.deploy()
    assert "shop" in coordinator.up.context.state.stacks
    assert request not in follower.answers, "the coordinator has answered, and our own state doesn't have it yet"
    cluster.lost = lambda sender, to, frame: False
    cluster.until(lambda: request in follower.answers, within_s=OWN_APPLY_WAIT_S)
    assert "shop" in follower.up.context.state.stacks
    assert follower.result(request).outcome == "applied"


def test_a_follower_whose_ledger_stays_behind_passes_the_coordinators_answer_on(cluster: Cluster) -> None:
    follower = cluster.followers[0]
    cluster.lost = lambda sender, to, frame: (
        to == follower.name and isinstance(frame, RaftFrame) and isinstance(frame.message, Append)
    )
    request = follower.deploy()
    cluster.until(lambda: request in follower.answers, within_s=OWN_APPLY_WAIT_S + 0.2)
    assert follower.result(request).outcome == "applied"
    assert "shop" not in follower.up.context.state.stacks


# Coordinators that go


def test_an_instruction_whose_coordinator_dies_after_proposing_it_is_answered_once_by_the_next(
    cluster: Cluster,
) -> None:
    lost = cluster.elect()
    follower = cluster.followers[0]
    cluster.lost = lambda sender, to, frame: (sender, to) == (lost.name, follower.name)
    request = follower.deploy()
    assert request not in follower.answers
    assert "shop" in lost.up.context.state.stacks, "it was applied there"
    cluster.lost = lambda sender, to, frame: False
    cluster.crash(lost.name)
    cluster.until(lambda: request in follower.answers)
    assert follower.result(request).outcome == "applied"
    cluster.run(2.0)  # `Cluster` refuses a second answer
    assert deploys_in_ledger(cluster.elect()) == 1


def test_an_instruction_that_died_with_its_coordinator_is_proposed_anew(cluster: Cluster) -> None:
    lost = cluster.elect()
    follower = cluster.followers[0]
    cluster.lost = lambda sender, to, frame: (
        sender == lost.name and isinstance(frame, RaftFrame) and isinstance(frame.message, Append)
    )
    request = follower.deploy()
    assert lost.up.context.raft.last_index > lost.up.context.raft.commit, "proposed, stored nowhere else"
    cluster.lost = lambda sender, to, frame: False
    cluster.crash(lost.name)
    cluster.until(lambda: request in follower.answers)
    result = follower.result(request)
    assert (result.outcome, result.repeated) == ("applied", False)
    cluster.start(lost.name)
    cluster.run(3.0)
    assert len({node.up.context.state.chain for node in cluster.alive}) == 1


def test_a_coordinator_that_loses_its_post_while_it_waits_gets_its_answer_from_the_next(cluster: Cluster) -> None:
    lost = cluster.elect()
    cluster.lost = lambda sender, to, frame: isinstance(frame, RaftFrame) and isinstance(frame.message, AppendResponse)
    request = lost.deploy()
    assert request not in lost.answers
    cluster.cut(lost.name)
    cluster.lost = lambda sender, to, frame: False
    cluster.until(lambda: cluster.coordinator not in (None, lost))
    cluster.mend()
    cluster.until(lambda: request in lost.answers)
    assert lost.result(request).outcome == "applied"


def test_a_new_coordinator_ends_the_wait_for_one_that_hangs(cluster: Cluster) -> None:
    """Its cable is pulled: the link still seems to be there."""
    hung = cluster.elect()
    follower = cluster.followers[0]
    cluster.lost = lambda sender, to, frame: hung.name in (sender, to)
    request = follower.deploy()
    began = cluster.now
    cluster.until(lambda: request in follower.answers)
    assert follower.result(request).outcome == "applied"
    assert cluster.linked(follower.name, hung.name)
    assert cluster.now - began < 2.5, "an election, not the deadline"
    assert any(isinstance(send.frame, CancelFrame) and send.to == hung.id for send in follower.sent)


def test_a_forwarded_instruction_finds_its_way_when_its_receiver_no_longer_coordinates(cluster: Cluster) -> None:
    before = cluster.elect()
    follower = cluster.followers[0]
    before.up.context.raft.transfer_leadership(follower.id, cluster.now)  # proposals are refused from now on
    request = follower.deploy()
    cluster.until(lambda: request in follower.answers)
    assert follower.result(request).outcome == "applied"


# No coordinator


def test_without_a_majority_the_unreachable_hosts_are_named_soon(cluster: Cluster) -> None:
    alone = cluster.n("n1")
    cluster.cut("n1")
    cluster.run(3.0)
    request = alone.deploy()
    began = cluster.now
    cluster.until(lambda: request in alone.answers)
    fault = alone.fault(request)
    assert (fault.kind, fault.where) == ("no-majority", "n1")
    assert "n2, n3 unreachable" in fault.what
    assert cluster.now - began <= NO_MAJORITY_AFTER_S


def test_a_coordinator_cut_off_from_its_majority_says_so_too(cluster: Cluster) -> None:
    alone = cluster.elect()
    cluster.cut(alone.name)
    request = alone.deploy()
    began = cluster.now
    cluster.until(lambda: request in alone.answers)
    assert alone.fault(request).kind == "no-majority"
    assert cluster.now - began <= NO_MAJORITY_AFTER_S + 1.5, "it believes in its majority for an election timeout"


def test_an_election_is_waited_for(cluster: Cluster) -> None:
    lost = cluster.elect()
    follower = cluster.followers[0]
    cluster.crash(lost.name)
    request = follower.deploy()
    assert request not in follower.answers
    cluster.until(lambda: request in follower.answers)
    assert follower.result(request).outcome == "applied"


def test_what_isnt_confirmed_in_time_names_the_jti_to_ask_for(cluster: Cluster) -> None:
    coordinator = cluster.elect()
    cluster.lost = lambda sender, to, frame: isinstance(frame, RaftFrame) and isinstance(frame.message, Append)
    jti = jti_of("slow")
    request = coordinator.deploy(jti=jti)
    began = cluster.now
    cluster.until(lambda: request in coordinator.answers)
    fault = coordinator.fault(request)
    assert (fault.kind, fault.status) == ("timed-out", 504)
    assert jti in fault.fix
    assert cluster.now - began == pytest.approx(ANSWER_DEADLINE_S)


def test_what_was_proposed_before_the_majority_went_may_still_happen_and_the_answer_says_so(cluster: Cluster) -> None:
    """Raft §8: an entry of a lost coordinator can be committed by the next one."""
    coordinator = cluster.elect()
    for node in cluster.followers:
        node.disk_works = False
    jti = jti_of("slow")
    request = coordinator.deploy(jti=jti)
    cluster.until(lambda: request in coordinator.answers)
    fault = coordinator.fault(request)
    assert fault.kind == "no-majority"
    assert "nothing was changed" not in fault.fix
    assert jti in fault.fix
    for node in cluster.followers:
        node.disk_works = True
        cluster.write(node)
    cluster.elect()
    again = coordinator.deploy(jti=jti)
    cluster.until(lambda: again in coordinator.answers)
    assert coordinator.result(again).outcome == "applied"


# Bounds


def test_one_instruction_above_the_bound_is_refused_and_the_others_are_answered(cluster: Cluster) -> None:
    alone = cluster.n("n1")
    cluster.cut("n1")
    cluster.run(3.0)
    token, body = cluster.signed("deploy", "stack:shop", stack())
    for _ in range(MAX_PENDING):
        alone._request += 1
        alone.up.submit(alone._request, token, body, alone.when)
    fault = alone.fault(alone.submit(token, body))
    assert (fault.kind, fault.status) == ("too-many", 429)
    cluster.run(NO_MAJORITY_AFTER_S)
    assert len(alone.answers) == MAX_PENDING + 1


def test_an_origin_that_hangs_up_makes_room(cluster: Cluster) -> None:
    coordinator = cluster.elect()
    follower = cluster.followers[0]
    cluster.lost = lambda sender, to, frame: isinstance(frame, RaftFrame) and isinstance(frame.message, Append)
    token, body = cluster.signed("deploy", "stack:shop", stack())
    for number in range(1, 4):
        call = CallFrame(id=1000 + number, request=Submit(token=token, body=body))
        coordinator.up.frame(follower.id, call, coordinator.when)
    coordinator.up.frame(follower.id, CancelFrame(id=1001), coordinator.when)
    coordinator.forget()
    cluster.run(ANSWER_DEADLINE_S)
    answered = [send.frame.id for send in coordinator.sent if isinstance(send.frame, ReplyFrame)]
    assert answered == [1002, 1003]


def test_a_peer_that_is_gone_is_answered_nothing(cluster: Cluster) -> None:
    coordinator, (follower, _) = cluster.elect(), cluster.followers
    cluster.lost = lambda sender, to, frame: isinstance(frame, RaftFrame) and isinstance(frame.message, Append)
    follower.deploy()
    cluster.cut_pair(coordinator.name, follower.name)
    coordinator.forget()
    cluster.run(ANSWER_DEADLINE_S)
    assert not any(isinstance(send.frame, ReplyFrame) and send.to == follower.id for send in coordinator.sent)


def test_nothing_is_admitted_before_the_coordinator_knows_all_that_was(cluster: Cluster) -> None:
    """Raft §8: a new leader may lack the news of what is committed until an entry of its own term is."""
    cluster.crash(cluster.elect().name)
    cluster.lost = lambda sender, to, frame: isinstance(frame, RaftFrame) and isinstance(frame.message, AppendResponse)
    cluster.until(lambda: any(node.up.context.raft.is_leader for node in cluster.alive))
    leader = next(node for node in cluster.alive if node.up.context.raft.is_leader)
    last = leader.up.context.raft.last_index
    request = leader.deploy()
    cluster.run(0.3)
    assert (leader.up.context.raft.last_index, request in leader.answers) == (last, False)
    cluster.lost = lambda sender, to, frame: False
    cluster.until(lambda: request in leader.answers)
    assert leader.result(request).outcome == "applied"


# Time


def test_exp_counts_at_admission_only(cluster: Cluster) -> None:
    follower = cluster.followers[0]
    token, body = cluster.signed("deploy", "stack:shop", stack(), ttl_s=1)
    assert follower.result(follower.submit(token, body)).outcome == "applied"
    cluster.run(CLOCK_SKEW_S + 5.0)
    again = follower.result(follower.submit(token, body))
    assert (again.outcome, again.repeated) == ("applied", True), "an answer given stays given"
    late = cluster.signed("scale", "stack:shop", Scale(services={"web": 2}), rev=2, now_s=START_MS / 1000, ttl_s=1)
    assert follower.fault(follower.submit(*late)).kind == "not-authenticated"


def test_an_operators_clock_may_be_a_minute_off(cluster: Cluster) -> None:
    follower, now_s = cluster.followers[0], START_MS / 1000 + cluster.now
    ahead = follower.deploy(now_s=now_s + CLOCK_SKEW_S - 1)
    assert follower.result(ahead).outcome == "applied"
    too_far = follower.deploy("blog", now_s=now_s + CLOCK_SKEW_S + 2)
    assert "in the future" in follower.fault(too_far).what


def test_only_the_coordinators_clock_counts(cluster: Cluster) -> None:
    follower = cluster.followers[0]
    follower.skew_ms = 3_600_000
    assert follower.result(follower.deploy()).outcome == "applied"


def test_ledger_time_never_goes_back(cluster: Cluster) -> None:
    coordinator = cluster.elect()
    first = coordinator.result(coordinator.deploy())
    coordinator.skew_ms = -30_000
    second = coordinator.result(coordinator.deploy("blog"))
    assert second.at >= first.at


# Hostile peers


def test_an_answer_nobody_asked_for_is_dropped(cluster: Cluster) -> None:
    follower, other = cluster.followers
    result = follower.result(follower.deploy())
    before = len(follower.answers)
    forged = ReplyFrame(id=4711, reply=Submitted(result=result))
    follower.up.frame(other.id, forged, follower.when)
    assert follower.up.drops["unasked_reply"] == 1
    assert len(follower.answers) == before


def test_another_peer_cant_answer_for_the_coordinator(cluster: Cluster) -> None:
    coordinator = cluster.elect()
    follower, other = cluster.followers
    first = follower.result(follower.deploy())
    cluster.lost = lambda sender, to, frame: (sender, to) == (coordinator.name, follower.name)
    request = follower.deploy("blog")
    call = [send.frame.id for send in follower.sent if isinstance(send.frame, CallFrame)][-1]
    follower.up.frame(other.id, ReplyFrame(id=call, reply=Submitted(result=first)), follower.when)
    assert not any(isinstance(e, Answer) and e.request == request for e in follower.up.take_effects())
    assert follower.up.drops["unasked_reply"] == 1
