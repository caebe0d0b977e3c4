"""What deploy, place, remove, scale, restart, stop and start do to a stack. Refusals are MusterErrors that say why."""

from __future__ import annotations

from collections.abc import Callable, Collection

from msgspec.structs import replace

from agent.errors import InputError, NotFound, Unprocessable
from agent.model.instruction import Act, Body, Remove, Scale, Services
from agent.model.stack import MAX_REPLICAS, InstructionRef, Stack
from agent.model.types import Digest, Label
from agent.state.queries import deployed_stack, member_named
from agent.state.signed import Signed, in_force
from agent.state.types import ClusterState, Evidence, SignedStack, StackState

REMOVAL_LEVEL = 3  # of the ledger, from which on what is removed without a replica stays until its hosts know of it

_Deployment = tuple[InstructionRef | None, dict[Label, int], frozenset[Label]]
"""A deploy, with the scale and the stopped services that it had."""


def _deploy(state: ClusterState, signed: Signed, body: Body) -> ClusterState:
    """Put a stack in force. What was healthy until now becomes `previous`; scale, stop and remove end.

    A stopped stack starts class by class. `place` puts it in force with everything stopped.
    """
    assert isinstance(body, Stack)
    _check_hosts(state, body)
    _check_total(body, {})
    ref = InstructionRef(revision=signed.claims.rev, digest=signed.claims.bdg)
    old = state.stacks.get(body.name)
    stack = StackState(
        name=body.name,
        revision=ref.revision,
        deployed=ref,
        changed_by=signed.operator,
        changed_at=state.at,
        phase_since=state.at,
        moved_index=state.index,
        moved_at=state.at,
    )
    if old is not None and not old.removing:
        back: _Deployment = (old.deployed, old.scale, old.stopped)
        if not old.proven:
            back = (old.previous, old.previous_scale, old.previous_stopped)
        stack = replace(
            stack,
            previous=back[0],
            previous_scale=back[1],
            previous_stopped=back[2],
            held=frozenset(name for name in old.stopped | old.held if name in body.services),
        )
    if signed.claims.act == "place":
        stack = replace(stack, stopped=frozenset(body.services), held=frozenset())
    kept = SignedStack(ref=ref, stack=body, token=signed.token, body=signed.body)
    state = replace(state, signed={**state.signed, ref.digest: kept}, stacks={**state.stacks, body.name: stack})
    if old is not None and not old.proven:
        state = forget_amendments(state, body.name, old.deployed.revision)
    if signed.claims.act == "place":
        state = replace(state, evidence={**state.evidence, signed.evidence_key: signed.evidence})
    if old is None:
        return state
    # A restart that was asked for stays done: another generation would be another container.
    named = _all_services(state, stack)
    generations = {name: revision for name, revision in old.generations.items() if name in named}
    stack = replace(stack, generations=generations)
    state = keep_evidence(replace(state, stacks={**state.stacks, stack.name: stack}), stack)
    return drop_unreferenced(state, body.name, _refs(old))


def _remove(state: ClusterState, signed: Signed, body: Body) -> ClusterState:
    assert isinstance(body, Remove)
    stack = _stack(state, signed)
    stack = replace(
        stack, removing=True, delete_volumes=body.delete_volumes, phase="removing", reason="", phase_since=state.at
    )
    state = _changed(state, stack, signed)
    return state if state.level >= REMOVAL_LEVEL else forget_removed(state, (stack.name,))


def _scale(state: ClusterState, signed: Signed, body: Body) -> ClusterState:
    assert isinstance(body, Scale)
    stack = _stack(state, signed)
    deployed = deployed_stack(state, stack)
    _check_services(deployed, body.services)
    for name in body.services:
        if deployed.services[name].replicas == "global":
            raise Unprocessable(f"{name} runs once on every host that fits", where=f"$.services.{name}")
    scale = {**stack.scale, **body.services}
    _check_total(deployed, scale)
    return _changed(state, _prepare(state, replace(stack, scale=scale)), signed)


def _restart(state: ClusterState, signed: Signed, body: Body) -> ClusterState:
    """A restart's revision becomes the services' generation, so that one instruction proves it."""
    stack = _stack(state, signed)
    generations = {**stack.generations, **dict.fromkeys(_services(state, stack, body), signed.claims.rev)}
    return _changed(state, _prepare(state, replace(stack, generations=generations)), signed)


def _stop(state: ClusterState, signed: Signed, body: Body) -> ClusterState:
    stack = _stack(state, signed)
    named = _services(state, stack, body)
    stack = replace(stack, stopped=stack.stopped | named, held=stack.held - named)
    return _changed(state, _prepare(state, stack), signed)


def _start(state: ClusterState, signed: Signed, body: Body) -> ClusterState:
    stack = _stack(state, signed)
    named = _services(state, stack, body)
    stack = replace(stack, stopped=stack.stopped - named, held=stack.held | (stack.stopped & named))
    return _changed(state, _prepare(state, stack), signed)


def _stack(state: ClusterState, signed: Signed) -> StackState:
    stack = state.stacks.get(signed.name)
    if stack is None:
        raise NotFound(f"no stack is called {signed.name}", fix="`agent status` lists them.")
    if stack.removing:
        raise Unprocessable(f"{signed.name} is being removed", fix="Deploy it again to keep it.")
    return stack


def _services(state: ClusterState, stack: StackState, body: Body) -> frozenset[Label]:
    assert isinstance(body, Services)
    deployed = deployed_stack(state, stack)
    _check_services(deployed, body.services)
    return frozenset(body.services or deployed.services)


def _check_services(stack: Stack, names: Collection[Label]) -> None:
    for name in sorted(names):
        if name not in stack.services:
            known = ", ".join(sorted(stack.services))
            raise NotFound(f"{stack.name} has no service {name}", where="$.services", fix=f"It has {known}.")


def _check_hosts(state: ClusterState, stack: Stack) -> None:
    for name, service in sorted(stack.services.items()):
        if service.host is not None and member_named(state, service.host) is None:
            known = ", ".join(sorted(member.name for member in state.members.values())[:20])
            raise Unprocessable(
                f"{service.host} isn't a member of this cluster",
                where=f"$.services.{name}.host",
                fix=f"Enrol it, or name one of {known}.",
            )


def _check_total(stack: Stack, scale: dict[Label, int]) -> None:
    counts = [(name, service.replicas) for name, service in stack.services.items() if service.replicas != "global"]
    total = sum(scale.get(name, count) for name, count in counts)
    if total > MAX_REPLICAS:
        raise InputError(f"{total} replicas; a stack has at most {MAX_REPLICAS}", where="$.services")


def _prepare(state: ClusterState, stack: StackState) -> StackState:
    """The rollout begins again for what changed."""
    return replace(stack, phase="preparing", reason="", phase_since=state.at)


def _changed(state: ClusterState, stack: StackState, signed: Signed) -> ClusterState:
    stack = replace(
        stack,
        revision=signed.claims.rev,
        changed_by=signed.operator,
        changed_at=state.at,
        moved_index=state.index,
        moved_at=state.at,
    )
    evidence = {**state.evidence, signed.evidence_key: signed.evidence}
    return keep_evidence(replace(state, stacks={**state.stacks, stack.name: stack}, evidence=evidence), stack)


def with_revision(state: ClusterState, stack: StackState, signed: Signed) -> ClusterState:
    """The unchanged stack at the instruction's revision."""
    return replace(state, stacks={**state.stacks, stack.name: replace(stack, revision=signed.claims.rev)})


def keep_evidence(state: ClusterState, stack: StackState) -> ClusterState:
    """Forget instructions on the stack that prove nothing any more, so that a state doesn't grow with its history."""
    mine = _evidence_of(state, stack.name)
    kept = {
        f"{item.target}/{item.revision}" for item in in_force(stack, _all_services(state, stack), list(mine.values()))
    }
    gone = mine.keys() - kept
    if not gone:
        return state
    return replace(state, evidence={key: item for key, item in state.evidence.items() if key not in gone})


def forget_amendments(state: ClusterState, name: Label, since: int) -> ClusterState:
    """Scales, stops and starts since a deploy that is given up end with it; restarts stay done."""
    gone = {key for key, item in _evidence_of(state, name).items() if item.revision > since and item.act != "restart"}
    return replace(state, evidence={key: item for key, item in state.evidence.items() if key not in gone})


def forget_removed(state: ClusterState, names: Collection[Label]) -> ClusterState:
    """A stack that is being removed goes with its last assignment, and so does everything that proved it."""
    for name in sorted(names):
        stack = state.stacks.get(name)
        if stack is None:
            continue
        if stack.removing and not has_assignments(state, name):
            gone = _evidence_of(state, name).keys()
            state = replace(
                state,
                stacks={known: item for known, item in state.stacks.items() if known != name},
                evidence={key: item for key, item in state.evidence.items() if key not in gone},
            )
        # What a released assignment pointed at may be needed no longer, whether or not the stack goes.
        mine = {digest for digest, item in state.signed.items() if item.stack.name == name}
        state = drop_unreferenced(state, name, mine)
    return state


def has_assignments(state: ClusterState, name: Label) -> bool:
    """Whether a replica of the stack has a place."""
    return any(key.stack == name for key in state.assignments)


def drop_unreferenced(state: ClusterState, name: Label, candidates: Collection[Digest]) -> ClusterState:
    """Keep those of `candidates` that are deployed, previous, or pointed at by an assignment of the stack."""
    stack = state.stacks.get(name)
    wanted = _refs(stack) if stack is not None else frozenset()
    loose = {digest for digest in candidates if digest in state.signed and digest not in wanted}
    for key, assignment in state.assignments.items():
        if not loose:
            return state
        if key.stack == name:
            loose.discard(assignment.instruction.digest)
    if not loose:
        return state
    return replace(state, signed={digest: item for digest, item in state.signed.items() if digest not in loose})


def _refs(stack: StackState) -> frozenset[Digest]:
    return frozenset(ref.digest for ref in (stack.deployed, stack.previous) if ref is not None)


def _evidence_of(state: ClusterState, name: Label) -> dict[str, Evidence]:
    prefix = f"stack:{name}/"
    return {key: item for key, item in state.evidence.items() if key.startswith(prefix)}


def _all_services(state: ClusterState, stack: StackState) -> frozenset[Label]:
    """Of the deploy in force and of the one that a failed rollout returns to."""
    return frozenset(name for digest in _refs(stack) for name in state.signed[digest].stack.services)


STACK_ACTS: dict[Act, Callable[[ClusterState, Signed, Body], ClusterState]] = {
    "deploy": _deploy,
    "place": _deploy,
    "remove": _remove,
    "scale": _scale,
    "restart": _restart,
    "stop": _stop,
    "start": _start,
}
