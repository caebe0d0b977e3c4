"""Agents that die, in every number: what was accepted stays, what runs goes on, and people are told."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.model.status import ReplicaStatus, Status
from tests.loopback.world import (
    EXAMPLE,
    coordinator_of,
    others,
    request,
    wait_status,
)
from tests.support.agents import Desk
from tests.support.waiting import wait_for_sync

EXIT_DEGRADED = 3
PINNED = "pinned"
DOOMED = "doomed"


def revision(desk: Desk, through: str, stack: str = "web") -> int:
    return next(found.revision for found in desk.cluster.status(through).stacks if found.name == stack)


@pytest.fixture
def pinned(desk: Desk, tmp_path: Path) -> Iterator[Desk]:
    """A replica pinned to each host: none is placed elsewhere, however long its host takes to come back."""
    (service,) = json.loads(EXAMPLE.read_text())["services"].values()
    ports = [{"host_port": 8280, "container_port": 8080}]
    each = {f"on-{name}": {**service, "replicas": 1, "host": name, "ports": ports} for name in desk.cluster.names}
    path = tmp_path / "plan.json"
    path.write_text(json.dumps({"stack": PINNED, "services": each}))
    desk.run("deploy", str(path))
    yield desk
    desk.run("remove", PINNED, "--yes")


def running_pinned(desk: Desk, through: str = "n1") -> dict[str, ReplicaStatus]:
    """By host, once all are healthy; a process's `container_id` is its pid and start time."""

    def of_each(status: Status) -> dict[str, ReplicaStatus]:
        services = [service for stack in status.stacks if stack.name == PINNED for service in stack.services]
        return {replica.host: replica for service in services for replica in service.replicas}

    def healthy(status: Status) -> bool:
        return [replica.state for replica in of_each(status).values()] == ["healthy"] * len(desk.cluster.names)

    return of_each(wait_status(desk.cluster, through, healthy, f"every replica of {PINNED} is healthy"))


def processes_of(found: dict[str, ReplicaStatus]) -> dict[str, str]:
    return {host: replica.container_id for host, replica in found.items()}


def test_an_agent_that_was_killed_finds_what_it_ran_and_touches_nothing(pinned: Desk) -> None:
    before = running_pinned(pinned)
    pinned.cluster.kill("n2")
    assert request(pinned.cluster, before["n2"]) == "hello from n2 slot 1", "a dead agent takes nothing with it"
    pinned.cluster.start("n2")
    pinned.cluster.wait_ready()
    assert processes_of(running_pinned(pinned, through="n2")) == processes_of(before)


def test_after_the_coordinators_death_the_next_instruction_is_taken_and_nothing_lost(web: Desk) -> None:
    lost = coordinator_of(web.cluster)
    left = others(web.cluster, lost)
    before = revision(web, left[0])
    web.cluster.kill(lost)
    began = time.monotonic()
    web.run("--via", left[0], "scale", "web", "web=3", "--detach")
    assert time.monotonic() - began < 20, "one election, not one timeout after another"
    assert coordinator_of(web.cluster, left[0]) != lost
    assert revision(web, left[1]) == before + 1
    web.cluster.start(lost)
    web.cluster.wait_ready()
    assert revision(web, lost) == before + 1


def test_without_a_majority_nothing_is_taken_but_everything_runs_on(pinned: Desk) -> None:
    cluster, before = pinned.cluster, running_pinned(pinned)
    for name in ("n2", "n3"):
        cluster.kill(name)
    wait_status(cluster, "n1", lambda status: status.stale or status.coordinator is None, "n1 is alone")
    refused = pinned.run("--via", "n1", "scale", PINNED, "on-n1=2", "--detach", code=EXIT_DEGRADED)
    assert "no majority: n2, n3 unreachable" in refused.stderr + refused.stdout
    for host, replica in before.items():
        assert request(cluster, replica) == f"hello from {host} slot 1"
    shown = pinned.run("--via", "n1", "status", code=EXIT_DEGRADED).stdout
    assert "n2" in shown
    cluster.up()
    cluster.wait_ready()
    assert processes_of(running_pinned(pinned)) == processes_of(before)


def test_a_restart_of_all_agents_finds_everything_again(pinned: Desk) -> None:
    before, at = running_pinned(pinned), revision(pinned, "n1", PINNED)
    for name in pinned.cluster.names:
        pinned.cluster.kill(name)
    pinned.cluster.up()
    pinned.cluster.wait_ready()
    assert processes_of(running_pinned(pinned)) == processes_of(before)
    assert revision(pinned, "n3", PINNED) == at


def test_a_dead_host_deletes_a_removed_stacks_volumes_once_it_is_back(desk: Desk, tmp_path: Path) -> None:
    (service,) = json.loads(EXAMPLE.read_text())["services"].values()
    ports = [{"host_port": 8380, "container_port": 8080}]
    path = tmp_path / "plan.json"
    path.write_text(
        json.dumps({"stack": DOOMED, "services": {"web": {**service, "replicas": 1, "host": "n2", "ports": ports}}})
    )
    desk.run("deploy", str(path))
    kept = desk.cluster.data_dir("n2") / "stacks" / DOOMED / "kept"
    kept.write_text("data")
    desk.cluster.kill("n2")
    said = desk.run("--via", "n1", "remove", DOOMED, "--volumes", "--yes")
    assert f"{DOOMED}: removed, but for what n2 has of it" in said.stdout
    assert "couldn't delete its volumes: that is done once it is back" in said.stderr
    assert kept.exists()
    desk.cluster.start("n2")
    desk.cluster.wait_ready()
    wait_status(desk.cluster, "n1", lambda status: DOOMED not in [each.name for each in status.stacks], "it is gone")
    wait_for_sync(lambda: not kept.parent.exists())


def test_a_clean_stop_hands_over_without_a_refused_instruction(web: Desk) -> None:
    leaving = coordinator_of(web.cluster)
    left = others(web.cluster, leaving)
    before = revision(web, left[0])
    web.cluster.stop(leaving)
    web.run("--via", left[0], "scale", "web", "web=3", "--detach")
    assert revision(web, left[1]) == before + 1
    wait_for_sync(lambda: coordinator_of(web.cluster, left[0]) in left)


def test_the_example_can_be_deployed_by_its_path_alone(web: Desk) -> None:
    assert EXAMPLE.exists()
    web.run("deploy", str(EXAMPLE))
