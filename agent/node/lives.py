"""The lives of the members that count, as their peers remember them: who comes with less than that has a disk that went
back.

Starts are counted on the disk before anybody hears of them, and each member tells the others how far the ledger is on
its disk for good. Neither ever falls, unless somebody put an older copy of the disk back, or the disk lost what it said
was written. What that agent voted and acknowledged since is forgotten there; its word counts no more until it has left
the configuration. Every peer goes by what it heard from that agent itself, so nobody can say it of somebody else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from msgspec import Struct, field

from agent.model.types import AgentId
from agent.raft.quorum import majority_of_others


class _Kept(NamedTuple):
    """What a member has told of its disk: entries up to there, in its life `boot`."""

    boot: int
    up_to: int


class Lives(Struct):
    """Bounded by the configuration: whoever leaves it is forgotten."""

    _newest: dict[AgentId, int] = field(default_factory=dict)
    _kept: dict[AgentId, _Kept] = field(default_factory=dict)
    _went_back: set[AgentId] = field(default_factory=set)

    def linked(self, peer: AgentId, boot: int, members: Collection[AgentId]) -> bool:
        """A link is up with a peer that says how often it has started; whether its disk was found to have gone back."""
        if peer not in members:
            return False
        newest = self._newest.setdefault(peer, boot)
        self._newest[peer] = max(newest, boot)
        return boot < newest and self._goes_back(peer)

    def kept(self, peer: AgentId, boot: int, index: int, last: int, members: Collection[AgentId]) -> bool:
        """A peer says how far its disk is; whether that was found to have gone back.

        An old message of the same life, or of one before, says nothing.
        """
        if peer not in members:
            return False
        known = self._kept.get(peer, _Kept(boot, 0))
        if boot > known.boot and last < known.up_to:
            return self._goes_back(peer)
        if boot >= known.boot:
            self._kept[peer] = _Kept(boot, max(index, known.up_to))
        return False

    def _goes_back(self, peer: AgentId) -> bool:
        news = peer not in self._went_back
        self._went_back.add(peer)
        return news

    def remembered(self, peer: AgentId) -> int:
        """Up to where the peer has said that its disk is."""
        return self._kept[peer].up_to if peer in self._kept else 0

    def reconfigured(self, members: Collection[AgentId]) -> None:
        """Who has left may come anew."""
        for peer in (self._newest.keys() | self._kept.keys()) - set(members):
            self._newest.pop(peer, None)
            self._kept.pop(peer, None)
            self._went_back.discard(peer)

    def count(self, peer: AgentId) -> bool:
        """Whether what the peer says in consensus counts."""
        return peer not in self._went_back


def forgotten(me: AgentId, voters: Collection[AgentId], told: Mapping[AgentId, int], last: int) -> int | None:
    """Up to where the disk of `me` was, if it has gone back from there; None otherwise.

    `told`: how far each peer remembers it. More than the log has, up to `last`, by the word of a majority of the
    voters: one that lies can't keep another one out (but of two, see `majority_of_others`).
    """
    wanted = majority_of_others(voters, me)
    more = sorted((told[voter] for voter in set(voters) - {me} if told.get(voter, 0) > last), reverse=True)
    return more[wanted - 1] if len(more) >= wanted else None
