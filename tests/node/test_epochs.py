"""Agents of two epochs: the survivor begins one, and whoever meets it follows once it has seen who signed it."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent import raft
from agent.errors import Conflict, MusterError
from agent.model.instruction import Enrol, Recover
from agent.model.types import AgentId
from agent.node import followers
from agent.node.context import Peer
from agent.node.effects import Send
from agent.node.epochs import LOST_AFTER_S
from agent.node.followers import Parts
from agent.node.messages import CallFrame, FetchBlob, FetchEpoch, FollowLedger, Frame, Ledger, ReplyFrame, Request
from agent.raft import Configuration, Persist
from agent.state import encode_snapshot
from tests.node.cluster import OFTEN, Cluster, Node, stack
from tests.support.ledger import member


def recovery(node: Node) -> Recover:
    return node.up.epochs.look(node.when).beginning()


def recover(node: Node, **how: object) -> None:
    """As the driver does it."""
    token, body = node.cluster.signed("recover", "cluster", recovery(node), **how)  # type: ignore[arg-type]  # `signed`'s
    begun = node.up.epochs.begin(token, body, node.when)
    assert begun.result.outcome == "applied"
    assert (begun.past[-1].index, begun.past[-1].outcome) == (begun.result.index, "applied")
    node.cluster.begin_epoch(node, begun.snapshot)


def lonely(cluster: Cluster, name: str) -> Node:
    """That node, when all others have crashed for so long that they count as lost."""
    for other in list(cluster.nodes):
        if other != name:
            cluster.crash(other)
    cluster.run(LOST_AFTER_S + 2.0)
    return cluster.n(name)


def recovered(cluster: Cluster, name: str) -> Node:
    """That node, the only one that is up, when it coordinates the next epoch."""
    node = lonely(cluster, name)
    recover(node)
    cluster.until(lambda: cluster.coordinator is node)
    return node


def epochs(cluster: Cluster) -> set[int]:
    return {node.up.context.state.epoch for node in cluster.alive}


@pytest.fixture
def cluster() -> Cluster:
    made = Cluster(3)
    made.elect()
    return made


def test_the_survivor_decides_alone_with_all_that_it_had(cluster: Cluster) -> None:
    node = cluster.n("n2")
    assert node.result(node.deploy()).outcome == "applied"
    cluster.run(0.5)
    recover(lonely(cluster, "n2"))
    cluster.until(lambda: cluster.coordinator is node)
    assert node.up.context.raft.configuration == Configuration(voters=(node.id,))
    assert node.up.context.state.stacks.keys() == {"shop"}
    again = node.deploy("next", epoch=2)
    cluster.until(lambda: again in node.answers)
    assert node.result(again).outcome == "applied"


def test_a_token_of_the_epoch_before_is_refused(cluster: Cluster) -> None:
    node = lonely(cluster, "n2")
    token, body = cluster.signed("deploy", "stack:shop", stack())
    recover(node)
    cluster.until(lambda: cluster.coordinator is node)
    assert node.fault(node.submit(token, body)).kind == "not-authenticated"


def test_what_was_never_known_to_be_committed_is_kept(cluster: Cluster) -> None:
    leader = cluster.elect()
    cluster.cut(leader.name)
    request = leader.deploy()
    cluster.run(0.1)
    assert request not in leader.answers
    assert "shop" not in leader.up.context.state.stacks
    node = lonely(cluster, leader.name)
    assert node.up.epochs.look(node.when).committed < node.up.epochs.look(node.when).index
    recover(node)
    assert "shop" in node.up.context.state.stacks


def test_while_somebody_coordinates_or_may_soon_none_begins(cluster: Cluster) -> None:
    node = cluster.n("n2")
    token, body = cluster.signed("recover", "cluster", recovery(node))
    with pytest.raises(Conflict, match="coordinates"):
        node.up.epochs.begin(token, body, node.when)
    cluster.crash("n1")
    cluster.crash("n3")
    cluster.run(LOST_AFTER_S / 2)
    with pytest.raises(Conflict, match="election"):
        node.up.epochs.begin(token, body, node.when)


def test_while_a_snapshot_is_on_its_way_to_the_disk_none_begins_and_how_far_it_reaches_is_told() -> None:
    cluster = Cluster(3, compaction=OFTEN)
    cluster.elect()
    cluster.crash("n2")
    for name in ("one", "two", "three", "four"):
        cluster.instruct("deploy", f"stack:{name}", stack(name), at="n1")
    node = cluster.n("n2")

    def stall_by_then(_sender: str, to: str, frame: Frame) -> bool:
        if to == "n2" and isinstance(frame, ReplyFrame):  # that others vouch for the snapshot that it was offered
            node.disk_works = False
        return False

    cluster.lost = stall_by_then
    cluster.start("n2")
    cluster.run(1.0)
    assert node.up.context.raft.first_index > node.up.context.state.index + 1, "its log begins behind a snapshot"
    lonely(cluster, "n2")
    look = node.up.epochs.look(node.when)
    assert "a snapshot is being loaded" in look.unfit
    raft = node.up.context.raft
    assert (look.term, look.index) == (raft.term, raft.last_index), "it may know most, so nobody else is to begin one"
    token, body = cluster.signed("recover", "cluster", recovery(node))
    with pytest.raises(Conflict, match="a snapshot is being loaded"):
        node.up.epochs.begin(token, body, node.when)
    node.disk_works = True
    cluster.write(node)
    cluster.run(0.5)
    recover(node)
    assert "one" in node.up.context.state.stacks


def test_none_begins_on_a_host_that_its_own_ledger_does_not_name(cluster: Cluster) -> None:
    stranger = cluster.add(member("n9"))
    for name in list(cluster.nodes):
        cluster.crash(name) if name != "n9" else cluster.start(name)
    cluster.run(LOST_AFTER_S + 2.0)
    assert "isn't a member" in stranger.up.epochs.look(stranger.when).unfit


def test_its_ledger_names_it_also_where_it_does_not_know_yet_that_the_entry_counts(cluster: Cluster) -> None:
    one, late = cluster.elect(), cluster.add(member("n9"))
    cluster.instruct("enrol", f"member:{late.id}", Enrol(member=late.member), at=one.name)
    late.disk.write(Persist(entries=tuple(entry for index, entry in sorted(one.disk.log.items()) if index > 1)), 0)
    late.disk.write(Persist(hard_state=one.disk.hard_state), 0)
    for founder in ("n1", "n2", "n3"):
        cluster.crash(founder)
    cluster.start("n9")
    node = lonely(cluster, "n9")
    assert node.id not in node.up.context.state.members
    assert node.up.epochs.look(node.when).unfit == ""
    recover(node)
    cluster.until(lambda: cluster.coordinator is node)


def test_none_begins_without_an_admins_fresh_signature(cluster: Cluster) -> None:
    node = lonely(cluster, "n2")
    for how in ({"by": "nobody"}, {"epoch": 2}, {"now_s": 1.0}, {"rev": 2}):
        with pytest.raises(MusterError):
            recover(node, **how)
    assert node.up.context.state.epoch == 1
    assert node.disk.snapshot is None


@pytest.mark.parametrize("survivor", ["n1", "n2", "n3"])
def test_who_comes_back_follows_and_votes_again(cluster: Cluster, survivor: str) -> None:
    node = recovered(cluster, survivor)
    for name in cluster.nodes.keys() - {survivor}:
        cluster.start(name)
    cluster.until(lambda: epochs(cluster) == {2})
    cluster.until(lambda: len(node.up.context.raft.configuration.voters) == 3, within_s=60.0)
    request = node.deploy(epoch=2)
    cluster.until(lambda: all("shop" in other.up.context.state.stacks for other in cluster.alive))
    assert node.result(request).outcome == "applied"


def test_a_majority_that_lived_on_elsewhere_follows_too(cluster: Cluster) -> None:
    """It was given up too soon: what it took meanwhile ends, as the operator was told."""
    cluster.cut("n2")
    node = cluster.n("n2")
    cluster.run(LOST_AFTER_S + 2.0)
    recover(node)
    others = [cluster.n("n1"), cluster.n("n3")]
    request = others[0].deploy("elsewhere")
    cluster.until(lambda: request in others[0].answers)
    assert others[0].result(request).outcome == "applied"
    cluster.mend()
    cluster.until(lambda: epochs(cluster) == {2})
    cluster.run(3.0)
    assert all("elsewhere" not in other.up.context.state.stacks for other in cluster.alive)
    assert {other.up.context.state.chain for other in cluster.alive} == {node.up.context.state.chain}


def test_a_host_that_is_new_to_the_cluster_starts_at_genesis_and_follows(cluster: Cluster) -> None:
    recovered(cluster, "n1")
    item = member("n4")
    new = cluster.add(item)
    cluster.instruct("enrol", f"member:{item.id}", Enrol(member=item), epoch=2)
    cluster.start("n4")
    cluster.until(lambda: new.up.context.state.epoch == 2)
    cluster.until(lambda: item.id in new.up.context.state.members)


def test_who_asks_before_the_ledger_names_it_is_answered_once_it_does(cluster: Cluster) -> None:
    recovered(cluster, "n1")
    item = member("n4")
    new = cluster.add(item)
    cluster.start("n4")
    cluster.run(1.0)
    assert cluster.linked("n1", "n4")
    assert new.up.context.state.epoch == 1
    cluster.instruct("enrol", f"member:{item.id}", Enrol(member=item), epoch=2)
    cluster.until(lambda: new.up.context.state.epoch == 2)
    cluster.until(lambda: item.id in new.up.context.state.members)


def sent_to(node: Node, peer: AgentId) -> list[Frame]:
    return [effect.frame for effect in node.up.take_effects() if isinstance(effect, Send) and effect.to == peer]


def test_a_stranger_is_given_nothing_and_nothing_but_the_question_is_answered(cluster: Cluster) -> None:
    node = recovered(cluster, "n2")
    stranger, behind = member("n9"), cluster.n("n1").member
    for peer in (stranger, behind):
        node.up.link_up(Peer(id=peer.id, known=peer is behind, epoch=1), node.when)
        requests: tuple[Request, ...] = (FetchEpoch(), FollowLedger(index=1), FetchBlob(digest="0" * 64))
        for call, request in enumerate(requests, 1):
            node.up.frame(peer.id, CallFrame(id=call, request=request), node.when)
        sent = sent_to(node, peer.id)
        answered = [frame.id for frame in sent if isinstance(frame, ReplyFrame)]
        assert answered == ([] if peer is stranger else [1])


def test_a_later_epoch_that_nothing_proves_leads_nobody_away(cluster: Cluster) -> None:
    node, liar = cluster.n("n1"), cluster.n("n3").member
    state = replace(node.up.context.state, epoch=2)
    forged = raft.Snapshot(
        index=state.index, term=9, configuration=Configuration(voters=(liar.id,)), data=encode_snapshot(state)
    )
    node.up.link_down(liar.id, node.when)
    node.up.link_up(Peer(id=liar.id, known=True, epoch=2), node.when)
    asked = sent_to(node, liar.id)
    call = next(frame.id for frame in asked if isinstance(frame, CallFrame) and frame.request == FetchEpoch())
    node.up.frame(liar.id, ReplyFrame(id=call, reply=Ledger(snapshot=Parts().at(forged, 0))), node.when)
    problems = node.up.status(node.when).problems
    assert any("n3 offers epoch 2, which nothing proves" in problem.what and problem.fix for problem in problems)
    assert node.up.context.state.epoch == 1


def test_a_long_proof_comes_in_parts(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(followers, "PART_BYTES", 500)
    recovered(cluster, "n2")
    other = cluster.start("n1")
    cluster.until(lambda: other.up.context.state.epoch == 2)
    assert other.disk.snapshot is not None
    assert len(other.disk.snapshot.data) > 1000
