"""ReadIndex: linearizable reads without a log entry and without trusting clocks (Raft §6.4)."""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

from agent.raft.errors import ReadDropped


class PendingRead(NamedTuple):
    """`commit`: the index when it came. `round`: the first heartbeat round that starts after it. `requester`: None for
    this member's own."""

    context: bytes
    requester: str | None
    commit: int
    round: int


class PendingReads:
    """Reads of one term of leadership that wait until a majority confirmed it.

    Those that came before this term's first entry was committed wait for that too: until then the commit index may be
    behind what an earlier leader promised.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._too_early: list[tuple[bytes, str | None]] = []
        self._asked: deque[PendingRead] = deque()

    def add(self, context: bytes, requester: str | None, *, commit: int | None, round: int) -> None:
        """`commit`: the commit index, or None while no entry of this term is committed. Raises ReadDropped."""
        if len(self._too_early) + len(self._asked) >= self._limit:
            raise ReadDropped(f"{self._limit} reads are waiting already")
        if commit is None:
            self._too_early.append((context, requester))
        else:
            self._asked.append(PendingRead(context, requester, commit, round))

    def term_committed(self, commit: int, round: int) -> bool:
        """The commit index is of this term now. Returns whether early reads want a round for it."""
        for context, requester in self._too_early:
            self._asked.append(PendingRead(context, requester, commit, round))
        wanted = bool(self._too_early)
        self._too_early.clear()
        return wanted

    def take_confirmed(self, round: int) -> list[PendingRead]:
        """The reads that a majority's answers to `round` confirm, oldest first."""
        confirmed = []
        while self._asked and self._asked[0].round <= round:
            confirmed.append(self._asked.popleft())
        return confirmed
