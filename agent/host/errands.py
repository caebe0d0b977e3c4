"""Resolves errands to what this host has to look at: pointers, resolved by its own ledger
(agent.model.errand). Pure.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from agent.host.desired import HostContext, Refused, resolve
from agent.model.errand import Errand, Prepare, Reach, errand_id
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.stack import HealthProbe
from agent.model.types import AgentId, HostAddress, Label, Port
from agent.state import ClusterState, ports_to_ask, service_of


class Preparation(Struct, frozen=True, kw_only=True):
    """Replicas of one service to get everything ready for; `refused`: why this host won't run them, else empty."""

    errand: str
    stack: Label
    service: Label
    specs: tuple[ReplicaSpec, ...] = ()
    refused: str = ""


class Endpoint(Struct, frozen=True, kw_only=True):
    """A replica's published TCP port. `probe`: how to ask it, None: only connect."""

    key: ReplicaKey
    address: HostAddress
    port: Port
    probe: HealthProbe | None = None


class Survey(Struct, frozen=True, kw_only=True):
    """Ports to try."""

    errand: str
    stack: Label
    endpoints: tuple[Endpoint, ...]


Task = Preparation | Survey


def resolve_errands(
    state: ClusterState, agent: AgentId, context: HostContext, errands: Iterable[Errand]
) -> tuple[Task, ...]:
    """What to look at, in the order of the errands. Leaves out what this host's ledger doesn't have yet: resolve again
    later.

    A host that was expelled, or isn't enrolled yet, looks at nothing.
    """
    if agent not in state.members:
        return ()
    tasks = (
        _preparation(state, agent, context, errand) if isinstance(errand, Prepare) else _survey(state, agent, errand)
        for errand in errands
    )
    return tuple(task for task in tasks if task is not None)


def _preparation(state: ClusterState, agent: AgentId, context: HostContext, errand: Prepare) -> Preparation | None:
    specs: list[ReplicaSpec] = []
    for assignment in errand.assignments:
        signed = state.signed.get(assignment.instruction.digest)
        if signed is None or signed.ref.revision < assignment.instruction.revision:
            return None  # the same plan may be here already, as it was signed before
        made = resolve(state, agent, assignment, context)
        if isinstance(made, Refused):
            return Preparation(
                errand=errand_id(errand), stack=errand.stack, service=errand.service, refused=made.reason
            )
        specs.append(made)
    return Preparation(errand=errand_id(errand), stack=errand.stack, service=errand.service, specs=tuple(specs))


def _survey(state: ClusterState, agent: AgentId, errand: Reach) -> Survey | None:
    if state.index < errand.index:
        return None
    endpoints = [
        endpoint
        for slot in errand.slots
        for endpoint in _endpoints(state, agent, ReplicaKey(stack=errand.stack, service=slot.service, slot=slot.slot))
    ]
    return Survey(errand=errand_id(errand), stack=errand.stack, endpoints=tuple(endpoints))


def _endpoints(state: ClusterState, agent: AgentId, key: ReplicaKey) -> list[Endpoint]:
    """What the plan lets this host try; nothing for a replica that is gone meanwhile."""
    assignment = state.assignments.get(key)
    service = service_of(state, assignment) if assignment is not None else None
    member = state.members.get(assignment.host) if assignment is not None else None
    if assignment is None or service is None or member is None:
        return []
    return [
        Endpoint(
            key=key,
            address=member.address,
            port=port.host_port,
            probe=service.health
            if service.health is not None and service.health.container_port == port.container_port
            else None,
        )
        for port in ports_to_ask(service, assignment, agent)
    ]
