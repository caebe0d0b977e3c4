"""An agent that was expelled while it was away: nobody links with it, so it knows what those say who refuse it."""

from __future__ import annotations

import pytest

from agent.model.expulsion import Expulsion
from agent.model.status import Status
from agent.node.context import Peer
from tests.node.cluster import Cluster, Node


@pytest.fixture
def gone() -> Node:
    """Expelled while it was off, and started again: refused by the voters, which it dials."""
    cluster = Cluster(3)
    coordinator = cluster.elect()
    victim = cluster.followers[0]
    cluster.crash(victim.name)
    assert cluster.expel(victim.name, at=coordinator.name).outcome == "applied"
    cluster.run(1.0)
    return cluster.start(victim.name)


def others_of(node: Node) -> list[Node]:
    return [other for other in node.cluster.alive if other is not node]


def asked(node: Node) -> Status:
    return node.status(node.ask_status())


def test_its_status_says_who_refuses_it(gone: Node) -> None:
    names = sorted(node.name for node in others_of(gone))
    (problem,) = asked(gone).problems
    assert problem.what == f"{names[0]} and {names[1]} say that this host was expelled"
    assert gone.up.expelled.keeps_out == Expulsion(told_by=tuple(names))
    assert all(not asked(node).problems for node in others_of(gone))


def test_it_is_news_once() -> None:
    fresh = Cluster(3).elect()
    assert [fresh.up.expelled.told(node.id) for node in others_of(fresh) * 2] == [True, False, False, False]


def test_who_links_with_it_says_so_no_more() -> None:
    node = Cluster(3).elect()
    liar, _ = others_of(node)
    node.up.expelled.told(liar.id)
    assert node.up.expelled.look() == Expulsion(told_by=(liar.name,))
    assert node.up.expelled.keeps_out is None, "it coordinates"
    node.up.link_up(Peer(id=liar.id, known=True), node.when)
    assert node.up.expelled.look() is None


def test_who_hears_it_from_its_own_ledger_knows_by_whom() -> None:
    """One that stores the entry with the others may apply it before it is cut."""
    cluster = Cluster(3)
    coordinator = cluster.elect()
    assert cluster.expel(coordinator.name, at=coordinator.name).outcome == "applied"
    told = coordinator.up.expelled.look()
    assert told is not None
    assert told.is_known
    assert told.by == "ann"
