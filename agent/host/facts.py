"""The variables that Muster adds to a replica's environment, and `${NAME}` in a process' arguments.

| variable | value |
|---|---|
| `MUSTER_HOST` | the host's advertised address |
| `MUSTER_NAME` | the host's name |
| `MUSTER_STACK`, `MUSTER_SERVICE`, `MUSTER_SLOT` | which replica this is |
| `MUSTER_PORT_<container port>` | where others reach that port: `MUSTER_HOST:MUSTER_PORT_8443`, with every runtime |
| `MUSTER_LISTEN_<container port>` | where the replica itself listens: the host port as a plain process (there is no \
port mapping), the container port in Docker |
| `MUSTER_ENDPOINTS` | the file that says where all replicas of the stack are, replaced when that changes |
| `MAIN_HOST`, `MAIN_PORT` | where the stack's main instance is reached; not there before it has a host; while it \
moves where it is to be, as the replica keeps what it was told for longer than that takes |
| `WORKER_INDEX` | workers only: 1, 2, …, unique in the stack |

The plan's own `MAIN_HOST`, `MAIN_PORT` and `WORKER_INDEX` win; its `MUSTER_*` don't.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from agent.host.endpoints import DIRECTORY, FILE_NAME, VARIABLE
from agent.model.ledger import Assignment
from agent.model.spec import ReplicaKey
from agent.model.stack import Service, Stack
from agent.state.types import ClusterState

_REFERENCE = re.compile(r"\$(?:\$|\{([A-Za-z_][A-Za-z0-9_]*)\})")


def facts_for(
    state: ClusterState, assignment: Assignment, stack: Stack, *, address: str, endpoints: str = ""
) -> dict[str, str]:
    """The variables of the table above for a replica on the host at `address`, with its `endpoints` directory."""
    service = stack.services[assignment.service]
    member = state.members.get(assignment.host)
    facts = {
        "MUSTER_HOST": address,
        "MUSTER_NAME": member.name if member else "",
        "MUSTER_STACK": assignment.stack,
        "MUSTER_SERVICE": assignment.service,
        "MUSTER_SLOT": str(assignment.slot),
    }
    # tcp last, so that it wins where a port number is used with both protocols
    for port in sorted(assignment.ports, key=lambda port: port.protocol, reverse=True):
        listen = port.host_port if service.runtime == "process" else port.container_port
        facts[f"MUSTER_PORT_{port.container_port}"] = str(port.host_port)
        facts[f"MUSTER_LISTEN_{port.container_port}"] = str(listen)
    if endpoints:
        directory = f"{endpoints}/{assignment.stack}" if service.runtime == "process" else DIRECTORY
        facts[VARIABLE] = f"{directory}/{FILE_NAME}"
    facts.update(_main(state, assignment.stack, stack))
    if service.role == "worker":
        facts["WORKER_INDEX"] = str(_worker_index(stack, assignment))
    planned = service.environment
    return {name: value for name, value in facts.items() if name.startswith("MUSTER_") or name not in planned}


def _main(state: ClusterState, stack_name: str, stack: Stack) -> dict[str, str]:
    for name, service in stack.services.items():
        if service.role != "main":
            continue
        assigned = state.assignments.get(ReplicaKey(stack=stack_name, service=name, slot=1))
        member = state.members.get(assigned.host) if assigned else None
        if assigned is None or member is None:
            continue
        found = {"MAIN_HOST": member.address}
        for port in assigned.ports:
            if port.protocol == "tcp":
                return {**found, "MAIN_PORT": str(port.host_port)}
        return found
    return {}


def _worker_index(stack: Stack, assignment: Assignment) -> int:
    """Counts across the stack's worker services first, then slots: scaling one of them renumbers nobody."""
    workers = [name for name, service in stack.services.items() if service.role == "worker"]
    return (assignment.slot - 1) * len(workers) + workers.index(assignment.service) + 1


def substitute(command: tuple[str, ...], variables: Mapping[str, str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """`${NAME}` replaced from `variables`, `$$` by `$`; every other `$` stays. No shell, no nesting, one pass.

    For the process runtime only: in a container the program reads its environment. Returns the arguments and the names
    that `variables` doesn't have (each replaced by nothing), in order of appearance.
    """
    missing: list[str] = []

    def value(found: re.Match[str]) -> str:
        name = found[1]
        if name is None:
            return "$"
        if name not in variables and name not in missing:
            missing.append(name)
        return variables.get(name, "")

    return tuple(_REFERENCE.sub(value, argument) for argument in command), tuple(missing)


def replica_environment(environment: Mapping[str, str], facts: Mapping[str, str]) -> dict[str, str]:
    """A replica's environment: the plan's variables and the facts."""
    return {**environment, **facts}


def container_name(service: Service, assignment: Assignment) -> str:
    """SEED's `container_name` for slot 1, with `-2`, `-3`, … behind it for others; else `<stack>-<service>-<slot>`."""
    if service.container_name is None:
        return f"{assignment.stack}-{assignment.service}-{assignment.slot}"
    if assignment.slot == 1:
        return service.container_name
    suffix = f"-{assignment.slot}"
    return service.container_name[: 128 - len(suffix)] + suffix
