"""Agents find each other by beacons alone, by mDNS alone, by seeds alone (ARCHITECTURE.md "Membership and links").

The addresses in the genesis lead nowhere here: hosts got others since they were enrolled.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from agent.model.status import Status
from bootstrap.local import LocalCluster
from bootstrap.ports import choose
from tests.loopback.world import wait_status


def moved(cluster: LocalCluster, **config: object) -> LocalCluster:
    """The same hosts on other ports than they were enrolled with."""
    old = cluster.layout
    taken = [old.api_port, old.peer_port]
    addresses = [agent.address for agent in old.agents]
    api = choose(addresses, taken=taken)
    peer = choose(addresses, taken=[*taken, api])
    layout = msgspec.structs.replace(old, api_port=api, peer_port=peer, discovery_port=api)
    elsewhere = LocalCluster(cluster.directory, layout)
    for name in elsewhere.names:
        elsewhere.write_config(name, **config)
    return elsewhere


@pytest.mark.parametrize("way", ["beacon", "mdns", "seeds"])
def test_agents_find_each_other_by_one_way_alone(make_cluster: Callable[..., LocalCluster], way: str) -> None:
    cluster = moved(make_cluster(2, discovery=(way,)))
    cluster.up()
    status = cluster.wait_ready()
    assert [host.state for host in status.hosts] == ["alive", "alive"]


def test_agents_that_can_hear_nobody_stay_alone(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = moved(make_cluster(2, discovery=()))
    cluster.up()
    cluster.wait_ready(["n1"])  # the only voter, so it coordinates

    def unfound(status: Status) -> bool:
        return {host.name: host.state for host in status.hosts}["n2"] in ("suspect", "dead")

    wait_status(cluster, "n1", unfound, "n2 isn't found")
    assert not any(member.linked for member in cluster.members("n1"))
