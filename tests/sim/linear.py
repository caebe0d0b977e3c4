"""Linearizability of what operators were answered, per target (Wing & Gong 1993, with Lowe's memory of states, 2017).

A target is a register of (revision, digest) that an instruction moves on by exactly one. An instruction that wasn't
answered stays open: it may take effect at any time after it was sent, or never. A conflict is told also of one that
took effect, when another one came on top of it before it was asked for again: only the newest answer is kept.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

Answered = Literal["applied", "conflict"]
Register = tuple[int, str]


@dataclass(slots=True, eq=False)
class Operation:
    """One instruction: sent first at `invoked`, answered at `returned` (seconds); without an answer inf and None."""

    revision: int
    digest: str
    invoked: float
    returned: float = math.inf
    outcome: Answered | None = None


def linearizable(operations: Sequence[Operation]) -> bool:
    """Whether some order that respects real time explains every answer."""
    history = sorted(operations, key=lambda operation: operation.invoked)
    must = sum(1 << number for number, operation in enumerate(history) if operation.outcome is not None)
    todo: list[tuple[int, Register]] = [(0, (0, ""))]
    seen = set(todo)
    while todo:
        done, register = todo.pop()
        if done & must == must:
            return True
        steps = [(number, _step(register, history[number])) for number in _first(history, done)]
        # What is true just now and changes nothing costs nobody his turn: no other order needs to be tried.
        free = [(number, after) for number, after in steps if after == register]
        for number, after in free[:1] or steps:
            following = (done | 1 << number, after or register)
            if after is not None and following not in seen:
                seen.add(following)
                todo.append(following)
    return False


def _first(history: Sequence[Operation], done: int) -> list[int]:
    """Those that can be next: sent before any other that isn't done was answered."""
    horizon = math.inf
    candidates = []
    for number, operation in enumerate(history):
        if operation.invoked > horizon:
            break
        if not done >> number & 1:
            candidates.append(number)
            horizon = min(horizon, operation.returned)
    return [number for number in candidates if history[number].invoked <= horizon]


def _step(register: Register, operation: Operation) -> Register | None:
    """The register after the operation; None when it can't have been answered so just now."""
    revision, _ = register
    turn = operation.revision == revision + 1
    mine = register == (operation.revision, operation.digest)
    if operation.outcome == "conflict" and not turn:
        return None if mine else register
    if turn:
        return operation.revision, operation.digest
    return register if mine and operation.outcome == "applied" else None


def smallest_wrong(operations: Sequence[Operation]) -> list[Operation]:
    """The answers of a history that together can't be: if any of them hadn't come, some order would explain the rest.

    Of what isn't among them it doesn't matter whether and when it happened.
    """
    assert not linearizable(operations), "there is nothing wrong"
    ends = sorted(operation.returned for operation in operations if operation.outcome is not None)
    # The beginning of a linearizable history is linearizable: look for the answer that made it wrong.
    first = bisect.bisect_left(ends, True, key=lambda end: not linearizable(_until(operations, end)))
    rest = _until(operations, ends[first])
    for number, operation in enumerate(rest):
        unanswered = Operation(operation.revision, operation.digest, operation.invoked)
        if operation.outcome is not None and not linearizable([*rest[:number], unanswered, *rest[number + 1 :]]):
            rest[number] = unanswered
    needed = {operation.digest for operation in rest if operation.outcome is not None}
    return [operation for operation in operations if operation.digest in needed]


def _until(operations: Sequence[Operation], end: float) -> list[Operation]:
    """What was known by then: later answers hadn't come."""
    return [
        operation if operation.returned <= end else Operation(operation.revision, operation.digest, operation.invoked)
        for operation in operations
        if operation.invoked <= end
    ]
