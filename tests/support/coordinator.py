"""A coordinator for the fake cluster: it decides as the real one does, and hosts do what they are told at once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from msgspec.structs import replace

from agent.control import decide
from agent.model.errand import ErrandFinding, Prepare, errand_id
from agent.model.ledger import LevelEntry
from agent.model.report import ObservedReplica, ReplicaState
from agent.model.stack import Image, Service, Stack
from agent.state import STATE_LEVEL
from tests.support.fake_node import FakeCluster
from tests.support.shop import instruct


def coordinate(cluster: FakeCluster, state: ReplicaState = "healthy") -> None:
    """One decision of the coordinator's, and what hosts report: each replica is in `state`, every errand is done."""
    ledger = cluster.ledger
    errands = decide(ledger.state, ledger.facts(), ledger.now_ms()).errands
    for member in ledger.state.members.values():
        replicas = tuple(
            ObservedReplica(
                stack=item.stack,
                service=item.service,
                slot=item.slot,
                state=state,
                revision=item.instruction.revision,
                spec_hash="ab" * 8,
            )
            for item in ledger.state.assignments.values()
            if item.host == member.id
        )
        ledger.report(member.name, *replicas)
        findings = tuple(
            ErrandFinding(
                errand=errand_id(errand),
                kind="prepare" if isinstance(errand, Prepare) else "reach",
                stack=errand.stack,
                state="ready",
            )
            for errand in errands.get(member.id, ())
        )
        ledger.reports[member.name] = replace(ledger.reports[member.name], findings=findings)
    ledger.propose(*decide(ledger.state, ledger.facts(), ledger.now_ms()).entries)


@asynccontextmanager
async def coordinating(cluster: FakeCluster) -> AsyncIterator[None]:
    async def go_on() -> None:
        while True:
            coordinate(cluster)
            await asyncio.sleep(0.05)

    task = asyncio.create_task(go_on())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def deploy(cluster: FakeCluster, **services: Service) -> None:
    """And the ledger is at the newest level, as it is soon after a cluster begins."""
    cluster.ledger.propose(LevelEntry(at=cluster.ledger.now_ms(), level=STATE_LEVEL))
    instruct(cluster, "deploy", "stack:shop", Stack(name="shop", services=services))
    while cluster.ledger.state.stacks["shop"].phase != "healthy":
        coordinate(cluster)


def service(**fields: object) -> Service:
    return Service(image=Image(ref="web:1"), **fields)  # type: ignore[arg-type]  # Service's


def on(cluster: FakeCluster, host: str) -> list[str]:
    return sorted(str(key) for key, it in cluster.ledger.state.assignments.items() if it.host == cluster.hosts[host].id)
