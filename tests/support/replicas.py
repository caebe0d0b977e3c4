"""Specs, states and wanted sets for tests of hosts and runtimes."""

from __future__ import annotations

from typing import Any

from agent.host import Desired
from agent.model.ledger import AssignedPort
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.stack import Image, Resources
from agent.model.workload import Workload

CLUSTER = "abcdefghijklmnop"
AGENT = "a" * 26
OTHER_AGENT = "b" * 26


def key(service: str = "web", slot: int = 1, stack: str = "shop") -> ReplicaKey:
    """A replica's key."""
    return ReplicaKey(stack=stack, service=service, slot=slot)


def spec(
    service: str = "web", slot: int = 1, *, ports: tuple[int | AssignedPort, ...] = (), **changes: Any
) -> ReplicaSpec:
    """A docker replica; a number among `ports` is the host port of container port 8000. `changes`: other fields."""
    fields: dict[str, Any] = {
        "key": key(service, slot),
        "cluster": CLUSTER,
        "agent": AGENT,
        "revision": 1,
        "generation": 0,
        "container_name": f"shop-{service}-{slot}",
        "runtime": "docker",
        "image": Image(ref="web:1"),
        "command": (),
        "environment": {},
        "facts": {},
        "ports": tuple(
            AssignedPort(container_port=8000, host_port=port) if isinstance(port, int) else port for port in ports
        ),
        "volumes": (),
        "networks": (),
        "restart_policy": "unless-stopped",
        "health_check": None,
        "health": None,
        "resources": Resources(),
        "stop_grace_ms": 10_000,
    }
    return ReplicaSpec(**(fields | changes))


def process_spec(service: str, *command: str, **changes: Any) -> ReplicaSpec:
    """A replica of the process runtime."""
    return spec(service, **{"runtime": "process", "image": None, "command": command, "stop_grace_ms": 2_000, **changes})


def wanted(*specs: ReplicaSpec, **changes: Any) -> Desired:
    """A host that has to run these."""
    stacks = frozenset(each.key.stack for each in specs)
    return Desired(**({"specs": specs, "stacks": stacks} | changes))


def workload(of: ReplicaSpec, **changes: Any) -> Workload:
    """What runs a spec, as it was observed."""
    fields: dict[str, Any] = {
        "id": "1" * 64,
        "key": of.key,
        "name": of.container_name,
        "runtime": of.runtime,
        "revision": of.revision,
        "spec_hash": of.hash,
        "state": "running",
        "ports": of.ports,
        "started_at": 1,
    }
    return Workload(**(fields | changes))
