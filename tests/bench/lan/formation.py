"""From agents that are installed and stopped to a cluster, beside Swarm's init and joins."""

from __future__ import annotations

import time
from dataclasses import replace

from tests.bench.figures import Figure
from tests.bench.lan import swarm
from tests.bench.lan.cluster import installed_hosts, start_agents, stop_agents
from tests.bench.measures import timed
from tests.bootstrap.desk import Desk

HOSTS = 5
TARGET_S = 1.5


def formation(runs: int) -> list[Figure]:
    """Five stopped agents started together → one coordinates and all see all, beside Docker Swarm."""
    ours, theirs = [], []
    with installed_hosts(HOSTS) as desk:
        swarm.prepare(desk)
        for _ in range(runs):
            stop_agents(desk)
            theirs.append(swarm_once(desk))
            ours.append(timed(lambda: start_agents(desk)))
    note = "init, then joins in parallel, until the manager sees all of them ready"
    peer = Figure(name="Swarm of five", unit="s", values=theirs, note=note)
    mine = Figure(name="five agents started, all see all", unit="s", values=ours, target=TARGET_S)
    return [peer, replace(mine, note=f"{mine.median / peer.median:.2f} × Swarm's; all share this machine's cores")]


def swarm_once(desk: Desk) -> float:
    """Seconds until the swarm is there; then it is left."""
    began = time.perf_counter()
    with swarm.swarm(desk):
        return time.perf_counter() - began
