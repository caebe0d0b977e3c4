"""A small shop for the fake cluster: a stack with a main and a worker, deployed, placed and running."""

from __future__ import annotations

import time

from agent.instruction import encode_body, sign_instruction
from agent.model.instruction import Act, Body, InstructionResult
from agent.model.ledger import AssignedPort, AssignEntry, Assignment, InstructionEntry, Phase, PhaseEntry
from agent.model.report import ObservedReplica, ReplicaState
from agent.model.stack import Image, PortSpec, Service, Stack
from tests.support.fake_node import FakeCluster

SECRET = "hunter2-of-the-shop"


def shop(**changes: object) -> Stack:
    web = Service(
        image=Image(ref="web:1"),
        role="main",
        environment={"JWT_SECRET": SECRET},
        ports=(PortSpec(host_port=8443, container_port=8443),),
        **changes,  # type: ignore[arg-type]  # fields of Service
    )
    return Stack(name="shop", services={"web": web, "job": Service(image=Image(ref="job:1"), role="worker")})


def signed(cluster: FakeCluster, act: Act, target: str, body: Body, *, rev: int) -> tuple[str, bytes]:
    data = encode_body(body)
    token = sign_instruction(
        cluster.key,
        operator_name="ann",
        cluster=cluster.home.cluster.id,
        epoch=1,
        act=act,
        target=target,
        revision=rev,
        body_bytes=data,
        now_s=time.time(),
    )
    return token, data


def instruct(cluster: FakeCluster, act: Act, target: str, body: Body) -> InstructionResult:
    ledger = cluster.ledger
    record = ledger.state.targets.get(target)
    token, data = signed(cluster, act, target, body, rev=(record.revision if record else 0) + 1)
    via = next(iter(ledger.state.members))
    result = ledger.propose(InstructionEntry(at=ledger.now_ms(), token=token, body=data, via=via))
    assert result is not None
    return result


def phase(cluster: FakeCluster, to: Phase, reason: str = "", *, stack: str = "shop") -> None:
    ledger = cluster.ledger
    revision = ledger.state.stacks[stack].revision
    ledger.propose(PhaseEntry(at=ledger.now_ms(), stack=stack, revision=revision, phase=to, reason=reason))


def place(cluster: FakeCluster, *places: tuple[str, str], stack: str = "shop") -> None:
    """(service, host) for slot 1 of each."""
    ledger = cluster.ledger
    state = ledger.state.stacks[stack]
    ids = {member.name: member.id for member in ledger.state.members.values()}
    assignments = tuple(
        Assignment(
            stack=stack,
            service=service,
            slot=1,
            host=ids[host],
            instruction=state.deployed,
            ports=(AssignedPort(container_port=8443, host_port=8443),) if service == "web" else (),
        )
        for service, host in places
    )
    ledger.propose(AssignEntry(at=ledger.now_ms(), stack=stack, revision=state.revision, assign=assignments))


def seen(cluster: FakeCluster, service: str, state: ReplicaState = "healthy", reason: str = "") -> ObservedReplica:
    return ObservedReplica(
        stack="shop",
        service=service,
        slot=1,
        state=state,
        reason=reason,
        revision=cluster.ledger.state.stacks["shop"].deployed.revision,
        spec_hash="ab" * 8,
        container_id="c0ffee" * 10 + "beef",
        container_name=f"shop-{service}-1",
        image_ref=f"{service}:1",
        image_id="sha256:" + "1" * 64,
    )


def open_shop(cluster: FakeCluster, job: ReplicaState = "healthy", reason: str = "") -> None:
    """web on n1, job on n2."""
    instruct(cluster, "deploy", "stack:shop", shop())
    place(cluster, ("web", "n1"), ("job", "n2"))
    phase(cluster, "healthy")
    cluster.ledger.report("n1", seen(cluster, "web"))
    cluster.ledger.report("n2", seen(cluster, "job", job, reason))
