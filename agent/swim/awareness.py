"""Local health: how far this agent trusts its own timing (Lifeguard §IV.A, "Local Health Multiplier").

An agent that is itself slow sees everybody else late. The worse its own record, the longer it waits before it blames.
"""

from __future__ import annotations


class Awareness:
    """The Local Health Multiplier. Invariant: 0 <= score <= max_score; 0 is healthy."""

    def __init__(self, max_score: int) -> None:
        if max_score < 0:
            raise ValueError(f"max_score is {max_score}; it must be 0 or more")
        self._max_score = max_score
        self._score = 0

    @property
    def score(self) -> int:
        """0 (healthy) to max_score (every timeout is max_score + 1 times as long)."""
        return self._score

    def adjust(self, delta: int) -> None:
        """Add good (negative) or bad (positive) news about the own health; the score stays within its bounds."""
        self._score = min(self._max_score, max(0, self._score + delta))

    def scale(self, seconds: float) -> float:
        """A probe interval or timeout in seconds, stretched by the own ill health."""
        return seconds * (self._score + 1)
