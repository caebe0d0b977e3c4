"""What some routes answer, made from the state and the status. Pure."""

from __future__ import annotations

import msgspec

from agent.errors import MusterError
from agent.formats.timestamps import rfc3339
from agent.instruction import kid_of, unverified_claims
from agent.model.api import (
    REDACTED,
    EpochBeginning,
    OperatorView,
    ServiceEndpoint,
    Services,
    ServiceView,
    StackView,
    TargetView,
)
from agent.model.instruction import InstructionResult
from agent.model.stack import Stack
from agent.model.status import Status
from agent.model.types import Jti, Label, Target
from agent.state import ClusterState, assignments_of, beginnings, deployed_stack, hosts_of


def services_view(status: Status) -> Services:
    """All services of all stacks, and where their replicas are reached: one that moves, in both places."""
    addresses = {host.name: host.address for host in status.hosts}
    return Services(
        as_of=status.as_of,
        stale=status.stale,
        services=tuple(
            ServiceView(
                stack=stack.name,
                name=service.name,
                wanted=service.wanted,
                healthy=service.healthy,
                endpoints=tuple(
                    ServiceEndpoint(
                        slot=replica.slot, host=host, address=addresses.get(host, host), state=state, ports=ports
                    )
                    for replica in service.replicas
                    for host, state, ports in (
                        (replica.host, replica.state, replica.ports),
                        (replica.predecessor, replica.predecessor_state, replica.predecessor_ports),
                    )
                    if state is not None
                ),
            )
            for stack in status.stacks
            for service in stack.services
        ),
    )


def epoch_beginnings(state: ClusterState) -> tuple[EpochBeginning, ...]:
    """What began each epoch but the first, oldest first."""
    return tuple(
        EpochBeginning(epoch=epoch, token=item.token, body=item.body.decode())
        for epoch, item in sorted(beginnings(state).items())
    )


def operator_views(state: ClusterState) -> tuple[OperatorView, ...]:
    """Who may sign, by name."""
    return tuple(
        OperatorView(
            name=operator.name,
            scope=operator.scope,
            stacks=operator.stacks,
            key=operator.key,
            key_id=kid_of(bytes.fromhex(operator.key)),
        )
        for _, operator in sorted(state.operators.items())
    )


def target_view(state: ClusterState, target: Target) -> TargetView:
    """The target's newest change; counters outlive what they count, so a removed stack still has one."""
    record = state.targets.get(target)
    if record is None:
        return TargetView(target=target, revision=0)
    return TargetView(
        target=target,
        revision=record.revision,
        act=record.act,
        digest=record.digest,
        jti=record.jti,
        by=record.by,
        at=rfc3339(record.at),
        ending_on=tuple(sorted(_ending_on(state, target.partition(":")[2]))) if record.act == "remove" else (),
    )


def _ending_on(state: ClusterState, name: Label) -> set[Label]:
    """Where something of a stack is that is to be deleted with its volumes."""
    stack = state.stacks.get(name)
    if stack is None or not stack.delete_volumes:
        return set()
    hosts = {host for assignment in assignments_of(state, name).values() for host in hosts_of(assignment)}
    return {state.members[host].name for host in hosts if host in state.members}


def stack_view(state: ClusterState, name: Label) -> StackView | None:
    """The deploy in force, None for a stack that isn't there."""
    stack = state.stacks.get(name)
    if stack is None:
        return None
    return StackView(
        name=name,
        revision=stack.revision,
        deployed=stack.deployed,
        phase=stack.phase,
        reason=stack.reason,
        changed_by=stack.changed_by,
        changed_at=rfc3339(stack.changed_at),
        scale=stack.scale,
        stopped=tuple(sorted(stack.stopped)),
        stack=redacted(deployed_stack(state, stack)),
        previous=stack.previous,
        previous_stack=redacted(state.signed[stack.previous.digest].stack) if stack.previous is not None else None,
    )


def held_body(state: ClusterState, token: str) -> bytes:
    """The body that the token of a deploy or place binds, where the state holds it for the same stack; else nothing.

    So an operator signs a deploy again by its digest (`agent rollback`), and its environment is shown to nobody.
    """
    try:
        claims = unverified_claims(token)
    except MusterError:
        return b""  # the reader of the token says what is wrong with it
    held = state.signed.get(claims.bdg)
    if held is None or claims.act not in ("deploy", "place") or claims.target != f"stack:{held.stack.name}":
        return b""
    return held.body


def redacted(stack: Stack) -> Stack:
    """The stack without environment values: they are plan data, and often secrets all the same."""
    services = {
        name: msgspec.structs.replace(service, environment=dict.fromkeys(service.environment, REDACTED))
        for name, service in stack.services.items()
    }
    return msgspec.structs.replace(stack, services=services)


def result_of(state: ClusterState, jti: Jti) -> InstructionResult | None:
    """The ledger's answer to the instruction with that id, as long as it is its target's newest or was refused."""
    for record in state.targets.values():
        if record.jti == jti:
            return record.result
    return state.refusals.get(jti)
