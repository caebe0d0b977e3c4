"""What is reported of each replica: its state, derived from what is wanted, seen and remembered.

| wanted | seen | state |
|---|---|---|
| runs | an action is under way | pulling, starting or stopping |
| runs | runs as wanted, check passes or there is none and it has settled | healthy |
| runs | runs as wanted, check not in yet, or hasn't settled | starting |
| runs | runs as wanted, check fails | unhealthy |
| runs | ended or couldn't start, next try is due | backoff; failed once it is given up |
| runs | ended, and its restart policy leaves it | stopped after code 0, else failed |
| runs | nothing yet | pending |
| stopped | nothing, or ended | stopped |
| refused by the host | anything | failed |
| until its successor elsewhere is healthy | runs | healthy; unhealthy if its engine says so |
| not at all | still there | stopping |
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct

from agent.host.desired import Desired
from agent.host.life import Life, ReconcileMemory, renewed
from agent.host.ports import LIVE_STATES
from agent.host.reconcile import current_of, restarts
from agent.model.reason import with_output
from agent.model.report import ObservedReplica, ReplicaState
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.workload import Workload


class Doing(Struct, frozen=True, kw_only=True):
    """An action under way, and how far it is."""

    state: ReplicaState
    detail: str = ""


def replica_states(
    wanted: Desired,
    workloads: Iterable[Workload],
    memory: ReconcileMemory,
    doing: Mapping[ReplicaKey, Doing],
    now: float,
) -> tuple[ObservedReplica, ...]:
    """Every replica that concerns this host, in the order of keys."""
    ours: dict[ReplicaKey, list[Workload]] = {}
    for workload in workloads:
        ours.setdefault(workload.key, []).append(workload)
    found: dict[ReplicaKey, ObservedReplica] = {}
    for spec in wanted.specs:
        # A busy replica's memory may still be its predecessor's, whose failures say nothing about this revision.
        life = renewed(memory.life(spec.key), spec)
        found[spec.key] = _wanted(spec, ours.get(spec.key, []), life, doing.get(spec.key), now)
    for spec in wanted.stopped:
        found[spec.key] = _halted(spec, ours.get(spec.key, []))
    for refused in wanted.refused:
        found[refused.key] = ObservedReplica(
            stack=refused.key.stack,
            service=refused.key.service,
            slot=refused.key.slot,
            state="failed",
            revision=refused.revision,
            spec_hash=refused.spec_hash,
            reason=refused.reason,
        )
    for key, mine in ours.items():
        live = next((workload for workload in mine if workload.state in LIVE_STATES), None)
        if key in wanted.kept and live is not None:
            state: ReplicaState = "unhealthy" if live.health == "unhealthy" else "healthy"
            found[key] = _of(live, state, live.revision, "runs until its successor is healthy")
        elif key not in found:
            found[key] = _of(mine[0], "stopping", mine[0].revision, memory.life(key).reason)
    return tuple(found[key] for key in sorted(found))


def reason_of(life: Life) -> str:
    """What went wrong, with the replica's last words."""
    return with_output(life.reason, life.log)


def _of(workload: Workload, state: ReplicaState, revision: int, reason: str = "", restarts: int = 0) -> ObservedReplica:
    return ObservedReplica(
        stack=workload.key.stack,
        service=workload.key.service,
        slot=workload.key.slot,
        state=state,
        revision=revision,
        spec_hash=workload.spec_hash,
        runtime=workload.runtime,
        reason=reason,
        container_id=workload.id,
        container_name=workload.name,
        image_ref=workload.image_ref,
        image_id=workload.image_id,
        ports=workload.ports,
        restarts=restarts + workload.restarts,
        started_at=workload.started_at,
    )


def _absent(spec: ReplicaSpec, state: ReplicaState, life: Life, reason: str = "") -> ObservedReplica:
    return ObservedReplica(
        stack=spec.key.stack,
        service=spec.key.service,
        slot=spec.key.slot,
        state=state,
        revision=spec.revision,
        spec_hash=spec.hash,
        runtime=spec.runtime,
        reason=reason,
        container_name=spec.container_name,
        image_ref=spec.image.ref if spec.image else "",
        ports=spec.ports,
        restarts=life.restarts,
    )


def _wanted(
    spec: ReplicaSpec, mine: Sequence[Workload], life: Life, doing: Doing | None, now: float
) -> ObservedReplica:
    current = current_of(spec, mine)
    # Sticky: a crash loop or a hopeless start stays failed through its slow tries until it is healthy.
    hopeless = life.given_up and not life.is_healthy(now)
    if doing is not None and not hopeless:
        if current is not None:
            return _of(current, doing.state, spec.revision, doing.detail or reason_of(life), life.restarts)
        return _absent(spec, doing.state, life, doing.detail or reason_of(life))
    if current is None:
        old = next((workload for workload in mine if workload.state in LIVE_STATES), None)
        if hopeless or life.failures:
            return _absent(spec, "failed" if hopeless else "backoff", life, reason_of(life))
        if old is not None:
            return _of(old, "stopping", old.revision, "is being replaced")
        return _absent(spec, "pending", life, life.reason)
    state, reason = _running(spec, current, life, now)
    if hopeless and state not in ("healthy", "stopped"):
        state, reason = "failed", reason_of(life)
    return _of(current, state, spec.revision, reason, life.restarts)


def _running(spec: ReplicaSpec, current: Workload, life: Life, now: float) -> tuple[ReplicaState, str]:
    if current.state == "running":
        if life.is_healthy(now) and current.health in ("none", "healthy"):
            return "healthy", ""
        if current.health == "unhealthy":
            return "unhealthy", with_output(current.reason or life.reason, life.log)
        return "starting", current.reason or reason_of(life)
    if current.state == "exited" and not restarts(spec, current):
        return ("stopped" if current.exit_code == 0 else "failed"), reason_of(life)
    if current.state == "created":
        return "starting", reason_of(life)
    return "backoff", reason_of(life)


def _halted(spec: ReplicaSpec, mine: Sequence[Workload]) -> ObservedReplica:
    current = current_of(spec, mine)
    if current is None:
        return _absent(spec, "stopped", Life())
    return _of(current, "stopping" if current.state in LIVE_STATES else "stopped", spec.revision)
