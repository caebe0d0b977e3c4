"""A host is emptied before maintenance: with the operator's own commands, on real agents."""

from __future__ import annotations

import json

from tests.loopback.world import coordinator_of, others, replicas, request, wait_healthy, wait_status
from tests.support.agents import Desk


def test_a_drained_host_is_empty_and_takes_part_again_when_it_is_undrained(web: Desk) -> None:
    coordinator = coordinator_of(web.cluster)
    through = others(web.cluster, coordinator)[0]
    said = web.run("--via", through, "drain", coordinator)
    try:
        assert f"{coordinator}: is empty" in said.stdout
        placed = wait_healthy(web.cluster, "web", 3, through)
        assert coordinator not in {replica.host for replica in placed.values()}
        assert all(request(web.cluster, replica) for replica in placed.values())
        status = wait_status(
            web.cluster,
            through,
            lambda status: status.coordinator is not None and status.coordinator.name != coordinator,
            "another one coordinates",
        )
        assert status.quorum.voters == 3, "a drained host goes on voting"
        drained = next(host for host in status.hosts if host.name == coordinator)
        assert (drained.cordoned, drained.fit, drained.reasons) == (True, False, ("drained",))
        web.run("scale", "web", "web=4")
        assert coordinator not in {item.host for item in replicas(web.cluster.status(through), "web").values()}
    finally:
        web.run("undrain", coordinator)
    events = web.run("--via", coordinator_of(web.cluster), "events", "--json").stdout.splitlines()
    assert any(
        json.loads(line)["what"].endswith(f"ended the drain of host {coordinator}, revision 2") for line in events
    )
    web.run("scale", "web", "web=5")
    assert coordinator in {item.host for item in wait_healthy(web.cluster, "web", 5, through).values()}
    web.run("remove", "web", "--yes")
