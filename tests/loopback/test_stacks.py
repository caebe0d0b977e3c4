"""A stack's life as its operator sees it, with the operator's own commands."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.control.preparation import PLACE_DEADLINE_MS
from agent.errors import EXIT_DEGRADED
from agent.model.status import ReplicaStatus
from bootstrap.local import LocalCluster
from tests.loopback.world import (
    EXAMPLE,
    coordinator_of,
    others,
    pids_below,
    replicas,
    request,
    running_below,
    wait_healthy,
    wait_status,
)
from tests.support.agents import Desk
from tests.support.waiting import wait_for_sync

STACK = "shop"


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """The example under another name and with two replicas."""
    content = json.loads(EXAMPLE.read_text())
    content["stack"] = STACK
    content["services"]["web"]["replicas"] = 2
    content["services"]["web"]["ports"][0]["host_port"] = 8180
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def shop(desk: Desk, plan: Path) -> Iterator[Desk]:
    """Deployed through an agent that doesn't coordinate; removed afterwards."""
    through = others(desk.cluster, coordinator_of(desk.cluster))[0]
    desk.run("--via", through, "deploy", str(plan))
    yield desk
    desk.run("remove", STACK, "--yes")
    gone(desk.cluster, "n1")


def gone(cluster: LocalCluster, through: str) -> None:
    """No status names the stack, and none of its processes is left."""
    wait_status(cluster, through, lambda status: STACK not in [s.name for s in status.stacks], "the stack is gone")
    wait_for_sync(lambda: not [line for line in running_below(cluster.directory) if f"stacks/{STACK}" in line])


def test_a_deploy_through_any_agent_ends_with_every_replica_healthy(shop: Desk) -> None:
    # `deploy` waits for it, so there is nothing left to wait for.
    placed = replicas(shop.cluster.status("n1"), STACK)
    assert {slot: replica.state for slot, replica in placed.items()} == {1: "healthy", 2: "healthy"}
    for slot, replica in placed.items():
        assert request(shop.cluster, replica) == f"hello from {replica.host} slot {slot}"


def test_the_same_deploy_again_touches_nothing(shop: Desk, plan: Path) -> None:
    before = pids_below(shop.cluster.directory)
    shop.run("deploy", str(plan))
    wait_healthy(shop.cluster, STACK, 2)
    assert pids_below(shop.cluster.directory) == before


def test_a_killed_replica_comes_back(shop: Desk) -> None:
    victim = wait_healthy(shop.cluster, STACK, 2)[1]
    os.killpg(int(victim.container_id.partition(":")[0]), signal.SIGKILL)
    wait_for_sync(lambda: request(shop.cluster, victim) == "", what="the replica is down")
    back = wait_status(
        shop.cluster,
        "n1",
        lambda status: (
            replicas(status, STACK)[1].container_id != victim.container_id
            and replicas(status, STACK)[1].state == "healthy"
        ),
        "the replica runs again",
    )
    assert replicas(back, STACK)[1].ports == victim.ports, "an assigned port sticks"
    assert request(shop.cluster, victim) != ""


def test_scaling_adds_and_ends_replicas_and_keeps_the_others(shop: Desk) -> None:
    kept = wait_healthy(shop.cluster, STACK, 2)
    shop.run("scale", STACK, "web=4")
    more = wait_healthy(shop.cluster, STACK, 4)
    assert {slot: more[slot].container_id for slot in kept} == {slot: kept[slot].container_id for slot in kept}
    shop.run("scale", STACK, "web=1")
    assert set(wait_healthy(shop.cluster, STACK, 1)) == {1}


def test_stop_ends_the_replicas_and_start_brings_them_back(shop: Desk) -> None:
    placed = wait_healthy(shop.cluster, STACK, 2)
    shop.run("stop", STACK)
    wait_for_sync(lambda: all(request(shop.cluster, replica) == "" for replica in placed.values()))
    shop.run("start", STACK)
    wait_healthy(shop.cluster, STACK, 2)


def test_a_rollback_brings_back_a_plan_that_was_signed_twice(shop: Desk, plan: Path) -> None:
    """A host with nothing left of it has the plan as it was signed before, and waits for what the rollback signs."""
    wait_healthy(shop.cluster, STACK, 2)
    shop.run("deploy", str(plan))
    fewer = plan.with_name("fewer.json")
    fewer.write_text(plan.read_text().replace('"replicas": 2', '"replicas": 1'))
    shop.run("deploy", str(fewer))
    wait_healthy(shop.cluster, STACK, 1)
    shop.run("rollback", STACK)
    wait_healthy(shop.cluster, STACK, 2)


def test_what_no_host_can_ever_run_is_refused_at_once_and_changes_nothing(shop: Desk, plan: Path) -> None:
    before = wait_healthy(shop.cluster, STACK, 2)
    content = json.loads(plan.read_text())
    content["services"]["web"]["labels"] = {"zone": "c"}
    plan.write_text(json.dumps(content))
    shown = shop.run("deploy", str(plan), "--dry-run", code=EXIT_DEGRADED)
    assert "! web: no host may run it, so the deploy would fail: n1: label zone=c wanted, none there" in shown.stdout
    began = time.monotonic()
    failed = shop.run("deploy", str(plan), code=EXIT_DEGRADED)
    assert time.monotonic() - began < PLACE_DEADLINE_MS / 1000
    assert "label zone=c wanted, none there; nothing was changed" in failed.stderr
    after = wait_healthy(shop.cluster, STACK, 2)
    assert {slot: each.container_id for slot, each in after.items()} == {
        slot: each.container_id for slot, each in before.items()
    }


MAIN = """\
import socket, time
time.sleep(2)
listening = socket.create_server(("${MUSTER_HOST}", ${MUSTER_PORT_8190}))
while listening.accept():
    pass
"""
WORKER = """\
import socket, time
try:
    socket.create_connection(("${MAIN_HOST}", ${MAIN_PORT}), 2)
    print("main answers", flush=True)
except OSError:
    print("main is away", flush=True)
listening = socket.create_server(("${MUSTER_HOST}", ${MUSTER_PORT_8290}))
while listening.accept():
    pass
"""


def service_of(desk: Desk, name: str) -> tuple[ReplicaStatus, ...]:
    """The replicas of one service of the stack."""
    (stack,) = [stack for stack in desk.cluster.status("n1").stacks if stack.name == STACK]
    return next(service.replicas for service in stack.services if service.name == name)


def test_a_start_waits_for_main_before_it_starts_workers(desk: Desk, tmp_path: Path) -> None:
    port = {"ports": [{"host_port": 8190, "container_port": 8190}], "health": {"tcp": {"port": 8190}}}
    worker_port = {"ports": [{"host_port": 8290, "container_port": 8290}]}
    plan = {
        "stack": STACK,
        "main": {"runtime": "process", "command": ["python3", "-c", MAIN], **port},
        "workers": [{"runtime": "process", "replicas": 2, "command": ["python3", "-c", WORKER], **worker_port}],
    }
    (tmp_path / "order.json").write_text(json.dumps(plan))
    said = desk.run("deploy", str(tmp_path / "order.json")).stdout.splitlines()
    (main_host,) = {replica.host for replica in service_of(desk, "main")}
    registered = f"  worker-1 (2 replicas) is registered with main on {main_host}"
    assert registered in said[said.index(f"{STACK}: workers") :], said
    try:
        desk.run("stop", STACK)
        shown = desk.run("start", STACK).stdout
        order = [line for line in shown.splitlines() if line.startswith(f"{STACK}: ")]
        assert order[-4:] == [f"{STACK}: {phase}" for phase in ("main", "workers", "validating", "healthy")]
        heard = desk.run("logs", STACK).stdout
        assert (heard.count("main answers") >= 2, "main is away" in heard) == (True, False), heard
    finally:
        desk.run("remove", STACK, "--yes")
    gone(desk.cluster, "n1")


def test_restart_makes_every_replica_anew(shop: Desk) -> None:
    before = {replica.container_id for replica in wait_healthy(shop.cluster, STACK, 2).values()}
    shop.run("restart", STACK)
    wait_status(
        shop.cluster,
        "n1",
        lambda status: before.isdisjoint({replica.container_id for replica in replicas(status, STACK).values()}),
        "other processes",
    )
    wait_healthy(shop.cluster, STACK, 2)


def test_a_removed_stack_leaves_nothing_and_its_revision_counts_on(desk: Desk, plan: Path) -> None:
    desk.run("deploy", str(plan))
    first = next(stack for stack in desk.cluster.status("n1").stacks if stack.name == STACK).revision
    desk.run("remove", STACK, "--yes")
    gone(desk.cluster, "n2")
    desk.run("deploy", str(plan))
    second = next(stack for stack in desk.cluster.status("n1").stacks if stack.name == STACK).revision
    assert second == first + 2
    desk.run("remove", STACK, "--yes")
    gone(desk.cluster, "n1")


def test_a_removal_is_over_when_nothing_runs_any_more_however_slowly_it_ends(desk: Desk, tmp_path: Path) -> None:
    linger = "trap 'sleep 2; exit' TERM; while :; do sleep 0.1; done"
    service = {"runtime": "process", "command": ["sh", "-c", linger], "replicas": 3}
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps({"stack": STACK, "services": {"slow": service}}))
    desk.run("deploy", str(plan))
    assert any(linger in line for line in running_below(desk.cluster.directory))
    said = desk.run("remove", STACK, "--yes").stdout
    assert not any(linger in line for line in running_below(desk.cluster.directory))
    assert "  slow: 3 left, on n1, n2, n3" in said.splitlines()
    assert said.splitlines()[-1] == f"{STACK}: removed"
