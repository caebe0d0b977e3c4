"""What a host remembers of each replica between two looks: failures in a row, the next try, whether it ever worked.

Soft state: after a restart of the agent it starts empty, which at worst makes a try come sooner. The runtimes are the
record of what runs. All times are monotonic seconds.
"""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.workload import Workload

BACKOFF_FIRST_S = 1.0  # before the second try; the first one after a long good run follows at once
BACKOFF_MAX_S = 60.0  # a dependency that came back is used within a minute, and a broken image costs next to nothing
STABLE_S = 60.0  # well for this long: what went wrong before is forgotten
SETTLE_S = 1.0  # without a check, a replica counts as healthy once it has run for this long
SETTLE_MAX_S = 10.0  # the same for one that failed before, so that a crash loop doesn't look healthy in between
TRIES_BEFORE_FAILED = 3  # within its rollout; enough for a race with a neighbour's start, few enough to fall back soon
ACTION_RETRY_S = 2.0  # after a stop or remove that the engine refused
LET_GO_S = 2.0  # who reads where replicas are, or has requests under way to one that moved, is through within this
MAX_LOG_LINES = 5  # of the replica's last words, kept for the reason
MAX_LOG_LINE_CHARACTERS = 200  # a reason is read on one screen


class Life(Struct, frozen=True, kw_only=True):
    """One replica's memory.

    Invariants: `failures` counts ends and failed starts since it was last well for STABLE_S; `proven` means that
    `spec_hash` was healthy here once; `well_since` is set only while it runs and its check, if any, passes.
    `leaving`: it moved to another host, and was kept until its successor was healthy.
    `counted` names the run whose end is in `failures` already, so that looking twice counts once.
    """

    spec_hash: str = ""
    revision: int = 0
    failures: int = 0
    start_after: float = 0.0
    act_after: float = 0.0
    begun: bool = False
    restarts: int = 0
    engine_restarts: int = 0
    proven: bool = False
    final: bool = False
    reason: str = ""
    log: tuple[str, ...] = ()
    well_since: float | None = None
    checked: bool = False
    counted: str = ""
    busy_ports: tuple[int, ...] = ()
    leaving: bool = False

    @property
    def given_up(self) -> bool:
        """Whether the rollout should see it as failed. It is still tried again, slowly."""
        return self.final or (self.failures >= TRIES_BEFORE_FAILED and not self.proven)

    def settles_at(self) -> float | None:
        """When it will count as healthy if nothing happens until then; None while it doesn't run well."""
        if self.well_since is None:
            return None
        if self.checked:
            return self.well_since
        return self.well_since + min(SETTLE_S * float(2 ** min(self.failures, 10)), SETTLE_MAX_S)

    def is_healthy(self, now: float) -> bool:
        """Whether it runs well, and has for long enough."""
        settles = self.settles_at()
        return settles is not None and now >= settles


class ReconcileMemory(Struct, frozen=True, kw_only=True):
    """`looked`: at least one plan was made, so what runs then and is new to us was started by us."""

    lives: dict[ReplicaKey, Life] = {}
    looked: bool = False

    def life(self, key: ReplicaKey) -> Life:
        """What is remembered of `key`."""
        return self.lives.get(key, Life())

    def with_life(self, key: ReplicaKey, life: Life) -> ReconcileMemory:
        """The memory with that one changed."""
        return replace(self, lives={**self.lives, key: life})


def backoff_s(failures: int) -> float:
    """Seconds before the next try after so many failures in a row: 0, 1, 2, 4, … BACKOFF_MAX_S."""
    if failures <= 1:
        return 0.0
    exponent = min(failures - 2, 10)  # 2^10 is far beyond the bound already
    return min(BACKOFF_FIRST_S * float(2**exponent), BACKOFF_MAX_S)


def renewed(life: Life, spec: ReplicaSpec) -> Life:
    """The memory for this spec: another revision forgets failures, another hash everything."""
    if (life.spec_hash, life.revision) == (spec.hash, spec.revision):
        return life
    if life.spec_hash != spec.hash:
        return Life(spec_hash=spec.hash, revision=spec.revision, act_after=life.act_after)
    return replace(
        life, revision=spec.revision, failures=0, start_after=0.0, final=False, reason="", log=(), busy_ports=()
    )


def _failed(life: Life, reason: str, now: float) -> Life:
    failures = life.failures + 1
    return replace(
        life, failures=failures, start_after=now + backoff_s(failures), reason=reason, log=(), well_since=None
    )


def seen_running(life: Life, workload: Workload, now: float) -> Life:
    """It runs. Restarts that the engine itself made since the last look are failures too."""
    for _ in range(min(max(workload.restarts - life.engine_restarts, 0), TRIES_BEFORE_FAILED)):
        life = _failed(life, "ended and was restarted by the engine", now)
        life = replace(life, counted=f"{workload.id} restart {workload.restarts}")
    well = workload.state == "running" and workload.health in ("none", "healthy")
    life = replace(
        life,
        begun=True,
        engine_restarts=workload.restarts,
        checked=workload.health != "none",
        well_since=(now if life.well_since is None else life.well_since) if well else None,
    )
    if life.well_since is not None and now - life.well_since >= STABLE_S:
        life = replace(life, failures=0, final=False, reason="", log=())
    return replace(life, proven=True) if life.is_healthy(now) else life


def found_running(life: Life, workload: Workload, now: float) -> Life:
    """It ran already when the agent started. It was fine before, so it doesn't begin as `starting`."""
    life = replace(life, engine_restarts=workload.restarts)
    if workload.state == "running" and workload.health == "none":
        life = replace(life, well_since=now - SETTLE_S)
    return seen_running(life, workload, now)


def seen_ended(life: Life, workload: Workload, now: float) -> Life:
    """It ended by itself; each run's end counts once."""
    mark = f"{workload.id}@{workload.started_at}"
    if life.counted == mark:
        return life
    return replace(_failed(life, end_reason(workload), now), begun=True, counted=mark)


def seen_unhealthy(life: Life, workload: Workload, now: float) -> Life:
    """It runs and its check fails persistently; counts once for each run."""
    mark = f"{workload.id}@{workload.started_at} unhealthy"
    if life.counted == mark:
        return life
    return replace(_failed(life, workload.reason or "its health check fails", now), counted=mark)


def end_reason(workload: Workload) -> str:
    """How it ended, in a sentence."""
    if workload.reason:
        return workload.reason
    if workload.exit_code is None:
        return "ended while the agent was away: its exit code isn't known"
    return f"ended with code {workload.exit_code}"


def started(memory: ReconcileMemory, key: ReplicaKey) -> ReconcileMemory:
    """A start worked. The first one of a spec isn't a restart."""
    life = memory.life(key)
    restarts = life.restarts + 1 if life.begun else life.restarts
    reason = life.reason if life.failures else ""
    life = replace(life, begun=True, restarts=restarts, busy_ports=(), final=False, well_since=None, reason=reason)
    return memory.with_life(key, life)


def start_failed(
    memory: ReconcileMemory,
    key: ReplicaKey,
    reason: str,
    now: float,
    *,
    final: bool = False,
    busy_ports: tuple[int, ...] = (),
) -> ReconcileMemory:
    """A start didn't work. `final`: trying again soon won't help, e.g. the image can't be had."""
    life = _failed(memory.life(key), reason, now)
    if final:
        life = replace(life, final=True, start_after=now + BACKOFF_MAX_S)
    return memory.with_life(key, replace(life, busy_ports=busy_ports))


def action_failed(memory: ReconcileMemory, key: ReplicaKey, reason: str, now: float) -> ReconcileMemory:
    """A stop or remove was refused, or the engine didn't answer: nothing is counted, and the next try comes a moment
    later.
    """
    return memory.with_life(key, replace(memory.life(key), reason=reason, act_after=now + ACTION_RETRY_S))


def waiting(memory: ReconcileMemory, spec: ReplicaSpec, reason: str) -> ReconcileMemory:
    """Nothing can be done about it now, through no fault of the replica."""
    return memory.with_life(spec.key, replace(renewed(memory.life(spec.key), spec), reason=reason))


def with_log(memory: ReconcileMemory, key: ReplicaKey, lines: tuple[str, ...]) -> ReconcileMemory:
    """Keeps the replica's last words, for the reason."""
    kept = tuple(line[:MAX_LOG_LINE_CHARACTERS] for line in lines[-MAX_LOG_LINES:])
    return memory.with_life(key, replace(memory.life(key), log=kept))


def wake_at(memory: ReconcileMemory, now: float) -> float | None:
    """When time alone changes something: the next try, or a replica that settles. None: never."""
    moments: list[float] = []
    for life in memory.lives.values():
        moments += (life.start_after, life.act_after)
        settles = life.settles_at()
        if settles is not None:
            moments += (settles, settles + STABLE_S)
    later = [moment for moment in moments if moment > now]
    return min(later) if later else None
