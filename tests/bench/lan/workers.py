"""A main and twenty workers on five hosts, from the command to validated; beside `docker stack deploy` of the same."""

from __future__ import annotations

import json
import time

from tests.bench.figures import Figure
from tests.bench.lan import swarm
from tests.bench.lan.cluster import installed_hosts, start_agents, stop_agents
from tests.bench.lan.deploy import wait_gone
from tests.bench.measures import pause
from tests.bootstrap.desk import Desk
from tests.lab import Host
from tests.support.waiting import wait_for_sync

HOSTS = 5
WORKERS = 20
SETTLE_S = 3.0
RUNNING_TIMEOUT_S = 120.0

HEALTH = {"http": {"port": 8080, "path": "/health"}, "interval": "1s"}
STACK = f"""\
version: "3.8"
services:
  main:
    image: {swarm.IMAGE}
    ports: [{{target: 8080, published: 8443, mode: host}}]
  worker:
    image: {swarm.IMAGE}
    deploy: {{replicas: {WORKERS}}}
"""


def workers(runs: int) -> list[Figure]:
    """A main and 20 workers over 5 hosts: from `agent deploy` to validated, beside Docker Swarm's all running."""
    ours, theirs = [], []
    with installed_hosts(HOSTS) as desk:
        swarm.prepare(desk)
        (desk.lab.operator.home / "workers.json").write_text(json.dumps(plan(list(desk.lab.hosts))))
        for _ in range(runs):
            stop_agents(desk)
            theirs.append(with_swarm(desk))
            start_agents(desk)
            pause(SETTLE_S)
            ours.append(desk.run("agent", "deploy", "workers.json", "--stack", "bench").seconds)
            desk.run("agent", "remove", "bench", "--yes")
            wait_gone(desk)
    note = "main healthy before the workers start, an HTTP check of each, and each reached from other hosts"
    peer_note = "all run; nothing is checked, nothing waits for main, workers have no ports"
    peer = Figure(name=f"Swarm's stack, 1 + {WORKERS} on {HOSTS} hosts", unit="s", values=theirs, note=peer_note)
    mine = f"deploy, 1 + {WORKERS} on {HOSTS} hosts, validated"
    return [peer, Figure(name=mine, unit="s", values=ours, target=peer.median, note=note)]


def plan(hosts: list[str]) -> dict[str, object]:
    """Every host has as many workers, each with a port of its own."""

    def instance(name: str, host: str, port: int) -> dict[str, object]:
        ports = [{"host_port": port, "container_port": 8080}]
        return {"host": host, "docker_image": swarm.IMAGE, "container_name": name, "ports": ports, "health": HEALTH}

    placed = [instance(f"worker-{n + 1}", hosts[n % len(hosts)], 8444 + n) for n in range(WORKERS)]
    return {"main": instance("main", hosts[0], 8443), "workers": placed}


def with_swarm(desk: Desk) -> float:
    """Seconds until the manager sees every task running."""
    with swarm.swarm(desk) as manager:
        pause(SETTLE_S)
        (manager.root / "root/stack.yml").write_text(STACK)
        began = time.perf_counter()
        manager.run(["docker", "stack", "deploy", "--resolve-image=never", "--compose-file=/root/stack.yml", "bench"])
        wait_for_sync(lambda: all_run(manager), RUNNING_TIMEOUT_S, what="all tasks run", interval_s=0.05)
        taken = time.perf_counter() - began
        manager.run(["docker", "stack", "rm", "bench"])
        wait_gone(desk)
    return taken


def all_run(manager: Host) -> bool:
    """By the manager's own count."""
    counts = manager.run(["docker", "service", "ls", "--format", "{{.Replicas}}"]).stdout.split()
    return sorted(counts) == ["1/1", f"{WORKERS}/{WORKERS}"]
