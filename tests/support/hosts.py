"""What a host tells: what runs there, and what it found out."""

from __future__ import annotations

from typing import Any

from agent.host import HostObservation, Task
from agent.host.errands import Preparation
from agent.model.errand import ErrandFinding, FindingState, Unreached
from agent.model.report import HostResources, ObservedReplica, RuntimeInfo
from agent.node.effects import Reconcile


def answer(task: Task, state: FindingState, detail: str = "", *unreached: Unreached) -> ErrandFinding:
    """How far the host is with the task."""
    return ErrandFinding(
        errand=task.errand,
        kind="prepare" if isinstance(task, Preparation) else "reach",
        stack=task.stack,
        service=task.service if isinstance(task, Preparation) else "",
        state=state,
        detail=detail,
        unreached=unreached,
    )


def all_right(task: Task) -> ErrandFinding:
    """Of a host that is ready for everything and reaches everybody."""
    return answer(task, "ready")


def running(wanted: Reconcile, **changes: Any) -> HostObservation:
    """A host on which everything wanted runs, healthy."""
    fields: dict[str, Any] = {
        "applied": wanted.applied,
        "replicas": tuple(
            ObservedReplica(
                stack=spec.key.stack,
                service=spec.key.service,
                slot=spec.key.slot,
                state="healthy",
                revision=spec.revision,
                spec_hash=spec.hash,
                runtime="process",
                ports=spec.ports,
            )
            for spec in wanted.desired.specs
        ),
        "runtimes": (RuntimeInfo(name="process", available=True),),
        "resources": HostResources(memory_mib=4096, cpu_millis=4000),
    }
    return HostObservation(**(fields | changes))
