"""Before a rollout changes anything, every host that will get replicas confirms that it can run them. Pure.

A host is asked for what a start needs and can be had beforehand: its engine answers, its policy allows it, image and
files are there, ports can be bound, the disk has room (`agent.node.driver.examining`). The answers are soft state: the
next coordinator plans the same, asks again, and is answered at once.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from agent.control.progress import PULL_DEADLINE_MS, Progress, Reports, deadline_passed
from agent.model.cluster import Member
from agent.model.errand import MAX_SLOTS, Prepare, errand_id
from agent.model.ledger import Assignment
from agent.model.types import AgentId, Label, Millis
from agent.state import StackState

ANSWER_DEADLINE_MS = 60_000  # a host that reports and doesn't say a word about an errand for so long won't
PLACE_DEADLINE_MS = 30_000  # for a host that is away: a restart of it is over by then

Asked = Mapping[AgentId, tuple[Prepare, ...]]
"""What each host is asked to prepare."""


def preparations(stack: StackState, changes: Iterable[Assignment]) -> dict[AgentId, tuple[Prepare, ...]]:
    """One errand for each host and service among the assignments to be made, of at most MAX_SLOTS replicas each.

    Predecessors are left out: they make no difference to the new host.
    """
    grouped: dict[tuple[AgentId, Label], list[Assignment]] = defaultdict(list)
    for assignment in changes:
        grouped[assignment.host, assignment.service].append(replace(assignment, predecessor=None))
    asked: dict[AgentId, list[Prepare]] = defaultdict(list)
    for (host, service), wanted in sorted(grouped.items()):
        # More than that on one host begin without being looked at before; their starts tell.
        some = tuple(sorted(wanted, key=lambda assignment: assignment.slot)[:MAX_SLOTS])
        asked[host].append(Prepare(stack=stack.name, service=service, revision=stack.revision, assignments=some))
    return {host: tuple(errands) for host, errands in asked.items()}


def judge_preparation(
    stack: StackState, members: Mapping[AgentId, Member], asked: Asked, reports: Reports, now_ms: Millis
) -> Progress:
    """done: every host is ready. failed: one isn't, or is silent for too long; `reason` names service and host."""
    waiting = ""
    for host, errands in sorted(asked.items(), key=lambda item: members[item[0]].name):
        name, found = members[host].name, reports.findings(host)
        for errand in errands:
            finding = found.get(errand_id(errand))
            if finding is not None and finding.state == "failed":
                return Progress(verdict="failed", reason=f"{errand.service} on {name}: {finding.detail}")
            if finding is None or finding.state == "working":
                detail = finding.detail if finding is not None else "its host hasn't answered"
                allowed = ANSWER_DEADLINE_MS if finding is None else PULL_DEADLINE_MS
                if deadline_passed(stack, reports.facts, now_ms, allowed):
                    reason = f"{errand.service} on {name}: not prepared within {allowed // 1000} s: {detail}"
                    return Progress(verdict="failed", reason=reason)
                waiting = waiting or f"{errand.service} on {name}: {detail}"
    return Progress(verdict="working", reason=waiting) if waiting else Progress(verdict="done")
