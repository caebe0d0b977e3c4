"""News that waits to be piggybacked (SWIM §4.1): what was sent least goes first, each a limited number of times."""

from __future__ import annotations

import math
from typing import TypeAlias

from msgspec import Struct

from agent.swim.messages import Update
from agent.swim.states import Claim

_Key: TypeAlias = tuple[str, str]


def retransmit_limit(multiplier: int, live_members: int) -> int:
    """How often each member sends one update: λ · ceil(log10(n + 1)) (SWIM §4.1)."""
    return multiplier * max(1, math.ceil(math.log10(live_members + 1)))


class _Entry(Struct):
    update: Update
    serial: int
    transmits: int = 0


class GossipQueue:
    """Updates about each member, the latest only; suspicions one per origin, so that confirmations spread.

    Invariants: no entry is sent more often than the limit; at most 1 + K entries per member, K the confirmations wanted
    (the core queues no more), so the queue is bounded by the ledger's size.
    """

    def __init__(self) -> None:
        self._entries: dict[_Key, _Entry] = {}
        self._serial = 0

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, update: Update) -> None:
        """Queue `update`; it replaces everything older about that member."""
        self._serial += 1
        if update.claim is not Claim.SUSPECT:
            self.forget(update.member)
        else:
            stale = [
                key
                for key, entry in self._entries.items()
                if key[0] == update.member
                and (entry.update.claim is not Claim.SUSPECT or entry.update.incarnation < update.incarnation)
            ]
            for key in stale:
                del self._entries[key]
        origin = update.origin if update.claim is Claim.SUSPECT else ""
        self._entries[update.member, origin] = _Entry(update, self._serial)

    def forget(self, member: str) -> None:
        """Drop all news about `member`."""
        for key in [key for key in self._entries if key[0] == member]:
            del self._entries[key]

    def clear(self) -> None:
        """Drop all news."""
        self._entries.clear()

    def take(self, count: int, limit: int, *, without: str = "") -> list[Update]:
        """At most `count` updates for one message, least sent first, then latest; none about the member `without`.

        Each counts as sent once more and leaves the queue after `limit` times.
        """
        waiting = sorted(
            (item for item in self._entries.items() if item[0][0] != without),
            key=lambda item: (item[1].transmits, -item[1].serial),
        )
        taken = waiting[: max(0, count)]
        for key, entry in taken:
            entry.transmits += 1
            if entry.transmits >= limit:
                del self._entries[key]
        return [entry.update for _, entry in taken]
