"""How far the ledger was a short time ago, to find hosts that stay behind it. Pure."""

from __future__ import annotations

from collections import deque

from msgspec import Struct, field

MARK_EVERY_S = 1.0  # of the seconds that anybody is given
KEPT_MARKS = 64  # a minute: more than the oldest report that counts and what its host is given together


def _empty() -> deque[tuple[float, int]]:
    return deque(maxlen=KEPT_MARKS)


class Trail(Struct):
    """Invariant: `_marks` rise in time, and in the ledger's index."""

    _marks: deque[tuple[float, int]] = field(default_factory=_empty)

    def note(self, index: int, now: float) -> None:
        """The ledger is applied up to `index` at `now`, in monotonic seconds."""
        if not self._marks or now >= self._marks[-1][0] + MARK_EVERY_S:
            self._marks.append((now, index))

    def index_at(self, then: float) -> int:
        """How far it was then at least; 0 if that isn't known."""
        return next((index for at, index in reversed(self._marks) if at <= then), 0)
