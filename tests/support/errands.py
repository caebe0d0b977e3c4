"""Answers to errands, as a host would give them."""

from __future__ import annotations

from agent.host import Task
from agent.host.errands import Preparation
from agent.model.errand import Finding, FindingState, Unreached


def answer(task: Task, state: FindingState, detail: str = "", *unreached: Unreached) -> Finding:
    """How far the host is with the task."""
    return Finding(
        errand=task.errand,
        kind="prepare" if isinstance(task, Preparation) else "reach",
        stack=task.stack,
        service=task.service if isinstance(task, Preparation) else "",
        state=state,
        detail=detail,
        unreached=unreached,
    )


def all_right(task: Task) -> Finding:
    """Of a host that is ready for everything and reaches everybody."""
    return answer(task, "ready")
