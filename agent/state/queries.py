"""Questions about a state that several parts ask."""

from __future__ import annotations

from typing import Literal

from agent.instruction import audience_of as audience
from agent.model.cluster import Member
from agent.model.ledger import AssignedPort, Assignment, Predecessor
from agent.model.spec import ReplicaKey
from agent.model.stack import InstructionRef, Service, Stack, Validation
from agent.model.types import AgentId, Label
from agent.state.types import ClusterState, Evidence, StackState


def audience_of(state: ClusterState) -> str:
    """The `aud` that an instruction for this cluster carries: `<cluster id>.<epoch>`."""
    return audience(state.cluster, state.epoch)


def member_named(state: ClusterState, name: Label) -> Member | None:
    """The member of that host name: what `Service.host` pins to."""
    return next((member for member in state.members.values() if member.name == name), None)


def expulsions(state: ClusterState) -> dict[AgentId, Evidence]:
    """The instructions that expelled somebody, as far as they are kept."""
    return {item.target.partition(":")[2]: item for item in state.evidence.values() if item.act == "expel"}


def stack_at(state: ClusterState, ref: InstructionRef) -> Stack | None:
    """The signed stack that `ref` points at. The digest alone says which: the same plan deployed again has it again."""
    signed = state.signed.get(ref.digest)
    return signed.stack if signed is not None else None


def deployed_stack(state: ClusterState, stack: StackState) -> Stack:
    """The deploy in force. Invariant: the state holds it signed."""
    return state.signed[stack.deployed.digest].stack


def service_of(state: ClusterState, assignment: Assignment) -> Service | None:
    """The service as the operator signed it for this assignment."""
    stack = stack_at(state, assignment.instruction)
    return stack.services.get(assignment.service) if stack is not None else None


def wanted_replicas(stack: StackState, name: Label, service: Service) -> int | Literal["global"]:
    """How many slots the service has now: what `scale` said since the deploy, else what the deploy says."""
    return stack.scale.get(name, service.replicas) if service.replicas != "global" else "global"


def wants_stopped(stack: StackState, service: Label) -> bool:
    """Whether the service's replicas must not run: told to stop, or the stack is being removed."""
    return stack.removing or service in stack.stopped


def rests(stack: StackState, service: Label) -> bool:
    """Whether the service's replicas must not run now: it is stopped, or the start hasn't got to it yet."""
    return wants_stopped(stack, service) or service in stack.held


def assignments_of(state: ClusterState, stack: Label) -> dict[ReplicaKey, Assignment]:
    """All assignments of a stack."""
    return {key: assignment for key, assignment in state.assignments.items() if key.stack == stack}


def assignments_on(state: ClusterState, host: AgentId) -> dict[ReplicaKey, Assignment]:
    """All assignments of a host."""
    return {key: assignment for key, assignment in state.assignments.items() if assignment.host == host}


def key_of(assignment: Assignment) -> ReplicaKey:
    """The replica that an assignment is for."""
    return ReplicaKey(stack=assignment.stack, service=assignment.service, slot=assignment.slot)


def hosts_of(assignment: Assignment) -> frozenset[AgentId]:
    """Where the replica may run: on its host, and on its predecessor's."""
    return frozenset((assignment.host, serving(assignment).host))


def serving(assignment: Assignment) -> Assignment | Predecessor:
    """The host and ports at which others reach the replica: its predecessor's, until it is healthy itself."""
    return assignment.predecessor or assignment


def validation_of(service: Service, port: AssignedPort) -> Validation:
    """Who tries the port before a rollout is healthy; nobody, if it isn't one of the service's or no TCP port."""
    if port.protocol != "tcp":
        return "none"
    ports = (spec for spec in service.ports if (spec.container_port, spec.protocol) == (port.container_port, "tcp"))
    return next((spec.validation for spec in ports), "none")


def ports_to_ask(service: Service, assignment: Assignment, host: AgentId) -> list[AssignedPort]:
    """The replica's TCP ports that the plan lets `host` try; they may be closed to other hosts on purpose."""
    asked = ("all", "host") if assignment.host == host else ("all",)
    return [port for port in assignment.ports if validation_of(service, port) in asked]


def satisfies(member: Member, service: Service) -> bool:
    """Whether the operator's constraints (pin and labels) let the service run on that member."""
    pinned = service.host is None or service.host == member.name
    return pinned and all(member.labels.get(key) == value for key, value in service.labels.items())
