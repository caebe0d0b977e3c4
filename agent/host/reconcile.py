"""Desired and actual → actions. Idempotent and safe to interrupt: after any part of a plan, the next one converges.

Actions of one replica run in order; different replicas don't wait for each other. A workload is this host's own if its
runtime shows it: what others have on the same engine is never among them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct
from msgspec.structs import replace

from agent.host.desired import Desired, Refused
from agent.host.life import (
    LET_GO_S,
    Life,
    ReconcileMemory,
    found_running,
    renewed,
    seen_ended,
    seen_running,
    seen_unhealthy,
)
from agent.host.ports import LIVE_STATES, held_ports, waits_for
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.stack import RuntimeName
from agent.model.workload import Workload


class Prepare(Struct, frozen=True, kw_only=True):
    """Do what a start needs and the running predecessor doesn't mind, so that a missing image can't cost the
    predecessor.
    """

    spec: ReplicaSpec

    @property
    def key(self) -> ReplicaKey:
        return self.spec.key


class Start(Struct, frozen=True, kw_only=True):
    """Make it run: create it, or start what is left of an ended run with the same hash."""

    spec: ReplicaSpec

    @property
    def key(self) -> ReplicaKey:
        return self.spec.key


class Stop(Struct, frozen=True, kw_only=True):
    """End it, with the grace it was started with."""

    key: ReplicaKey
    runtime: RuntimeName
    workload_id: str


class Remove(Struct, frozen=True, kw_only=True):
    """Remove what a stop left."""

    key: ReplicaKey
    runtime: RuntimeName
    workload_id: str


Action = Prepare | Start | Stop | Remove

_Plan = tuple[list[Action], Life]


def reconcile(
    wanted: Desired,
    workloads: Iterable[Workload],
    memory: ReconcileMemory,
    now: float,
    *,
    busy: frozenset[ReplicaKey] = frozenset(),
) -> tuple[tuple[Action, ...], ReconcileMemory]:
    """What to do now, and what to remember. `busy` replicas have actions under way and are left alone.

    Waiting (back-off, a port that is about to be free) isn't an action: call again at `life.wake_at` and on every
    change.
    """
    ours: dict[ReplicaKey, list[Workload]] = {}
    for workload in workloads:
        ours.setdefault(workload.key, []).append(workload)
    specs = {spec.key: spec for spec in wanted.specs}
    stopped = {spec.key: spec for spec in wanted.stopped}
    refused = {refusal.key: refusal for refusal in wanted.refused}
    held = held_ports(workload for group in ours.values() for workload in group)
    actions: list[Action] = []
    lives: dict[ReplicaKey, Life] = {}
    for key in sorted(specs.keys() | stopped.keys() | refused.keys() | ours.keys() | busy):
        mine, life = ours.get(key, []), memory.life(key)
        if key in busy:
            planned: _Plan = [], life
        elif key in specs:
            spec = specs[key]
            planned = _converge(spec, mine, life, now, found=not memory.looked)
            if waits_for(spec, held, specs, refused.keys() | wanted.kept):
                planned = [action for action in planned[0] if not isinstance(action, Start)], planned[1]
        elif key in stopped:
            planned = _halt(stopped[key], mine, life)
        elif key in refused:
            planned = _withdraw(refused[key], mine, life)
        else:
            planned = _leave(mine, life, now, kept=key in wanted.kept)
        if now >= planned[1].act_after:
            actions += planned[0]
        if key in busy or key in specs or mine:
            lives[key] = planned[1]
    return tuple(actions), ReconcileMemory(lives=lives, looked=True)


def _end(workloads: Sequence[Workload]) -> list[Action]:
    actions: list[Action] = []
    for workload in workloads:
        if workload.state in LIVE_STATES:
            actions.append(Stop(key=workload.key, runtime=workload.runtime, workload_id=workload.id))
        actions.append(Remove(key=workload.key, runtime=workload.runtime, workload_id=workload.id))
    return actions


def current_of(spec: ReplicaSpec, workloads: Sequence[Workload]) -> Workload | None:
    """The workload that is this spec, the liveliest and youngest if there are several."""
    matching = [workload for workload in workloads if workload.spec_hash == spec.hash]
    order = ("created", "exited", "restarting", "running")
    return max(matching, key=lambda w: (order.index(w.state), w.started_at, w.id), default=None)


def _converge(spec: ReplicaSpec, mine: Sequence[Workload], life: Life, now: float, *, found: bool) -> _Plan:
    """Make the replica run as `spec` says."""
    life = renewed(life, spec)
    current = current_of(spec, mine)
    surplus = [workload for workload in mine if workload is not current]
    if current is None:
        if now < life.start_after:
            # Old ones stay until their successor can be tried, unless it has been already and they are just in the way.
            return [], life
        replaces = any(workload.state in LIVE_STATES for workload in surplus)
        before: list[Action] = [Prepare(spec=spec)] if replaces else []
        return [*before, *_end(surplus), Start(spec=spec)], life
    actions = _end(surplus)
    if current.state in LIVE_STATES:
        life = (found_running if found else seen_running)(life, current, now)
        if current.health == "unhealthy" and spec.restart_policy != "no":
            life = seen_unhealthy(life, current, now)
            if now >= life.start_after:
                actions.append(Stop(key=spec.key, runtime=spec.runtime, workload_id=current.id))
                actions.append(Start(spec=spec))
        return actions, life
    if current.state == "exited":
        life = seen_ended(life, current, now)
        if not restarts(spec, current):
            return actions, life
    if now >= life.start_after:
        actions.append(Start(spec=spec))
    return actions, life


def restarts(spec: ReplicaSpec, workload: Workload) -> bool:
    """Whether an ended workload is started again. An unknown exit code counts as a failure."""
    if spec.restart_policy == "no":
        return False
    return spec.restart_policy != "on-failure" or workload.exit_code != 0


def _halt(spec: ReplicaSpec, mine: Sequence[Workload], life: Life) -> _Plan:
    """An operator stopped it: what is left stays, for its logs."""
    current = current_of(spec, mine)
    actions = _end([workload for workload in mine if workload is not current])
    if current is not None and current.state in LIVE_STATES:
        actions.append(Stop(key=spec.key, runtime=current.runtime, workload_id=current.id))
    return actions, Life(act_after=life.act_after)


def _leave(mine: Sequence[Workload], life: Life, now: float, *, kept: bool) -> _Plan:
    """It doesn't belong here any more. One that moved keeps running until its successor is healthy, and a moment
    longer.

    If it ends before that it isn't started again.
    """
    if kept:
        ended = [workload for workload in mine if workload.state not in LIVE_STATES]
        return _end(ended), Life(act_after=life.act_after, leaving=True)
    if life.leaving:
        return [], Life(act_after=now + LET_GO_S)
    return _end(mine), Life(act_after=life.act_after)


def _withdraw(refused: Refused, mine: Sequence[Workload], life: Life) -> _Plan:
    """A spec that the policy refuses must not run; what ran before it stays until the rollout has decided."""
    forbidden = [workload for workload in mine if workload.spec_hash == refused.spec_hash]
    return _end(forbidden), replace(life, reason=refused.reason)
