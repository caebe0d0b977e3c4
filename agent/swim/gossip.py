"""News that waits to be piggybacked (SWIM §4.1): what was sent least goes first, each a limited number of times."""

from __future__ import annotations

import heapq
import math
from typing import TypeAlias

from msgspec import Struct

from agent.swim.messages import Update
from agent.swim.states import Claim


def retransmit_limit(multiplier: int, live_members: int) -> int:
    """How often each member sends one update: λ · ceil(log10(n + 1)) (SWIM §4.1)."""
    return multiplier * max(1, math.ceil(math.log10(live_members + 1)))


class _Entry(Struct):
    update: Update
    serial: int
    transmits: int = 0
    gone: bool = False


_Waiting: TypeAlias = tuple[int, int, _Entry]
"""Times sent, the serial's negative, the entry: the least is sent next. No two have the same serial."""


class GossipQueue:
    """Updates about each member, the latest only; suspicions one per origin, so that confirmations spread.

    Invariants: no entry is sent more often than the limit; at most 1 + K entries per member, K the confirmations wanted
    (the core queues no more), so the queue is bounded by the ledger's size. Each entry is in the heap once, and what is
    gone stays there until it comes to its top, or until that is more than half of it: a message costs the same however
    much news there is. `size`: how many wait, which is asked after every input.
    """

    def __init__(self) -> None:
        self._entries: dict[str, dict[str, _Entry]] = {}
        self._heap: list[_Waiting] = []
        self.size = 0
        self._serial = 0

    def add(self, update: Update) -> None:
        """Queue `update`; it replaces everything older about that member."""
        self._serial += 1
        if update.claim is not Claim.SUSPECT:
            self.forget(update.member)
        origin = update.origin if update.claim is Claim.SUSPECT else ""
        for known, entry in list(self._entries.get(update.member, {}).items()):
            older = entry.update.claim is not Claim.SUSPECT or entry.update.incarnation < update.incarnation
            if older or known == origin:
                self._drop(update.member, known)
        entry = _Entry(update, self._serial)
        self._entries.setdefault(update.member, {})[origin] = entry
        self.size += 1
        heapq.heappush(self._heap, (0, -entry.serial, entry))

    def forget(self, member: str) -> None:
        """Drop all news about `member`."""
        for origin in list(self._entries.get(member, ())):
            self._drop(member, origin)

    def clear(self) -> None:
        """Drop all news."""
        self._entries.clear()
        self._heap.clear()
        self.size = 0

    def take(self, count: int, limit: int, *, without: str = "") -> list[Update]:
        """At most `count` updates for one message, least sent first, then latest; none about the member `without`.

        Each counts as sent once more and leaves the queue after `limit` times.
        """
        taken: list[_Waiting] = []
        passed: list[_Waiting] = []
        while self._heap and len(taken) < count:
            waiting = heapq.heappop(self._heap)
            entry = waiting[2]
            if not entry.gone:
                (passed if entry.update.member == without else taken).append(waiting)
        for sent, order, entry in taken:
            entry.transmits = sent + 1
            if entry.transmits >= limit:
                self._drop(entry.update.member, entry.update.origin if entry.update.claim is Claim.SUSPECT else "")
            else:
                heapq.heappush(self._heap, (entry.transmits, order, entry))
        for waiting in passed:
            heapq.heappush(self._heap, waiting)
        return [entry.update for _, _, entry in taken]

    def _drop(self, member: str, origin: str) -> None:
        of_member = self._entries[member]
        of_member.pop(origin).gone = True
        if not of_member:
            del self._entries[member]
        self.size -= 1
        if len(self._heap) > 2 * self.size + 1:
            self._heap = [waiting for waiting in self._heap if not waiting[2].gone]
            heapq.heapify(self._heap)
