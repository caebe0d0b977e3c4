"""An agent that doesn't vote does everything else: of two, one votes (ARCHITECTURE.md "Words")."""

from __future__ import annotations

from collections.abc import Callable

from bootstrap.local import LocalCluster
from tests.loopback.world import EXAMPLE, request, wait_healthy
from tests.support.agents import Desk


def test_an_observer_takes_instructions_runs_replicas_and_tells_the_status(
    make_cluster: Callable[..., LocalCluster],
) -> None:
    cluster = make_cluster(2)
    cluster.up()
    status = cluster.wait_ready()
    assert {host.name: host.role for host in status.hosts} == {"n1": "coordinator", "n2": "observer"}
    Desk(cluster).run("--via", "n2", "deploy", str(EXAMPLE))
    placed = wait_healthy(cluster, "web", 3, through="n2")
    assert {replica.host for replica in placed.values()} == {"n1", "n2"}
    assert all(request(cluster, replica) for replica in placed.values())
