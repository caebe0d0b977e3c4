"""Who may say what: members, strangers with a good certificate, and the expelled (docs/security.md "Identity is not
authority")."""

from __future__ import annotations

import pytest

from agent.model.instruction import Enrol, Undrain
from agent.model.report import HostReport
from agent.node.choosing import voter_for
from agent.node.context import Peer
from agent.node.messages import (
    Alive,
    CallFrame,
    CancelFrame,
    FollowEvents,
    FollowLedger,
    FollowLogs,
    Frame,
    GetStatus,
    RaftFrame,
    ReplyFrame,
    Submit,
    SwimFrame,
)
from agent.raft.messages import Append, PreVote, PreVoteResponse, TimeoutNow, Vote
from agent.swim import Ping
from tests.node.cluster import Cluster, Node
from tests.node.reports import signed_by
from tests.support.ledger import member


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(4)
    cluster.elect()
    return cluster


def introduce(cluster: Cluster, node: Node) -> str:
    """A stranger is linked: its certificate is good, and our ledger doesn't name it."""
    stranger = cluster.add(member("n9"))
    node.up.link_up(Peer(id=stranger.id, known=False), node.when)
    cluster.settle()
    node.forget()
    return stranger.id


def report_of(node: Node, host: str, **changes: object) -> HostReport:
    fields = {"host": host, "boot": node.life, "sequence": 10_000, "at": 0, "applied": 1, "agent_version": "x"}
    return HostReport(**(fields | changes))  # type: ignore[arg-type]  # HostReport's


# Strangers


@pytest.mark.parametrize(
    "frame",
    [
        SwimFrame(message=Ping(sequence=1, incarnation=0)),
        CallFrame(id=1, request=GetStatus()),
        CallFrame(id=1, request=FollowEvents()),
        CallFrame(id=1, request=FollowLedger(index=1)),
        CallFrame(id=1, request=FollowLogs(stack="shop", service="web", slot=1)),
        CallFrame(id=1, request=Submit(token="x", body=b"{}")),
        CancelFrame(id=1),
        Alive(),
    ],
    ids=lambda frame: type(getattr(frame, "request", frame)).__name__,
)
def test_a_stranger_gets_no_answer_beside_consensus(cluster: Cluster, frame: Frame) -> None:
    node = cluster.elect()
    stranger = introduce(cluster, node)
    node.up.frame(stranger, frame, node.when)
    assert node.up.drops == {"unknown_member": 1}
    cluster.settle()
    assert not [send for send in node.sent if send.to == stranger]
    assert not node.served


def test_a_strangers_report_is_no_report(cluster: Cluster) -> None:
    node = cluster.elect()
    stranger = introduce(cluster, node)
    node.up.frame(stranger, signed_by(node, report_of(node, stranger)), node.when)
    assert stranger not in node.up.coordination.reports


def test_a_stranger_may_ask_for_a_vote(cluster: Cluster) -> None:
    """Else a returning voter and a new one shut each other out for ever (Raft §4.1)."""
    node = cluster.elect()
    stranger = introduce(cluster, node)
    node.up.frame(stranger, RaftFrame(message=PreVote(term=99, last_index=99, last_term=98)), node.when)
    cluster.settle()
    answers = [s.frame.message for s in node.sent if s.to == stranger and isinstance(s.frame, RaftFrame)]
    assert [type(answer) for answer in answers] == [PreVoteResponse]


def test_a_stranger_that_is_enrolled_is_heard_on_the_same_link(cluster: Cluster) -> None:
    node = cluster.elect()
    stranger = introduce(cluster, node)
    item = cluster.n("n9").member
    result = cluster.instruct("enrol", f"member:{stranger}", Enrol(member=item), at=node.name)
    assert result.outcome == "applied"
    assert node.up.context.peers[stranger].known
    node.up.frame(stranger, CallFrame(id=1, request=GetStatus()), node.when)
    cluster.settle()
    assert [s for s in node.sent if s.to == stranger and isinstance(s.frame, ReplyFrame)]


def test_frames_without_a_link_are_dropped(cluster: Cluster) -> None:
    node = cluster.elect()
    node.up.frame("a" * 26, CallFrame(id=1, request=GetStatus()), node.when)
    assert node.up.drops == {"unlinked": 1}


# The expelled


def test_an_expelled_members_link_is_cut_and_its_frames_are_dropped_before_their_term_is_looked_at(
    cluster: Cluster,
) -> None:
    coordinator = cluster.elect()
    victim = next(node for node in cluster.followers if node.id in coordinator.up.context.raft.configuration.voters)
    agents = [node for node in cluster.alive if node is not victim]
    for node in agents:  # the shell is slow to cut: the core alone must hold
        node.up.context.peers.setdefault(victim.id, Peer(id=victim.id, known=True))
    assert cluster.expel(victim.name, at=coordinator.name).outcome == "applied"
    cluster.run(1.0)
    assert all(victim.id in node.cuts for node in agents if victim.id in node.wanted or node is coordinator)
    term = coordinator.up.context.raft.term
    coordinator.up.link_up(Peer(id=victim.id, known=True), coordinator.when)
    for message in (Vote(term=term + 1000, last_index=99, last_term=99, forced=True), append(term + 1000)):
        coordinator.up.frame(victim.id, RaftFrame(message=message), coordinator.when)
    assert coordinator.up.context.raft.term == term
    assert coordinator.up.context.leads
    assert coordinator.up.drops["expelled"] == 2


def append(term: int) -> Append:
    return Append(term=term, prev_index=1, prev_term=0, commit=1, entries=())


def test_nobody_wants_a_link_with_the_expelled(cluster: Cluster) -> None:
    coordinator = cluster.elect()
    victim = cluster.followers[0]
    assert any(victim.id in node.wanted for node in cluster.alive)
    cluster.expel(victim.name, at=coordinator.name)
    cluster.run(1.0)
    assert not any(victim.id in node.wanted for node in cluster.alive if node is not victim)
    assert not any(cluster.linked(victim.name, other) for other in cluster.nodes if other != victim.name)


def test_an_expelled_coordinator_isnt_wanted_though_it_still_votes(cluster: Cluster) -> None:
    victim = cluster.elect()
    cluster.lost = lambda sender, to, frame: isinstance(frame, RaftFrame) and isinstance(frame.message, TimeoutNow)
    cluster.expel(victim.name, at=victim.name)
    left = [node for node in cluster.alive if node is not victim and victim.id in node.up.context.state.expelled]
    assert left
    for node in left:
        assert victim.id in node.up.context.raft.configuration.voters
        assert victim.id not in node.wanted


def test_an_expelled_voter_leaves_the_voters(cluster: Cluster) -> None:
    coordinator = cluster.elect()
    victim = next(node for node in cluster.followers if node.id in coordinator.up.context.raft.configuration.voters)
    cluster.expel(victim.name, at=coordinator.name)
    cluster.run(3.0)
    assert victim.id not in coordinator.up.context.raft.configuration.voters
    assert coordinator.result(coordinator.deploy()).outcome == "applied"


def test_an_expelled_coordinator_hands_over_and_goes(cluster: Cluster) -> None:
    victim = cluster.elect()
    other = cluster.followers[0]
    assert cluster.expel(victim.name, at=other.name).outcome == "applied"
    left = [node for node in cluster.nodes.values() if node is not victim]

    def led() -> bool:
        lead = other.up.context.leader
        return lead is not None and lead != victim.id

    cluster.until(led)
    cluster.run(5.0)
    assert all(victim.id not in node.up.context.raft.configuration.voters for node in left)
    assert other.result(other.deploy()).outcome == "applied"


def test_a_drained_coordinator_hands_over_and_goes_on_voting(cluster: Cluster) -> None:
    drained = cluster.elect()
    voters = drained.up.context.raft.configuration.voters
    term = drained.up.context.raft.term
    assert cluster.drain(drained.name, at=drained.name).outcome == "applied"

    def led() -> bool:
        return all(node.up.context.leader not in (None, drained.id) for node in cluster.nodes.values())

    cluster.until(led)
    cluster.run(15.0)
    assert led()
    other = cluster.elect()
    assert other.up.context.raft.term == term + 1  # handed over once, and nobody had to wait for a timeout
    assert other.up.context.raft.configuration.voters == voters
    assert drained.result(drained.deploy()).outcome == "applied"


def test_who_coordinates_again_after_a_drain_hands_over_at_once_when_it_is_drained_again(cluster: Cluster) -> None:
    drained = cluster.elect()
    assert cluster.drain(drained.name, at=drained.name).outcome == "applied"
    cluster.until(lambda: cluster.coordinator not in (None, drained))
    other = cluster.elect()
    undrained = cluster.instruct("undrain", f"host:{drained.id}", Undrain(), at=other.name, rev=2)
    assert undrained.outcome == "applied"
    other.hand_over(drained)
    cluster.until(lambda: cluster.coordinator is drained)
    cluster.elect()
    assert cluster.drain(drained.name, at=drained.name, rev=3).outcome == "applied"
    cluster.until(lambda: cluster.coordinator not in (None, drained), within_s=1.0)


def test_who_drains_says_so_by_the_hosts_name(cluster: Cluster) -> None:
    coordinator = cluster.elect()
    drained = cluster.followers[0]
    cluster.drain(drained.name, at=coordinator.name)
    event = next(each for each in reversed(coordinator.up.chronicle.recent) if each.kind == "instruction")
    assert event.what.endswith(f"drained host {drained.name}, revision 1")
    assert event.host == drained.name


def test_an_expelled_id_never_returns(cluster: Cluster) -> None:
    victim = cluster.followers[0]
    at = cluster.elect().name
    cluster.expel(victim.name, at=at)
    again = cluster.instruct("enrol", f"member:{victim.id}", Enrol(member=victim.member), at=at, rev=2)
    assert again.outcome == "refused"


# Newcomers


def test_an_enrolled_host_catches_up_and_is_one_of_all(cluster: Cluster) -> None:
    cluster.n("n1").deploy()
    node = cluster.enrol("n5")
    cluster.run(1.0)
    assert node.up.context.state.index == cluster.elect().up.context.state.index
    assert node.wanted == {node.up.context.followed}
    assert node.id in cluster.elect().up.coordination.reports
    seen = {host.name: host.state for host in node.status(node.ask_status()).hosts}
    assert seen["n5"] == "alive"


def test_every_voter_links_with_every_voter_and_an_observer_with_one_of_them(cluster: Cluster) -> None:
    voters = cluster.elect().up.context.raft.configuration.voters
    for node in cluster.alive:
        if node.id in voters:
            assert node.wanted == set(voters) - {node.id}
        else:
            assert node.wanted == {voter_for(node.id, voters)}


def test_swim_probes_exactly_the_ledgers_members(cluster: Cluster) -> None:
    cluster.enrol("n5")
    cluster.expel(cluster.followers[0].name, at=cluster.elect().name)
    cluster.run(1.0)
    for node in cluster.alive:
        if node.id in node.up.context.state.members:
            assert set(node.up.context.swim.members()) == node.up.context.state.members.keys() - {node.id}
