"""Where a stack's replicas are, as its own programs read it: `endpoints.json` in the container (docs/plans.md "What a
replica is told"). Pure."""

from __future__ import annotations

import msgspec
from msgspec import Struct

from agent.model.ledger import AssignedPort
from agent.model.stack import Role
from agent.model.types import HostAddress, Label
from agent.state import ClusterState, assignments_of, deployed_stack, serving, wants_stopped

DIRECTORY = "/run/muster"
FILE_NAME = "endpoints.json"
VARIABLE = "MUSTER_ENDPOINTS"


class ReplicaEndpoint(Struct, frozen=True, kw_only=True):
    """`address` with a port's `host_port` is where the replica's `container_port` is reached."""

    slot: int
    host: Label
    address: HostAddress
    ports: tuple[AssignedPort, ...]


class ServiceEndpoints(Struct, frozen=True, kw_only=True):
    role: Role
    replicas: tuple[ReplicaEndpoint, ...]


class StackEndpoints(Struct, frozen=True, kw_only=True):
    """The whole file. It says where replicas are placed, not whether they are healthy; one that moves is listed at its
    old place until its successor is healthy.
    """

    version: int = 1
    stack: Label
    revision: int
    services: dict[Label, ServiceEndpoints]


def endpoints_of(state: ClusterState, stack: Label) -> bytes:
    """The file of a stack that the state has. Services that are stopped or being released aren't in it."""
    held = state.stacks[stack]
    placed: dict[Label, list[ReplicaEndpoint]] = {}
    for key, assignment in sorted(assignments_of(state, stack).items()):
        at = serving(assignment)
        member = state.members.get(at.host)
        if member is not None:
            placed.setdefault(key.service, []).append(
                ReplicaEndpoint(slot=key.slot, host=member.name, address=member.address, ports=at.ports)
            )
    services = {
        name: ServiceEndpoints(role=service.role, replicas=tuple(placed.get(name, ())))
        for name, service in sorted(deployed_stack(state, held).services.items())
        if not wants_stopped(held, name)
    }
    found = StackEndpoints(stack=stack, revision=held.revision, services=services)
    return msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n"
