"""Whom to probe next, the probe under way, and the probes made for others (SWIM §3.1, §4.3)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from msgspec import Struct, field

# Pings under way for others: k helpers per probe make a few; more than this is a member asking without end.
MAX_RELAYS: Final = 64


class Probe(Struct):
    """The one probe that fills the current protocol period."""

    sequence: int
    target: str
    started_at: float
    ask_at: float  # when helpers are asked
    acked: bool = False
    asked: bool = False
    helpers: list[str] = field(default_factory=list)
    nacks: set[str] = field(default_factory=set)

    @property
    def missing_nacks(self) -> int:
        """Helpers that said nothing at all: a sign that this agent itself can't hear (Lifeguard §IV.A)."""
        return len(self.helpers) - len(self.nacks)


class Relay(Struct, frozen=True):
    """A ping made for `asker`, who knows it as `asker_sequence`."""

    asker: str
    asker_sequence: int
    target: str
    started_at: float
    nack_at: float


class ProbeOrder:
    """Round robin in an order shuffled anew for each round (SWIM §4.3).

    Every member that stays eligible is chosen once per round, so at most 2n - 1 choices lie between two of its turns.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._order: list[str] = []
        self._position = 0

    def add(self, member: str) -> None:
        """Enter `member` at a random place of the rest of this round."""
        self._order.insert(self._rng.randint(self._position, len(self._order)), member)

    def remove(self, member: str) -> None:
        """Take `member` out. Raises ValueError when it isn't in."""
        index = self._order.index(member)
        del self._order[index]
        if index < self._position:
            self._position -= 1

    def next(self, eligible: Callable[[str], bool]) -> str | None:
        """The next member for which `eligible` holds, None when there is none."""
        for _ in range(2 * len(self._order)):  # the rest of this round, then at most one whole round
            if self._position >= len(self._order):
                self._rng.shuffle(self._order)
                self._position = 0
            member = self._order[self._position]
            self._position += 1
            if eligible(member):
                return member
        return None
