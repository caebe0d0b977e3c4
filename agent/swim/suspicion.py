"""How long a member stays suspect before it is dead (Lifeguard §IV.B, "Local Health Aware Suspicion").

The timeout starts at its longest and falls, logarithmically, to its shortest as independent members confirm the
suspicion. An agent that is cut off hears no confirmations and so waits longest before it calls everybody else dead.
"""

from __future__ import annotations

import math

from agent.swim.config import SwimConfig


def suspicion_bounds_s(config: SwimConfig, live_members: int) -> tuple[float, float]:
    """(shortest, longest) suspicion in seconds for a group of `live_members`, this agent included.

    shortest = α · max(1, log10 n) · probe interval, longest = β · shortest (Lifeguard §IV.B).
    """
    nodes = max(1.0, math.log10(max(1, live_members)))
    shortest = config.suspicion_alpha * nodes * config.probe_interval_ms / 1000
    return shortest, config.suspicion_beta * shortest


def suspicion_timeout_s(confirmations: int, wanted: int, shortest_s: float, longest_s: float) -> float:
    """Seconds from the first suspicion to death after `confirmations` of `wanted` (Lifeguard §IV.B).

    max(shortest, longest - (longest - shortest) · log(C + 1) / log(K + 1)); with K = 0 nobody could confirm: shortest.
    """
    if wanted <= 0:
        return shortest_s
    share = math.log(confirmations + 1) / math.log(wanted + 1)
    return max(shortest_s, longest_s - (longest_s - shortest_s) * share)


class Suspicion:
    """One running suspicion of one member in one incarnation.

    `deadline`: when the member is dead unless it answers; asked after every input.

    Invariants: the deadline never moves later, except for a stall of this agent itself; confirmations <= wanted.
    """

    def __init__(self, *, origin: str, wanted: int, shortest_s: float, longest_s: float, now: float) -> None:
        self.origin = origin
        self._wanted = wanted
        self._shortest_s = shortest_s
        self._longest_s = longest_s
        self._started_at = now
        self._origins = {origin}
        self._claimed_dead = False
        self.deadline = self._deadline()

    @property
    def confirmations(self) -> int:
        """Members that suspect independently, without the first."""
        return len(self._origins) - 1

    def _deadline(self) -> float:
        if self._claimed_dead:
            return self._started_at + self._shortest_s
        timeout = suspicion_timeout_s(self.confirmations, self._wanted, self._shortest_s, self._longest_s)
        return self._started_at + timeout

    def confirm(self, origin: str) -> bool:
        """Count another member's suspicion. True when it is one of the first `wanted`: worth passing on."""
        if origin in self._origins or self.confirmations >= self._wanted:
            return False
        self._origins.add(origin)
        self.deadline = self._deadline()
        return True

    def claim_dead(self) -> bool:
        """Somebody's timer ran out: only the shortest timeout is left to wait. True the first time."""
        first = not self._claimed_dead
        self._claimed_dead = True
        self.deadline = self._deadline()
        return first

    def shift(self, seconds: float) -> None:
        """This agent itself stood still for `seconds`: the member had no chance to be heard in that time."""
        self._started_at += seconds
        self.deadline = self._deadline()
