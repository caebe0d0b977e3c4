"""An agent that was expelled while it was away: nobody links with it, so it knows what those say who refuse it.

The instruction, which they hand along, it can judge by its own ledger; their mere word changes nothing on the host.
"""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from agent.instruction import encode_body, sign_instruction
from agent.model.cluster import Member
from agent.model.expulsion import Expulsion
from agent.model.instruction import Body, Cancel, Enrol, Expel, Grant, Revoke
from agent.model.status import Problem, Status
from agent.node.context import Peer
from agent.node.expelled import Expelled
from agent.state import EXPULSION_LEVEL
from tests.node.cluster import Cluster, Node
from tests.support.ledger import CLUSTER, START_MS, key_of_person, member, operator

LONG_S = 60.0  # many election timeouts


def others_of(node: Node) -> list[Node]:
    return [other for other in node.cluster.alive if other is not node]


def problems(node: Node) -> list[Problem]:
    status = node.status(node.ask_status())
    assert isinstance(status, Status)
    return list(status.problems)


def expelled_while_off(*, level: int) -> Node:
    """A voter with a replica, started again: refused by the others, which it dials. Its ledger knows nothing of it."""
    cluster = Cluster(4)
    coordinator = cluster.elect()
    if level >= EXPULSION_LEVEL:
        cluster.until(lambda: all(node.up.context.state.level >= level for node in cluster.alive))
    victim = next(node for node in cluster.followers if node.id in coordinator.up.context.raft.configuration.voters)
    for node in cluster.alive:
        node.obeys = True
    coordinator.deploy()
    cluster.run(10.0)
    cluster.crash(victim.name)
    reason = Expel(reason="stolen")
    told = cluster.instruct("expel", f"member:{victim.id}", reason, at=coordinator.name)
    assert told.outcome == "applied"
    cluster.run(1.0)
    return cluster.start(victim.name)


@pytest.fixture
def told() -> Node:
    """By those whose ledger kept no instruction for it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agent.state.membership.EXPULSION_LEVEL", EXPULSION_LEVEL + 1)
        return expelled_while_off(level=1)


@pytest.fixture
def shown() -> Node:
    """The instruction, by all of them."""
    return expelled_while_off(level=EXPULSION_LEVEL)


# By word alone


def test_its_status_says_who_refuses_it(told: Node) -> None:
    (problem,) = problems(told)
    assert problem.what.endswith("say that this host was expelled")
    voters = told.up.context.raft.configuration.voters
    assert all(node.name in problem.what for node in others_of(told) if node.id in voters)


def test_a_mere_word_ends_nothing(told: Node) -> None:
    assert not told.up.context.expelled
    told.cluster.run(LONG_S)
    assert not told.up.context.raft._state.retired
    assert told.expelled is None


def test_it_is_news_once() -> None:
    fresh = Cluster(3).elect()
    news = [fresh.up.refused(node.id, "", b"", fresh.when) for node in others_of(fresh) * 2]
    assert [each is not None for each in news] == [True, False, False, False]


def test_who_links_with_it_says_so_no_more() -> None:
    node = Cluster(3).elect()
    liar, _ = others_of(node)
    node.up.refused(liar.id, "", b"", node.when)
    assert node.up.expelled.look() == Expulsion(told_by=(liar.name,))
    assert node.up.expelled.keeps_out is None, "it coordinates"
    node.up.link_up(Peer(id=liar.id, known=True), node.when)
    assert node.up.expelled.look() is None


def test_who_hears_it_from_its_own_ledger_knows_by_whom() -> None:
    """One that stores the entry with the others may apply it before it is cut."""
    cluster = Cluster(3)
    coordinator = cluster.elect()
    assert cluster.expel(coordinator.name, at=coordinator.name).outcome == "applied"
    found = coordinator.up.expelled.look()
    assert found is not None
    assert found.is_known
    assert found.by == "ann"


# By the instruction


def test_it_says_by_whom_and_why(shown: Node) -> None:
    (problem,) = problems(shown)
    assert problem.what.startswith("this host was expelled from the cluster, by ann at 20")
    assert problem.what.endswith("Z: stolen")
    assert shown.expelled == shown.up.expelled.look()


def test_its_replicas_end_and_it_campaigns_no_more(shown: Node) -> None:
    assert shown.desired[-1].desired.specs == ()
    assert shown.desired[-1].desired.delete_volumes_of == frozenset()
    term = shown.up.context.raft.term
    shown.cluster.run(LONG_S)
    assert shown.up.context.raft.term == term


def test_so_it_is_at_its_next_start_whomever_it_reaches(shown: Node) -> None:
    shown.cluster.crash(shown.name)
    shown.cluster.cut(shown.name)
    shown.forget()
    shown.cluster.start(shown.name)
    shown.cluster.run(LONG_S)
    assert [each.desired.specs for each in shown.desired] == [()]
    assert problems(shown)[0].what.endswith("Z: stolen")


def test_three_that_were_a_majority_once_go_on_with_nothing() -> None:
    """None links with anybody else; each would have the others' votes."""
    cluster = Cluster(5)
    cluster.elect()
    cluster.until(lambda: all(node.up.context.state.level >= EXPULSION_LEVEL for node in cluster.alive))
    three = cluster.followers[:3]
    for node in three:
        node.up.context.raft.retire(cluster.now)
    cluster.cut(*(node.name for node in three))
    cluster.run(LONG_S)
    assert not any(node.up.context.raft.is_leader for node in three)


def test_what_it_knew_ends_with_the_epoch(shown: Node) -> None:
    """The next one may have begun from a ledger that nothing of it had got to."""
    known, context = shown.expelled, shown.up.context
    assert known is not None
    assert known.epoch == 1
    context.expelled, context.state = False, replace(context.state, epoch=2)
    later = Expelled(context, known)
    later.begin(shown.when)
    assert later.look() is None
    assert not context.expelled


# What proves nothing


def signed(node: Node, act: Any = "expel", by: str = "ann", rev: int = 1, **how: Any) -> tuple[str, bytes]:
    body: Body = how.pop("body", Expel())
    options: dict[str, Any] = {"target": f"member:{node.id}", "cluster": CLUSTER, "epoch": 1, **how}
    raw = encode_body(body)
    token = sign_instruction(
        key_of_person(by),
        operator_name=how.get("operator_name", by),
        act=act,
        revision=rev,
        body_bytes=raw,
        now_s=START_MS / 1000,
        **{key: value for key, value in options.items() if key != "operator_name"},
    )
    return token, raw


@pytest.fixture
def node() -> Node:
    """A voter that follows; eve may deploy, bob was an admin and is none any more."""
    cluster = Cluster(3)
    at = cluster.elect().name
    cluster.instruct("grant", "operator:eve", Grant(operator=operator("eve", "deploy")), at=at)
    cluster.instruct("grant", "operator:bob", Grant(operator=operator("bob")), at=at)
    cluster.instruct("revoke", "operator:bob", Revoke(), at=at, rev=2)
    cluster.run(1.0)
    return cluster.followers[0]


def refuse(node: Node, token: str, body: bytes) -> Expulsion | None:
    liar = others_of(node)[0]
    node.up.refused(liar.id, token, body, node.when)
    node.cluster.settle()
    return node.up.expelled.look()


def without_coordinator(node: Node) -> None:
    """As it is with who was expelled."""
    node.cluster.cut(node.name)
    node.cluster.until(lambda: node.up.context.leader is None)


def test_the_truth_is_believed(node: Node) -> None:
    without_coordinator(node)
    found = refuse(node, *signed(node))
    assert found is not None
    assert found.is_known
    assert node.up.context.expelled


@pytest.mark.parametrize(
    "how",
    [
        {"by": "mallory"},
        {"by": "mallory", "operator_name": "ann"},
        {"by": "eve"},
        {"by": "bob"},
        {"cluster": "bcdefghijklmnopa"},
        {"epoch": 2},
        {"target": f"member:{member('n9').id}"},
        {"act": "cancel", "body": Cancel()},
    ],
    ids=[
        "nobody's",
        "under another's name",
        "without the scope",
        "no more an operator",
        "another cluster",
        "another epoch",
        "another agent",
        "another act",
    ],
)
def test_a_peer_that_lies_stops_nothing(node: Node, how: dict[str, Any]) -> None:
    without_coordinator(node)
    found = refuse(node, *signed(node, **how))
    assert found is not None
    assert not found.is_known
    assert not node.up.context.expelled


def test_another_body_than_was_signed_stops_nothing(node: Node) -> None:
    without_coordinator(node)
    token, _ = signed(node)
    found = refuse(node, token, encode_body(Expel(reason="another")))
    assert found is not None
    assert not found.is_known


def test_whom_the_members_coordinate_is_one_of_them(node: Node) -> None:
    """The operator signed it, and it was refused, or got to no majority: only a liar shows that."""
    found = refuse(node, *signed(node))
    assert found is not None
    assert not found.is_known
    assert not node.up.context.expelled
    assert node.up.expelled.keeps_out is None


def test_one_whose_revision_another_took_stops_nothing(node: Node) -> None:
    """The host was enrolled anew, or somebody cancelled it."""
    again: Member = node.member
    at = node.cluster.elect().name
    assert node.cluster.instruct("enrol", f"member:{node.id}", Enrol(member=again), at=at).outcome == "applied"
    node.cluster.run(1.0)
    without_coordinator(node)
    found = refuse(node, *signed(node))
    assert found is not None
    assert not found.is_known
    known = refuse(node, *signed(node, rev=2))
    assert known is not None
    assert known.is_known
