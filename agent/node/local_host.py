"""This host's own part: what it has to run, and reporting what it runs to the coordinator."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import msgspec
from msgspec import Struct, field

from agent.control.clock import AGREES_MS
from agent.host import Desired, HostContext, HostObservation, Task, desired, is_as_before, resolve_errands
from agent.model.errand import Errand
from agent.model.report import MAX_REASON_CHARACTERS, HostReport, ObservedReplica, RuntimeInfo
from agent.model.types import AgentId
from agent.node.clock import base_ms
from agent.node.context import Context, Lead
from agent.node.effects import Examine, Reconcile
from agent.node.instant import Instant
from agent.node.passing import signed_report
from agent.state import STATE_LEVEL, ClusterState, hosts_of

REPORT_EVERY_S = 5.0  # soft state told again, in case a frame was dropped; changes are told at once
LOOKS_EVERY_S = 0.5  # a probe brings no look sooner than this after the last; that a clock was set nobody tells


class LocalHost(Struct):
    """`tell` takes the report if this agent itself coordinates; `sign`: by its own key, for reports that others relay.

    `_wanted`: what the ledger wanted of this host when that was last computed, at index `_wanted_at`, and still wants
    by the state `_read`. `_told_applied`: as of the last report.
    """

    context: Context
    host: HostContext
    agent_version: str
    sign: Callable[[bytes], bytes]
    tell: Callable[[HostReport, AgentId, Instant], None]
    observation: HostObservation = field(default_factory=HostObservation)
    _sequence: int = 0
    _dirty: bool = True
    _moved: bool = True
    _wanted: Desired | None = None
    _wanted_at: int = 0
    _read: ClusterState | None = None
    _told: Lead | None = None
    _told_applied: int = 0
    _tell_at: float = 0.0
    _base_ms: int = 0
    _errands: tuple[Errand, ...] = ()
    _tasks: tuple[Task, ...] = ()

    def ledger_moved(self) -> None:
        """What the ledger wants of this host may have changed."""
        self._moved = True

    def asked(self, errands: tuple[Errand, ...]) -> None:
        """The coordinator's errands, all of them; they are resolved by the ledger now and whenever it moves."""
        self._errands = errands
        self._examine()

    def observed(self, observation: HostObservation) -> None:
        """What runs here has changed, or was looked at again."""
        self._dirty = self._dirty or observation != self.observation
        self.observation = observation

    def peers_changed(self) -> None:
        """The coordinator judges hosts by who has a link with them."""
        self._dirty = True

    def pump(self, when: Instant) -> None:
        """Compute what the ledger wants now, and report to the coordinator: at once after a change,
        else now and then.
        """
        if self._moved:
            self._moved = False
            self._reconcile()
            self._examine()
        lead, way = self.context.lead, self.context.way
        if lead is None or way is None:
            self._told = None
            return
        set_anew = abs(base_ms(when) - self._base_ms) > AGREES_MS  # the coordinator goes by what clocks we told it
        if not self._dirty and lead == self._told and when.mono < self._tell_at and not set_anew:
            return
        self._sequence += 1
        report = self._report(when)
        self._dirty, self._told, self._tell_at = False, lead, when.mono + REPORT_EVERY_S
        self._told_applied = report.applied
        self._base_ms = base_ms(when)
        if way == self.context.id:
            self.tell(report, way, when)
        else:
            self.context.send(way, signed_report(self.context, self.sign, report, lead.term))

    def deadline(self) -> float:
        """When `pump` is next wanted without other cause."""
        return self._tell_at if self._told is not None else float("inf")

    def _reconcile(self) -> None:
        """Have the host reconcile with what the ledger wants, if that has changed.

        Most entries change nothing here: the last observation then counts for them too, and mostly nobody waits for it.
        """
        state, wanted = self.context.state, self._wanted
        if self.context.expelled:
            wanted = Desired()  # all of it was replaced elsewhere
        elif wanted is None or self._read is None or not is_as_before(self._read, state):
            wanted = desired(state, self.context.id, self.host)
        self._read = state
        if wanted == self._wanted:
            self._dirty = self._dirty or self._is_awaited(wanted)
            return
        self._wanted, self._wanted_at = wanted, state.index
        self.context.emit(Reconcile(desired=wanted, applied=state.index))

    def _is_awaited(self, wanted: Desired) -> bool:
        """Whether a stack that concerns this host was moved since our last report, and the host is that far.

        Volumes that are to be deleted may be on any host (agent.control.removal).
        """
        state, me, told = self.context.state, self.context.id, self._told_applied
        stacks = {key.stack for key, assignment in state.assignments.items() if me in hosts_of(assignment)}
        moved = [state.stacks[name].moved_index for name in stacks | wanted.delete_volumes_of if name in state.stacks]
        return any(told < index <= self._applied for index in moved)

    @property
    def _applied(self) -> int:
        """Up to where this host has carried out the ledger."""
        seen = self.observation.applied
        return max(seen, self._read.index) if self._read is not None and seen >= self._wanted_at else seen

    def _examine(self) -> None:
        tasks = resolve_errands(self.context.state, self.context.id, self.host, self._errands)
        if tasks != self._tasks:
            self._tasks = tasks
            self.context.emit(Examine(tasks=tasks))

    def own_report(self, when: Instant) -> HostReport | None:
        """What this agent knows of its own host whoever coordinates; None before it has looked."""
        return self._report(when) if self.observation.runtimes or self.observation.applied else None

    def _report(self, when: Instant) -> HostReport:
        seen = self.observation
        return HostReport(
            host=self.context.id,
            boot=self.context.boot,
            sequence=self._sequence,
            at=when.wall_ms,
            applied=self._applied,
            agent_version=self.agent_version,
            level=STATE_LEVEL,
            index=self.context.state.index,
            labels=self.host.labels,
            runtimes=tuple(_bounded(info) for info in seen.runtimes),
            resources=seen.resources,
            replicas=tuple(_bounded(replica) for replica in seen.replicas),
            busy_ports=seen.busy_ports,
            linked=tuple(sorted(self.context.peers)),
            findings=seen.findings,
        )


_Told = TypeVar("_Told", ObservedReplica, RuntimeInfo)


def _bounded(told: _Told) -> _Told:
    """Cuts it: a program's last words and an engine's message may be long, and a report over the bounds is refused."""
    if len(told.reason) <= MAX_REASON_CHARACTERS:
        return told
    return msgspec.structs.replace(told, reason=told.reason[: MAX_REASON_CHARACTERS - 1] + "…")
