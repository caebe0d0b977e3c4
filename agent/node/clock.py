"""The ledger's clock on the coordinator: its own, checked against what its peers' reports say (agent.control.clock)."""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct, field

from agent.control.clock import settled_ms
from agent.model.types import AgentId, Millis
from agent.node.instant import Instant
from agent.raft.quorum import majority

# A coordinator that hears no clocks stamps by its own after this long; reports come within a round trip.
UNHEARD_S = 1.0

VOTERS_JUDGE = 3  # from so many voters on their clocks count; of fewer there is no majority, so every host's does


class LedgerClock(Struct):
    """For one coordinator's time in office. `_heard`: a peer's clock, and our monotonic one when it came."""

    me: AgentId
    _heard: dict[AgentId, tuple[Millis, float]] = field(default_factory=dict)

    def heard(self, peer: AgentId, at_ms: Millis, when: Instant) -> None:
        """A peer says what time it is there."""
        if peer != self.me:
            self._heard[peer] = at_ms, when.mono

    def forget(self) -> None:
        """The next time in office hears them anew."""
        self._heard.clear()

    def now_ms(self, ledger_ms: Millis, voters: Collection[AgentId], when: Instant) -> Millis:
        """What time it is; see `settled_ms`."""
        counted = self._judges(self._heard, voters)
        others = [at + int((when.mono - heard) * 1000) for peer, (at, heard) in self._heard.items() if peer in counted]
        return settled_ms(when.wall_ms, others, ledger_ms)

    def is_checked(self, voters: Collection[AgentId], linked: Collection[AgentId]) -> bool:
        """Whether enough of those that are there have said what time it is."""
        judges = self._judges(linked, voters)
        wanted = min(len(judges), max(majority(len(voters)), 2) - 1)
        return len(self._heard.keys() & judges) >= wanted

    @staticmethod
    def _judges(peers: Collection[AgentId], voters: Collection[AgentId]) -> set[AgentId]:
        return set(peers) & set(voters) if len(voters) >= VOTERS_JUDGE else set(peers)
