"""A container on each of five hosts: a signed plan by `agent deploy`, beside `docker service create`."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from datetime import datetime

from tests.bench.figures import Figure
from tests.bench.lan import swarm
from tests.bench.lan.cluster import installed_hosts, start_agents, stop_agents
from tests.bench.measures import pause
from tests.bootstrap.desk import Desk
from tests.support.waiting import wait_for_sync

HOSTS = 5
PORT = 8080
CLI_TARGET_S = 2.5
RUNNING_RATIO = 1.0
GONE_TIMEOUT_S = 60.0
SETTLE_S = 3.0  # behind a start or an end of five agents or engines

PLAN = {
    "stack": "bench",
    "services": {
        "web": {
            "docker_image": swarm.IMAGE,
            "replicas": "global",
            "ports": [{"host_port": PORT, "container_port": 8080}],
            "health": {"http": {"port": 8080, "path": "/health"}, "interval": "1s"},
        }
    },
}


def deploy(runs: int) -> list[Figure]:
    """A container on each of five hosts: all run, and the CLI is back; beside Docker Swarm."""
    seconds: dict[str, list[float]] = {"swarm": [], "swarm_cli": [], "ours": [], "ours_cli": []}

    def keep(name: str, taken: tuple[float, float]) -> None:
        seconds[name].append(taken[0])
        seconds[f"{name}_cli"].append(taken[1])

    with installed_hosts(HOSTS) as desk:
        swarm.prepare(desk)
        (desk.lab.operator.home / "plan.json").write_text(json.dumps(PLAN))
        for _ in range(runs):
            stop_agents(desk)
            keep("swarm", with_swarm(desk))
            start_agents(desk)
            pause(SETTLE_S)
            keep("ours", with_agents(desk))
    peer = Figure(name="Swarm, all five run", unit="s", values=seconds["swarm"])
    note = "started by dockerd's own clock; the signature is checked by every agent"
    target = RUNNING_RATIO * peer.median
    checked = "all healthy by an HTTP check of the agent; Swarm's watches that they run on for 5 s"
    return [
        peer,
        Figure(name="deploy, all five run", unit="s", values=seconds["ours"], target=target, note=note),
        Figure(name="Swarm, its CLI is back", unit="s", values=seconds["swarm_cli"]),
        Figure(name="deploy, the CLI is back", unit="s", values=seconds["ours_cli"], target=CLI_TARGET_S, note=checked),
    ]


def with_swarm(desk: Desk) -> tuple[float, float]:
    """Seconds until all containers run, and until the CLI is back."""
    with swarm.swarm(desk) as manager:
        pause(SETTLE_S)
        taken = measured(desk, lambda: swarm.create_service(manager, PORT))
        swarm.remove_service(manager)
        wait_gone(desk)
    return taken


def with_agents(desk: Desk) -> tuple[float, float]:
    """Likewise."""
    taken = measured(desk, lambda: desk.run("agent", "deploy", "plan.json").seconds)
    desk.run("agent", "remove", "bench", "--yes")
    wait_gone(desk)
    return taken


def measured(desk: Desk, command: Callable[[], float]) -> tuple[float, float]:
    """The hosts have this machine's clock, and dockerd says when each container started: nothing is polled."""
    began = time.time()
    seconds = command()
    started = [started_at(desk, name) for name in desk.lab.hosts]
    return max(started) - began, seconds


def started_at(desk: Desk, host: str) -> float:
    """Seconds since the epoch, of the host's only container."""
    script = "docker inspect --format '{{.State.StartedAt}}' $(docker ps -q)"
    said = desk.lab.hosts[host].run(["sh", "-c", script]).stdout.strip()
    return datetime.fromisoformat(said[:26] + "+00:00").timestamp()


def wait_gone(desk: Desk) -> None:
    """Until no host has a container any more."""

    def gone() -> bool:
        return not any(host.run(["docker", "ps", "-aq"]).stdout.strip() for host in desk.lab.hosts.values())

    wait_for_sync(gone, GONE_TIMEOUT_S, what="no containers", interval_s=0.2)
