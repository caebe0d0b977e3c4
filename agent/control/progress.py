"""How far a replica is towards its assignment, by what its host reported."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from agent.control.facts import ClusterFacts
from agent.model.errand import ErrandFinding
from agent.model.ledger import Assignment
from agent.model.report import ObservedReplica
from agent.model.spec import ReplicaKey
from agent.model.types import AgentId, Millis
from agent.state import StackState, key_of

HEALTHY_DEADLINE_MS = 300_000  # after its last change; slow starters (a JVM, a migration) take a minute or two
PULL_DEADLINE_MS = 1_800_000  # while the image is on its way: 10 GB at 6 MB/s

Verdict = Literal["done", "working", "unheard", "failed"]
"""done: as wanted. working: on its way, the deadline counts. unheard: its host says nothing yet. failed: won't come."""


class Progress(Struct, frozen=True, kw_only=True):
    """`reason` says what is wrong or what is waited for; empty when done."""

    verdict: Verdict
    reason: str = ""


class Reports:
    """The hosts' reports, searchable by replica; each is indexed once, when first used."""

    def __init__(self, facts: ClusterFacts) -> None:
        self.facts = facts
        self._by_host: dict[AgentId, dict[ReplicaKey, ObservedReplica]] = {}
        self._findings: dict[AgentId, dict[str, ErrandFinding]] = {}

    def observed(self, assignment: Assignment) -> ObservedReplica | None:
        """What its host reports of the assignment's replica."""
        host = assignment.host
        if host not in self._by_host:
            report = self.facts.of(host).report
            replicas = report.replicas if report is not None else ()
            self._by_host[host] = {
                ReplicaKey(stack=item.stack, service=item.service, slot=item.slot): item for item in replicas
            }
        return self._by_host[host].get(key_of(assignment))

    def findings(self, host: AgentId) -> dict[str, ErrandFinding]:
        """The findings that the host reports, by errand id."""
        if host not in self._findings:
            report = self.facts.of(host).report
            found = report.findings if report is not None else ()
            self._findings[host] = {finding.errand: finding for finding in found}
        return self._findings[host]


def judge(stack: StackState, assignment: Assignment, reports: Reports, now_ms: Millis, *, stopped: bool) -> Progress:
    """The progress of one replica of a service that should run, or be stopped.

    A report counts only if its host had reconciled the stack's newest change (`moved_index`), and what it says of the
    replica only if that is of this assignment's revision: when the host reconciles the assignment, it updates an
    observed replica's revision, whether or not the container changes.
    """
    facts = reports.facts
    host = facts.of(assignment.host)
    if host.lost:
        if stopped:
            return Progress(verdict="done")
        return Progress(verdict=_late(stack, facts, now_ms), reason=f"its host is {host.liveness}")
    if host.report is None:
        return Progress(verdict="unheard", reason="its host hasn't reported yet")
    if host.report.applied < stack.moved_index:
        return Progress(verdict=_late(stack, facts, now_ms), reason="its host is behind")
    seen = reports.observed(assignment)
    if stopped:
        ended = seen is None or seen.state in ("stopped", "failed")
        return Progress(verdict="done") if ended else _judge_running(stack, facts, seen, now_ms, "still runs")
    if seen is None or seen.revision != assignment.instruction.revision:
        return Progress(verdict=_late(stack, facts, now_ms), reason="its host hasn't begun")
    if seen.state in ("healthy", "stopped"):  # stopped: it ended well, and its restart policy leaves it at that
        return Progress(verdict="done")
    if seen.state == "failed":
        return Progress(verdict="failed", reason=seen.reason or "failed")
    return _judge_running(stack, facts, seen, now_ms, seen.reason or seen.state)


def deadline_passed(stack: StackState, facts: ClusterFacts, now_ms: Millis, allowed_ms: int, begun: Millis = 0) -> bool:
    """Whether the time is up: counted from the stack's last change, or from this coordinator's begin."""
    since = max(stack.phase_since, stack.moved_at, facts.since_ms, begun if begun <= now_ms else 0)
    return now_ms - since >= allowed_ms


def _late(stack: StackState, facts: ClusterFacts, now_ms: Millis) -> Verdict:
    return "failed" if deadline_passed(stack, facts, now_ms, HEALTHY_DEADLINE_MS) else "working"


def _judge_running(
    stack: StackState, facts: ClusterFacts, seen: ObservedReplica | None, now_ms: Millis, reason: str
) -> Progress:
    """Not there yet. A first start counts from when it started, so that a long pull doesn't eat its time."""
    assert seen is not None
    allowed = PULL_DEADLINE_MS if seen.state == "pulling" else HEALTHY_DEADLINE_MS
    begun = seen.started_at if seen.restarts == 0 else 0
    if deadline_passed(stack, facts, now_ms, allowed, begun):
        return Progress(verdict="failed", reason=f"not as wanted within {allowed // 1000} s: {reason}")
    return Progress(verdict="working", reason=reason)
