"""The hosts of a lab with agents on them, or a Swarm, or nothing: one at a time, as they share this machine's cores."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import psutil

from agent.errors import MusterError
from agent.model.api import Members
from agent.model.status import Health
from bootstrap.socket_api import get
from tests.bootstrap.desk import Desk, desk_of
from tests.lab import Host, Lab
from tests.support.waiting import wait_for_sync

READY_TIMEOUT_S = 60.0
SETTLE_S = 10.0  # after the agents see each other: first beacons, mDNS probing, imports that weren't needed before
SOCKET = "run/muster/agent.sock"
AGENT = "/opt/muster/current/bin/agent", "run"  # words of its command line, as `process_of` takes them


@contextmanager
def fresh_hosts(count: int) -> Iterator[Desk]:
    """So many hosts with Docker and nothing of ours, and their list at the desk."""
    with (
        tempfile.TemporaryDirectory(prefix="muster-bench-") as directory,
        Lab.up(count, name="bench") as lab,
        desk_of(lab, Path(directory)) as desk,
    ):
        desk.write_hosts(*(f"root@{name}" for name in lab.hosts))
        yield desk


@contextmanager
def installed_hosts(count: int) -> Iterator[Desk]:
    """Hosts with a running cluster."""
    with fresh_hosts(count) as desk:
        desk.install()
        yield desk


def on_all(desk: Desk, *argv: str) -> None:
    """Run a command on all hosts at once."""
    hosts = list(desk.lab.hosts.values())
    with ThreadPoolExecutor(len(hosts)) as pool:
        list(pool.map(lambda host: host.run(argv), hosts))


def stop_agents(desk: Desk) -> None:
    """They stay installed."""
    on_all(desk, "systemctl", "stop", "muster-agent")


def start_agents(desk: Desk) -> None:
    """Start all of them together, and wait until one coordinates and all see all, as each of them says itself."""
    on_all(desk, "systemctl", "start", "--no-block", "muster-agent")
    waiting = list(desk.lab.hosts.values())

    def all_see_all() -> bool:
        while waiting and sees_all(waiting[0], len(desk.lab.hosts)):
            waiting.pop(0)  # who saw all of them needn't be asked again
        return not waiting

    wait_for_sync(all_see_all, READY_TIMEOUT_S, what="all see all")


def sees_all(host: Host, count: int) -> bool:
    """Whether the agent there knows a coordinator and sees that many members alive."""
    try:
        health = get(host.root / SOCKET, "/health", Health)
        members = get(host.root / SOCKET, "/api/v1/members", Members).members
    except MusterError:
        return False
    return health.coordinator is not None and sum(member.state == "alive" for member in members) == count


def process_of(host: Host, *words: str) -> psutil.Process:
    """The host's process with these words in its command line. Raises LookupError."""
    for process in psutil.Process(host.init()).children(recursive=True):
        try:
            if set(words) <= set(process.cmdline()):
                return process
        except psutil.Error:
            continue
    raise LookupError(f"{host.name} runs no {' '.join(words)}")


def coordinator_name(desk: Desk) -> str:
    """The host whose agent coordinates."""
    found = desk.status()["coordinator"]
    assert found is not None
    return str(found["name"])
