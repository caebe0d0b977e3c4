"""An agent that doesn't vote does everything else: of two, one votes (ARCHITECTURE.md "Words")."""

from __future__ import annotations

from collections.abc import Callable

from bootstrap.local import LocalCluster
from tests.loopback.world import EXAMPLE, READY_TIMEOUT_S, request, wait_healthy
from tests.support.agents import Desk
from tests.support.waiting import wait_for_sync


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


def test_an_observer_is_linked_with_one_voter_and_with_another_when_that_is_killed(
    make_cluster: Callable[..., LocalCluster],
) -> None:
    cluster = make_cluster(6)
    cluster.up()
    status = cluster.wait_ready()
    (observer,) = [host.name for host in status.hosts if host.role == "observer"]

    def only_link() -> str | None:
        linked = [member.name for member in cluster.members(observer) if member.linked]
        return linked[0] if len(linked) == 1 else None

    first = wait_for_sync(only_link, READY_TIMEOUT_S, what="one link")
    assert first is not None
    cluster.kill(first)
    Desk(cluster).run("--via", observer, "deploy", str(EXAMPLE))
    placed = wait_healthy(cluster, "web", 3, through=observer)
    assert first not in {replica.host for replica in placed.values()}
    assert wait_for_sync(only_link, READY_TIMEOUT_S, what="one link") != first
