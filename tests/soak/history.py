"""A history of instructions as lines of JSON, and what is wrong with it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import msgspec

from tests.sim.linear import Answered, Operation, linearizable, smallest_wrong


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """One instruction. Times are seconds on the writer's monotonic clock; `returned` None: nobody knows what became of
    it. `through`: the hosts that it was sent to, in order."""

    target: str
    revision: int
    jti: str
    invoked: float
    returned: float | None
    outcome: Answered | None
    through: tuple[str, ...]

    def operation(self) -> Operation:
        """For the judge: without an answer it stays open."""
        if self.returned is None:
            return Operation(self.revision, self.jti, self.invoked)
        return Operation(self.revision, self.jti, self.invoked, self.returned, self.outcome)


def read(path: Path) -> list[Written]:
    """Every whole line of the file."""
    return [msgspec.json.decode(line, type=Written) for line in path.read_bytes().splitlines() if line]


def wrong_in(history: Iterable[Written]) -> dict[str, list[Written]]:
    """By target, the smallest part of what was told that no order explains; empty when all is well."""
    by_target: dict[str, list[Written]] = defaultdict(list)
    for written in history:
        by_target[written.target].append(written)
    wrong: dict[str, list[Written]] = {}
    for target, mine in by_target.items():
        operations = [written.operation() for written in mine]
        if not linearizable(operations):
            needed = {operation.digest for operation in smallest_wrong(operations)}
            wrong[target] = [written for written in mine if written.jti in needed]
    return wrong
