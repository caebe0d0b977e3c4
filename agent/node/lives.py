"""The lives of the members that count: one that comes back with an earlier one has a disk that went back.

Starts are counted on the disk before anybody hears of them, so the count never falls, unless somebody put an older copy
of the disk back. What that agent voted and acknowledged since is forgotten there; its word counts no more until it has
left the configuration.
"""

from __future__ import annotations

from collections.abc import Collection

from msgspec import Struct, field

from agent.model.types import AgentId


class Lives(Struct):
    """Bounded by the configuration: whoever leaves it is forgotten."""

    _newest: dict[AgentId, int] = field(default_factory=dict)
    _went_back: set[AgentId] = field(default_factory=set)

    def linked(self, peer: AgentId, boot: int, members: Collection[AgentId]) -> bool:
        """A link is up with a peer that says how often it has started; whether its disk was found to have gone back."""
        if peer not in members:
            return False
        newest = self._newest.setdefault(peer, boot)
        self._newest[peer] = max(newest, boot)
        if boot >= newest or peer in self._went_back:
            return False
        self._went_back.add(peer)
        return True

    def reconfigured(self, members: Collection[AgentId]) -> None:
        """Who has left may come anew."""
        for peer in self._newest.keys() - set(members):
            del self._newest[peer]
            self._went_back.discard(peer)

    def count(self, peer: AgentId) -> bool:
        """Whether what the peer says in consensus counts."""
        return peer not in self._went_back
