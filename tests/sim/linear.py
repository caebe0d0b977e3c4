"""Linearizability of what operators were answered, per target (Wing & Gong 1993), decided without a search.

A target is a register of revisions that an instruction moves on by exactly one. An instruction that wasn't answered
stays open: it may take effect at any time after it was sent, or never. A conflict is told also of one that took effect:
it was sent more than once, and looked at before its turn, too, or not before another one had come on top of it, as only
the newest answer is kept.

Of any register the question is NP-complete (Gibbons & Korach 1997): a search doubles its orders with every instruction
that may have taken effect or not. Of this one it isn't: each revision is taken once, by one instruction of that number,
so an order is no more than the moments when 1, 2, 3, … were taken; and an answer to an instruction speaks only of the
moments of its own revision and of those next to it. One pass over the revisions finds the moments that each can have.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

Answered = Literal["applied", "conflict"]


@dataclass(slots=True, eq=False)
class Operation:
    """One instruction: sent first at `invoked`, answered at `returned` (seconds); without an answer inf and None.

    `digest` is of this one alone.
    """

    revision: int
    digest: str
    invoked: float
    returned: float = math.inf
    outcome: Answered | None = None


class _Window(NamedTuple):
    """Between which moments an instruction was looked at, both included; a moment is how many were sent and answered
    before it, so that what happens between two of these happens in any order."""

    first: int
    last: int
    outcome: Answered | None


class _Taken(NamedTuple):
    """A revision was taken at a moment, and the next one has to be until another."""

    at: int
    next_until: float = math.inf


def linearizable(operations: Sequence[Operation], begin: int = 0) -> bool:
    """Whether some order that respects real time explains every answer. The register is at revision `begin` before."""
    windows = _windows(operations)
    applied = [operation.revision for operation in operations if operation.outcome == "applied"]
    if min(applied, default=begin + 1) <= begin:
        return False
    last = max(applied, default=begin)
    taken = [_Taken(0)]  # how the revision before can have been taken, in order: `begin` at the beginning
    for revision in itertools.count(begin + 1):
        rivals = windows[revision]
        ends = [before.at for before in taken if before.next_until == math.inf]
        if revision > last and ends and _explains(rivals, ends[-1], math.inf):
            return True
        taken = _taken(rivals, taken)
        if not taken:
            return False
    raise AssertionError("unreachable: beyond the last revision nobody has to be explained")


def _windows(operations: Sequence[Operation]) -> defaultdict[int, list[_Window]]:
    """By revision. What was sent in the moment of an answer overlaps with it."""
    sent = [(operation.invoked, 0, number) for number, operation in enumerate(operations)]
    answered = [
        (operation.returned, 1, number) for number, operation in enumerate(operations) if operation.outcome is not None
    ]
    moments = {(kind, number): moment for moment, (_, kind, number) in enumerate(sorted(sent + answered))}
    windows: defaultdict[int, list[_Window]] = defaultdict(list)
    for number, operation in enumerate(operations):
        last = moments.get((1, number), len(moments))
        windows[operation.revision].append(_Window(moments[0, number] + 1, last, operation.outcome))
    return windows


def _taken(rivals: Sequence[_Window], befores: Sequence[_Taken]) -> list[_Taken]:
    """How one of `rivals` can have taken their revision, the one before having been taken in one of these ways."""
    applied = [rival for rival in rivals if rival.outcome == "applied"]
    if len(applied) > 1:
        return []
    takers, first = applied or rivals, befores[0].at
    found = []
    for at in sorted({moment for rival in takers for moment in range(max(rival.first, first), rival.last + 1)}):
        # The later the one before was taken, the more it explains.
        latest_first = range(bisect.bisect_right(befores, (at, math.inf)) - 1, -1, -1)
        before = next((befores[number].at for number in latest_first if at <= befores[number].next_until), None)
        if before is not None and _explains(rivals, before, at):
            until = max(_next_until(taker, before) for taker in takers if taker.first <= at <= taker.last)
            found.append(_Taken(at, until))
    return found


def _next_until(taker: _Window, before: int) -> float:
    """Until when the next revision is taken, if this one took its own: who is told of a conflict all the same was
    looked at before its turn, or when another one had come on top."""
    return math.inf if taker.outcome != "conflict" or taker.first <= before else taker.last


def _explains(rivals: Sequence[_Window], before: int, at: float) -> bool:
    """Whether each of `rivals` that was told of a conflict was looked at when it wasn't its turn: before the revision
    before theirs was taken, or once theirs was, too."""
    return all(rival.first <= before or at <= rival.last for rival in rivals if rival.outcome == "conflict")


def smallest_wrong(operations: Sequence[Operation], begin: int = 0) -> list[Operation]:
    """The answers of a history that together can't be: if any of them hadn't come, some order would explain the rest.

    Of what isn't among them it doesn't matter whether and when it happened.
    """
    assert not linearizable(operations, begin), "there is nothing wrong"
    ends = sorted(operation.returned for operation in operations if operation.outcome is not None)
    # The beginning of a linearizable history is linearizable: look for the answer that made it wrong.
    first = bisect.bisect_left(ends, True, key=lambda end: not linearizable(_until(operations, end), begin))
    rest = _until(operations, ends[first])
    for number, operation in enumerate(rest):
        unanswered = Operation(operation.revision, operation.digest, operation.invoked)
        without = [*rest[:number], unanswered, *rest[number + 1 :]]
        if operation.outcome is not None and not linearizable(without, begin):
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
