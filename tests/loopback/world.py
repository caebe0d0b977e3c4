"""Looking at a local cluster from outside, and waiting for what should become of it."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from agent import procfs
from agent.errors import MusterError
from agent.model.status import ReplicaStatus, Status
from bootstrap.local import LocalCluster, clean_environment
from tests.support.agents import Desk
from tests.support.waiting import wait_for_sync

EXAMPLE = Path(__file__).parents[2] / "examples" / "web" / "plan.json"
READY_TIMEOUT_S = 30.0  # agents of two clusters and a build may share two cores
LOOK_EVERY_S = 0.05  # a look costs the agents that it waits for some milliseconds each, and processors are few
ASKS_EVERY_S = 0.5  # likewise by a command or a connection of its own, which cost up to a fifth of a second of one


def running_below(directory: Path) -> list[str]:
    """What runs in a directory or on behalf of an agent there, described."""
    found = []
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            cwd = os.readlink(f"/proc/{entry}/cwd")
            marked = any(f"={directory}".encode() in value for value in procfs.entries(int(entry)))
            if int(entry) != os.getpid() and (cwd.startswith(f"{directory}/") or marked):
                found.append(Path(f"/proc/{entry}/cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def end(cluster: LocalCluster) -> None:
    """Take it down; nothing of it may be left."""
    cluster.down()
    assert running_below(cluster.directory) == []


@contextmanager
def cluster_of(directory: Path, count: int, **options: Any) -> Iterator[LocalCluster]:
    """A cluster that sees itself; `options` are of `LocalCluster.create`."""
    cluster = LocalCluster.create(directory, count, api_port=0, **options)
    try:
        cluster.up()
        cluster.wait_ready(timeout_s=READY_TIMEOUT_S)
        yield cluster
    finally:
        end(cluster)


def replicas(status: Status, stack: str) -> dict[int, ReplicaStatus]:
    """The replicas of a stack's only service, by slot."""
    services = [service for found in status.stacks if found.name == stack for service in found.services]
    return {replica.slot: replica for service in services for replica in service.replicas}


def wait_status(cluster: LocalCluster, through: str, condition: Callable[[Status], object], what: str) -> Status:
    """The first status for which the condition holds."""

    def asked() -> Status | None:
        try:
            status = cluster.status(through)
        except MusterError:
            return None
        return status if condition(status) else None

    found = wait_for_sync(asked, READY_TIMEOUT_S, what=what, interval_s=LOOK_EVERY_S)
    assert found is not None
    return found


def wait_healthy(cluster: LocalCluster, stack: str, count: int, through: str = "n1") -> dict[int, ReplicaStatus]:
    """The replicas, once exactly `count` of them are there and all are healthy."""

    def healthy(status: Status) -> bool:
        states = [replica.state for replica in replicas(status, stack).values()]
        return len(states) == count and set(states) <= {"healthy"}

    return replicas(wait_status(cluster, through, healthy, f"{count} healthy replicas of {stack}"), stack)


def coordinator_of(cluster: LocalCluster, through: str = "n1") -> str:
    """Its name, as one agent tells it."""
    status = wait_status(cluster, through, lambda status: status.coordinator and not status.stale, "a coordinator")
    assert status.coordinator is not None
    return status.coordinator.name


def others(cluster: LocalCluster, *names: str) -> list[str]:
    """All agents but these."""
    return [name for name in cluster.names if name not in names]


def request(cluster: LocalCluster, replica: ReplicaStatus) -> str:
    """What the replica answers to `GET /`; empty when it doesn't."""
    try:
        with socket.create_connection((cluster.address(replica.host), replica.ports[0].host_port), 5) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            with connection.makefile("rb") as answer:
                return answer.read().decode().partition("\r\n\r\n")[2].strip()
    except OSError:
        return ""


def pids_below(directory: Path) -> set[str]:
    """The workloads' processes by pid and start time, as the agents wrote them down."""
    records = directory.glob("*/data/processes/*.json")
    return {
        f"{record['pid']}:{record['start']}" for path in records if (record := msgspec.json.decode(path.read_bytes()))
    }


@contextmanager
def followed(desk: Desk, stack: str, path: Path) -> Iterator[Callable[[], list[str]]]:
    """`agent logs -f` in the background; what it has shown so far."""
    with path.open("wb") as output:
        command = desk.cluster.agent_command("logs", "-f", stack)
        running = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=clean_environment()
        )
        try:
            yield lambda: path.read_text().splitlines()
            assert running.poll() is None, "it still follows"
        finally:
            running.terminate()
            running.wait(10)
