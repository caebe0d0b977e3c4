"""From the replicated state to what this host has to run: assignments, checked again by the host itself.

An assignment is a pointer that the coordinator set; what it points to was signed by an operator. So pin, labels and
the host's own policy are judged here once more (docs/security.md "What a taken part can do").
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from msgspec import Struct

from agent.host.endpoints import endpoints_of
from agent.host.facts import container_name, facts_for, replica_environment, substitute
from agent.host.files import mounted_files
from agent.host.policy import HostPolicy, refusal
from agent.model.ledger import Assignment
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.stack import Service, Stack
from agent.model.types import AgentId, HostAddress, Labels
from agent.state.queries import hosts_of, rests
from agent.state.types import ClusterState, StackState

PORT_CHOICES = 100  # docs/seed.md "Automatic port binding": increment and retry up to 100 ports


class HostContext(Struct, frozen=True, kw_only=True):
    """What the host knows about itself: its advertised address, its policy, and local labels beside the member's.

    `endpoints`: the directory that has each stack's endpoints file below its name; empty: none are kept.
    """

    address: HostAddress
    policy: HostPolicy = HostPolicy()
    labels: Labels = {}
    endpoints: str = ""


class Refused(Struct, frozen=True, kw_only=True):
    """A replica assigned here that this host won't run. `spec_hash` of the refused spec; empty when it isn't known."""

    key: ReplicaKey
    revision: int
    reason: str
    spec_hash: str = ""


class Desired(Struct, frozen=True, kw_only=True):
    """What this host has to run. `stopped` replicas keep their place and what is left of them, but don't run.

    `kept` are replicas that moved away and aren't healthy there yet: what runs of them goes on, and nothing is started.
    `endpoints` are the contents of the endpoint files of stacks that this host runs something of.
    `stacks` are those that have anything to do with this host; `delete_volumes_of` are stacks on their way out whose
    named volumes go too. Whatever of this host's own runs beyond `specs`, `stopped`, `refused` and `kept` is removed.
    """

    specs: tuple[ReplicaSpec, ...] = ()
    stopped: tuple[ReplicaSpec, ...] = ()
    refused: tuple[Refused, ...] = ()
    kept: frozenset[ReplicaKey] = frozenset()
    stacks: frozenset[str] = frozenset()
    delete_volumes_of: frozenset[str] = frozenset()
    endpoints: dict[str, bytes] = {}


def desired(state: ClusterState, agent: AgentId, context: HostContext) -> Desired:
    """What this host has to run by the state, in the order of keys. An agent that isn't a member has nothing to run."""
    specs: list[ReplicaSpec] = []
    stopped: list[ReplicaSpec] = []
    refused: list[Refused] = []
    kept: set[ReplicaKey] = set()
    stacks: set[str] = set()
    for key, assignment in sorted(_concerning(state, agent), key=lambda found: found[0]):
        stack_state = state.stacks.get(key.stack)
        if agent not in state.members or stack_state is None or stack_state.removing:
            continue
        if assignment.host != agent:
            if not rests(stack_state, key.service):
                stacks.add(key.stack)
                kept.add(key)
            continue
        stacks.add(key.stack)
        made = resolve(state, agent, assignment, context)
        if isinstance(made, Refused):
            refused.append(made)
        elif rests(stack_state, key.service):
            stopped.append(made)
        else:
            specs.append(made)
    leaving = frozenset(name for name, stack in state.stacks.items() if stack.removing and stack.delete_volumes)
    return Desired(
        specs=tuple(specs),
        stopped=tuple(stopped),
        refused=tuple(refused),
        kept=frozenset(kept),
        stacks=frozenset(stacks),
        delete_volumes_of=leaving,
        endpoints={name: endpoints_of(state, name) for name in sorted(stacks)} if context.endpoints else {},
    )


def is_as_before(before: ClusterState, now: ClusterState) -> bool:
    """Whether `desired` must give the same for both states, found without running it: mostly a
    rollout just moves on.
    """
    if (
        now.assignments is not before.assignments
        or now.members is not before.members
        or now.signed is not before.signed
    ):
        return False
    return now.stacks is before.stacks or {name: _asked_of(stack) for name, stack in now.stacks.items()} == {
        name: _asked_of(stack) for name, stack in before.stacks.items()
    }


def _asked_of(stack: StackState) -> Hashable:
    """What a host's part depends on; revision and deploy are in the stack's endpoints file."""
    return stack.revision, stack.deployed, stack.removing, stack.delete_volumes, stack.stopped, stack.held


def _concerning(state: ClusterState, agent: AgentId) -> Iterator[tuple[ReplicaKey, Assignment]]:
    """What is assigned to the host, and predecessors there whose successors aren't healthy yet."""
    for key, assignment in state.assignments.items():
        if agent in hosts_of(assignment):
            yield key, assignment


def resolve(state: ClusterState, agent: AgentId, assignment: Assignment, context: HostContext) -> ReplicaSpec | Refused:
    """The one replica as a spec, or why this host doesn't run it."""
    key = ReplicaKey(stack=assignment.stack, service=assignment.service, slot=assignment.slot)
    revision = assignment.instruction.revision
    signed = state.signed.get(assignment.instruction.digest)
    # The same plan signed again keeps one entry, under its newest revision.
    if signed is None or revision > signed.ref.revision or signed.stack.name != assignment.stack:
        return Refused(key=key, revision=revision, reason="the assignment points to no instruction of this stack")
    service = signed.stack.services.get(assignment.service)
    if service is None:
        return Refused(key=key, revision=revision, reason=f"revision {revision} has no service {assignment.service!r}")
    spec = _spec(state, agent, assignment, signed.stack, context)
    reason = (
        _misplaced(state, agent, service, context)
        or _port_mismatch(service, assignment)
        or refusal(service, context.policy)
        or _cannot_run(spec)
    )
    if reason:
        return Refused(key=key, revision=revision, reason=reason, spec_hash=spec.hash)
    return spec


def _spec(
    state: ClusterState, agent: AgentId, assignment: Assignment, stack: Stack, context: HostContext
) -> ReplicaSpec:
    service = stack.services[assignment.service]
    return ReplicaSpec(
        key=ReplicaKey(stack=assignment.stack, service=assignment.service, slot=assignment.slot),
        cluster=state.cluster,
        agent=agent,
        revision=assignment.instruction.revision,
        generation=assignment.generation,
        container_name=container_name(service, assignment),
        runtime=service.runtime,
        image=service.image,
        command=service.command,
        environment=service.environment,
        facts=facts_for(state, assignment, stack, address=context.address, endpoints=context.endpoints),
        ports=assignment.ports,
        volumes=service.volumes,
        networks=service.networks,
        restart_policy=service.restart_policy,
        health_check=service.health_check,
        health=service.health,
        resources=service.resources,
        stop_grace_ms=service.stop_grace_ms,
        files=mounted_files(stack, service),
    )


def _misplaced(state: ClusterState, agent: AgentId, service: Service, context: HostContext) -> str:
    member = state.members[agent]
    if service.host is not None and service.host != member.name:
        return f"pinned to {service.host}, and this is {member.name}"
    labels = {**member.labels, **context.labels}
    for name, value in sorted(service.labels.items()):
        if labels.get(name) != value:
            return f"wants label {name}={value}, this host has {labels.get(name) or 'none'}"
    return ""


def _port_mismatch(service: Service, assignment: Assignment) -> str:
    """A coordinator may choose host ports, not which of the container's ports are opened."""
    planned = sorted((port.container_port, port.protocol, port.host_port) for port in service.ports)
    assigned = sorted((port.container_port, port.protocol, port.host_port) for port in assignment.ports)
    if [port[:2] for port in planned] != [port[:2] for port in assigned]:
        return f"signed for {len(planned)} ports, assigned to others: {assigned}"
    for (_, _, preferred), (_, _, given) in zip(planned, assigned, strict=True):
        if not preferred <= given < preferred + PORT_CHOICES:
            return f"signed for host port {preferred} or the {PORT_CHOICES - 1} above it, assigned {given}"
    return ""


def _cannot_run(spec: ReplicaSpec) -> str:
    if spec.runtime == "docker":
        return "" if spec.image is not None else "has no image to run with Docker"
    if not spec.command:
        return "has no command to run as a process"
    _, missing = substitute(spec.command, replica_environment(spec.environment, spec.facts))
    # Facts about the main instance may come later than the assignment; everything else never will.
    never = [name for name in missing if name not in {"MAIN_HOST", "MAIN_PORT"}]
    return f"its command names variables that it doesn't have: {', '.join(never)}" if never else ""
