"""What `agent doctor` is told of ports that plans prefer and replicas couldn't have."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.model.doctor import WantedPort
from agent.model.ledger import AssignedPort, AssignEntry, Assignment
from agent.model.types import AgentId
from agent.node.driver.checkup import displaced_ports
from tests.support.fake_node import FakeCluster
from tests.support.shop import instruct, shop


@pytest.fixture
def cluster(tmp_path: Path) -> FakeCluster:
    return FakeCluster(tmp_path, "n1", "n2")


def host(cluster: FakeCluster, name: str) -> AgentId:
    return next(member.id for member in cluster.ledger.state.members.values() if member.name == name)


def give(cluster: FakeCluster, slots: dict[int, int]) -> None:
    """The slots of web on n1, each with the host port that it got."""
    state = cluster.ledger.state.stacks["shop"]
    assignments = tuple(
        Assignment(
            stack="shop",
            service="web",
            slot=slot,
            host=host(cluster, "n1"),
            instruction=state.deployed,
            ports=(AssignedPort(container_port=8443, host_port=port),),
        )
        for slot, port in slots.items()
    )
    cluster.ledger.propose(AssignEntry(at=cluster.ledger.now_ms(), stack="shop", revision=1, assign=assignments))


def test_a_service_that_could_not_have_its_port_is_told_once_with_what_it_has(cluster: FakeCluster) -> None:
    instruct(cluster, "deploy", "stack:shop", shop(replicas=2))
    give(cluster, {1: 8444, 2: 8445})
    wanted = WantedPort(replica="shop/web.1", port=8443, given=8444)
    assert displaced_ports(cluster.ledger.state, host(cluster, "n1")) == ((wanted, "tcp"),)
    assert displaced_ports(cluster.ledger.state, host(cluster, "n2")) == ()


def test_a_port_that_one_of_our_replicas_has_is_not_missed_by_others(cluster: FakeCluster) -> None:
    instruct(cluster, "deploy", "stack:shop", shop(replicas=2))
    give(cluster, {1: 8443, 2: 8444})
    assert displaced_ports(cluster.ledger.state, host(cluster, "n1")) == ()
