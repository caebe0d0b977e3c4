"""What the coordinator's own entries do: assignments and phases.

They can only point at what operators signed. One that points anywhere else, or that was planned from a revision that is
no longer the stack's, changes nothing, on every agent alike.
"""

from __future__ import annotations

from msgspec.structs import replace

from agent.model.ledger import AssignedPort, AssignEntry, Assignment, Phase, PhaseEntry, Predecessor
from agent.model.spec import ReplicaKey
from agent.model.stack import MAX_REPLICAS, PortSpec, Role, Service
from agent.model.types import AgentId, Label
from agent.state.queries import deployed_stack, key_of, satisfies, service_of, wanted_replicas
from agent.state.stacks import (
    REMOVAL_LEVEL,
    drop_unreferenced,
    forget_amendments,
    forget_removed,
    has_assignments,
    keep_evidence,
)
from agent.state.types import ClusterState, StackState

PREDECESSOR_LEVEL = 2  # of the ledger, from which on assignments name predecessors
PORT_TRIES = 100  # docs/seed.md "Automatic port binding": preferred … preferred + 99

_FORWARD: tuple[Phase, ...] = ("preparing", "services", "main", "workers", "validating")
_ENDS: frozenset[Phase] = frozenset({"healthy", "failed", "stopped"})

PHASE_OF: dict[Role, Phase] = {"service": "services", "main": "main", "worker": "workers"}
"""In which phase each class starts."""

MOVES: dict[Phase, frozenset[Phase]] = {
    **{phase: frozenset(_FORWARD[at + 1 :]) | _ENDS for at, phase in enumerate(_FORWARD)},
    "healthy": frozenset(),
    "stopped": frozenset(),
    "failed": frozenset({"healthy", "stopped"}),  # what was late or had no host may still come
    "removing": frozenset(),
}
"""Which phase the coordinator may set after which. Instructions begin at preparing again, or set removing."""


class Ignored(Exception):
    """A coordinator's entry that changes nothing; the text says why."""


def _current(state: ClusterState, name: str, revision: int) -> StackState:
    stack = state.stacks.get(name)
    if stack is None:
        raise Ignored(f"no stack is called {name}")
    if stack.revision != revision:
        raise Ignored(f"planned from revision {revision} of {name}, which is at {stack.revision}")
    return stack


def set_phase(state: ClusterState, entry: PhaseEntry) -> ClusterState:
    """The rollout moves on. Raises Ignored.

    `healthy` proves the deploy. `failed` puts the one before it in force again, unless it had been healthy itself.
    """
    stack = _current(state, entry.stack, entry.revision)
    if entry.phase not in MOVES[stack.phase]:
        raise Ignored(f"{entry.stack} doesn't go from {stack.phase} to {entry.phase}")
    returned = stack.previous is not None and stack.previous == stack.deployed
    if stack.phase == "failed" and returned:
        raise Ignored(f"{entry.stack} failed and went back; only an instruction moves it on")
    moved = replace(stack, phase=entry.phase, reason=entry.reason, phase_since=state.at)
    held = _still_held(state, stack, entry.phase)
    if held != stack.held:
        moved = replace(moved, held=held, moved_index=state.index, moved_at=state.at)
    if entry.phase == "healthy":
        moved = replace(moved, proven=True)
    elif entry.phase == "failed" and not stack.proven and stack.previous is not None and not returned:
        moved = replace(
            moved,
            deployed=stack.previous,
            proven=True,
            scale=stack.previous_scale,
            stopped=stack.previous_stopped,
            held=stack.held & state.signed[stack.previous.digest].stack.services.keys() - stack.previous_stopped,
            generations={
                name: revision
                for name, revision in stack.generations.items()
                if name in state.signed[stack.previous.digest].stack.services
            },
            previous_scale={},
            previous_stopped=frozenset(),
            moved_index=state.index,
            moved_at=state.at,
        )
    state = replace(state, stacks={**state.stacks, moved.name: moved})
    if moved.deployed != stack.deployed:
        state = forget_amendments(state, moved.name, stack.deployed.revision)
        state = drop_unreferenced(keep_evidence(state, moved), moved.name, (stack.deployed.digest,))
    return state


def _still_held(state: ClusterState, stack: StackState, phase: Phase) -> frozenset[Label]:
    """Which services still wait for their class in that phase; those that a failed rollout didn't get to do."""
    if phase not in _FORWARD:
        return stack.held if phase == "failed" else frozenset()
    services = deployed_stack(state, stack).services
    return frozenset(
        name for name in stack.held if _FORWARD.index(PHASE_OF[services[name].role]) > _FORWARD.index(phase)
    )


def place(state: ClusterState, entry: AssignEntry) -> tuple[ClusterState, frozenset[ReplicaKey], frozenset[ReplicaKey]]:
    """The state with assignments made and released, and which. All of an entry counts, or nothing. Raises Ignored.

    An entry that names none ends a removed stack that has none.
    """
    stack = _current(state, entry.stack, entry.revision)
    for assignment in entry.assign:
        _check(state, stack, assignment)
    assignments = dict(state.assignments)
    touched = {a.instruction.digest for a in map(assignments.get, _keys(entry)) if a is not None}
    released = frozenset(key for key in _released(entry) if assignments.pop(key, None) is not None)
    assigned = frozenset(
        key_of(assignment) for assignment in entry.assign if assignments.get(key_of(assignment)) != assignment
    )
    assignments.update((key_of(assignment), assignment) for assignment in entry.assign)
    ends = stack.removing and state.level >= REMOVAL_LEVEL and not has_assignments(state, stack.name)
    if not (assigned or released or ends):
        raise Ignored(f"nothing about {entry.stack} changes")
    moved = replace(stack, moved_index=state.index, moved_at=state.at)
    state = replace(state, assignments=assignments, stacks={**state.stacks, stack.name: moved})
    if stack.removing:
        return forget_removed(state, (stack.name,)), assigned, released
    return drop_unreferenced(state, stack.name, touched), assigned, released


def _released(entry: AssignEntry) -> list[ReplicaKey]:
    return [ReplicaKey(stack=entry.stack, service=slot.service, slot=slot.slot) for slot in entry.release]


def _keys(entry: AssignEntry) -> list[ReplicaKey]:
    return [key_of(assignment) for assignment in entry.assign] + _released(entry)


def _check(state: ClusterState, stack: StackState, assignment: Assignment) -> None:
    """An assignment stays inside what the operator signed: deploy, service, slot, pin, labels, ports, restarts."""
    what = f"{assignment.stack}/{assignment.service}.{assignment.slot}"
    if stack.removing:
        raise Ignored(f"{stack.name} is being removed")
    if assignment.stack != stack.name or assignment.instruction != stack.deployed:
        raise Ignored(f"{what} points at a deploy that isn't in force")
    service = deployed_stack(state, stack).services.get(assignment.service)
    if service is None:
        raise Ignored(f"{what} points at a service that {stack.name} doesn't have")
    wanted = wanted_replicas(stack, assignment.service, service)
    if assignment.slot > (MAX_REPLICAS if wanted == "global" else wanted):
        raise Ignored(f"{what} is beyond the {wanted} wanted")
    if assignment.generation != stack.generations.get(assignment.service, 0):
        raise Ignored(f"{what} counts restarts that nobody asked for")
    member = state.members.get(assignment.host)
    if member is None:
        raise Ignored(f"{what} is for a host that isn't a member")
    if not satisfies(member, service):
        raise Ignored(f"{what} can't be on {member.name}: pin or labels forbid it")
    if not _ports_fit(service, assignment.ports):
        raise Ignored(f"{what} has ports that its service doesn't allow")
    if assignment.predecessor is not None:
        _check_predecessor(state, what, assignment, assignment.predecessor)


def _check_predecessor(state: ClusterState, what: str, assignment: Assignment, before: Predecessor) -> None:
    """Checks that it is where the ledger had the replica just now, or where that one came from."""
    if state.level < PREDECESSOR_LEVEL:
        raise Ignored(f"{what} names a predecessor, and not all members know yet what that is")
    current = state.assignments.get(key_of(assignment))
    known = () if current is None else (current.predecessor, predecessor_of(current))
    if before not in known or before.host == assignment.host:
        raise Ignored(f"{what} names a predecessor that it doesn't have")


def predecessor_of(current: Assignment) -> Predecessor:
    """The predecessor that an assignment becomes when the replica moves to another host."""
    return Predecessor(host=current.host, ports=current.ports)


def assignments_without(state: ClusterState, gone: AgentId) -> dict[ReplicaKey, Assignment]:
    """All assignments without that host: what was moving there returns to its predecessor, if that place is still
    allowed.
    """
    left: dict[ReplicaKey, Assignment] = {}
    for key, item in state.assignments.items():
        before = item.predecessor
        if item.host == gone and before is not None:
            service, member = service_of(state, item), state.members[before.host]
            if service is not None and satisfies(member, service) and _ports_fit(service, before.ports):
                left[key] = replace(item, host=before.host, ports=before.ports, predecessor=None)
        elif item.host != gone:
            left[key] = replace(item, predecessor=None) if before is not None and before.host == gone else item
    return left


def _ports_fit(service: Service, ports: tuple[AssignedPort, ...]) -> bool:
    if len(ports) != len(service.ports):
        return False
    return all(may_have(spec, port) for spec, port in zip(service.ports, ports, strict=True))


def may_have(spec: PortSpec, port: AssignedPort) -> bool:
    """Whether a host port is one that the service's port may get: preferred … preferred + 99."""
    return (spec.container_port, spec.protocol) == (
        port.container_port,
        port.protocol,
    ) and spec.host_port <= port.host_port < spec.host_port + PORT_TRIES
