"""What an idle agent's answers cost, beside what `docker node ls` asks an idle Swarm manager of the same hosts."""

from __future__ import annotations

from tests.bench.answers import one_client
from tests.bench.figures import Figure
from tests.bench.lan.cluster import SETTLE_S, SOCKET, coordinator_name, installed_hosts, stop_agents
from tests.bench.lan.swarm import swarm
from tests.bench.measures import pause

HOSTS = 5
ENGINE_SOCKET = "run/docker.sock"
NODES = "/nodes"
"""What `docker node ls` asks, in the engine's newest version of the API."""


def answers(_: int) -> list[Figure]:
    """The status of five idle agents, and the list of five idle Swarm nodes, each over its local socket."""
    with installed_hosts(HOSTS) as desk:
        pause(SETTLE_S)
        coordinator = coordinator_name(desk)
        other = next(name for name in desk.lab.hosts if name != coordinator)
        ours = [
            one_client(desk.lab.hosts[name].root / SOCKET, f"status of {HOSTS} hosts from {label}")
            for label, name in (("the coordinator", coordinator), ("another agent", other))
        ]
        stop_agents(desk)
        with swarm(desk) as manager:
            pause(SETTLE_S)
            theirs = one_client(manager.root / ENGINE_SOCKET, f"Swarm's list of {HOSTS} nodes from its manager", NODES)
    return [*ours, theirs]
