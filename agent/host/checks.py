"""Health checks that the agent makes: when the next one is due, and what an answer means. Pure; the shell probes.

A replica begins as `starting`. It is asked often at first, so that a rollout doesn't wait for the interval; its first
good answer makes it `healthy`. `retries` bad answers in a row make it `unhealthy`, but bad answers within the start
period of a replica that never answered well don't count.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from agent.model.spec import ReplicaSpec

START_PERIOD_S = 30.0  # programs that need longer to listen are rare; a plan's `start_period` overrides it
FIRST_DELAY_S = 0.05  # a process needs a moment to bind its port
START_INTERVAL_MAX_S = 1.0  # while starting; noticing a start late makes every rollout slower
MAX_REASON_CHARACTERS = 200  # one line on a screen

CheckHealth = Literal["starting", "healthy", "unhealthy"]


class CheckPlan(Struct, frozen=True, kw_only=True):
    """How to ask, in seconds, from a plan's `health` or (process runtime) `health_check`."""

    interval_s: float
    timeout_s: float
    retries: int
    start_s: float = START_PERIOD_S


class CheckState(Struct, frozen=True, kw_only=True):
    """Invariant: `failures` < retries while not unhealthy. `due` is the next question's monotonic time."""

    health: CheckHealth = "starting"
    begun: float
    due: float
    asked: int = 0
    failures: int = 0
    reason: str = ""


def check_plan(spec: ReplicaSpec) -> CheckPlan | None:
    """The checks that the agent has to make for `spec`; None when there are none or only Docker's own."""
    if spec.health is not None:
        probe = spec.health
        return CheckPlan(interval_s=probe.interval_ms / 1000, timeout_s=probe.timeout_ms / 1000, retries=probe.retries)
    command = spec.health_check
    if command is None or spec.runtime != "process" or command.test[0] == "NONE":
        return None
    return CheckPlan(
        interval_s=command.interval_ms / 1000,
        timeout_s=command.timeout_ms / 1000,
        retries=command.retries,
        start_s=command.start_period_ms / 1000 or START_PERIOD_S,
    )


def begin(now: float) -> CheckState:
    """The state of a replica that was just started or found."""
    return CheckState(begun=now, due=now + FIRST_DELAY_S)


def answered(plan: CheckPlan, state: CheckState, ok: bool, reason: str, now: float) -> CheckState:
    """The state after an answer. `reason` says what was wrong with a bad one."""
    asked = state.asked + 1
    if ok:
        return replace(state, health="healthy", due=now + plan.interval_s, asked=asked, failures=0, reason="")
    reason = reason[:MAX_REASON_CHARACTERS]
    if state.health == "starting" and now - state.begun < plan.start_s:
        pause = min(FIRST_DELAY_S * 2 ** min(asked, 10), START_INTERVAL_MAX_S, plan.interval_s)
        return replace(state, due=now + pause, asked=asked, reason=reason)
    failures = min(state.failures + 1, plan.retries)
    health: CheckHealth = "unhealthy" if failures >= plan.retries else state.health
    return replace(state, health=health, due=now + plan.interval_s, asked=asked, failures=failures, reason=reason)
