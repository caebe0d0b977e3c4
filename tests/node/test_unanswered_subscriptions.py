"""An observer whose subscription meets silence asks again (ARCHITECTURE.md "Membership and links")."""

from __future__ import annotations

from agent.model.instruction import Enrol
from tests.node.cluster import Cluster
from tests.support.ledger import member


def test_an_agent_that_asked_for_the_ledger_before_it_was_a_member_gets_it_once_it_is_one() -> None:
    cluster = Cluster(3)
    cluster.elect()
    entry = member("n9")
    newcomer = cluster.add(entry)
    cluster.start("n9")
    cluster.run(1.0)
    assert newcomer.up.context.state.index == 1
    assert cluster.instruct("enrol", f"member:{newcomer.id}", Enrol(member=entry)).outcome == "applied"
    cluster.run(5.0)
    assert newcomer.id in newcomer.up.context.state.members
