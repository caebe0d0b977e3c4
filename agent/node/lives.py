"""The lives of the members that count, as their peers remember them: who comes with less than that has a disk that went
back.

Starts are counted on the disk before anybody hears of them, and each member tells the others how far the ledger is on
its disk for good. Neither ever falls, unless somebody put an older copy of the disk back, or the disk lost what it said
was written. What that agent voted and acknowledged since is forgotten there; its word counts no more until it has left
the configuration. Every peer goes by what it heard from that agent itself, so nobody can say it of somebody else; and
it keeps that on its own disk (agent.node.disk), since it may have started anew before it meets that agent again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct, field
from msgspec.structs import replace

from agent.model.types import AgentId
from agent.raft import Life
from agent.raft.quorum import majority_of_others


class Lives(Struct):
    """Bounded by the configuration: whoever leaves it is forgotten. `changed` counts what isn't on the disk yet."""

    _known: dict[AgentId, Life] = field(default_factory=dict)
    changed: bool = False

    @classmethod
    def of(cls, kept: Iterable[Life]) -> Lives:
        """What the disk held."""
        return cls({life.agent: life for life in kept})

    def linked(self, peer: AgentId, boot: int, members: Collection[AgentId]) -> bool:
        """A link is up with a peer that says how often it has started; whether its disk was found to have gone back."""
        if peer not in members:
            return False
        known = self._life(peer)
        if boot < known.starts:
            return self._goes_back(known)
        self._note(replace(known, starts=boot))
        return False

    def kept(self, peer: AgentId, boot: int, index: int, last: int, members: Collection[AgentId]) -> bool:
        """A peer says how far its disk is; whether that was found to have gone back.

        An old message of the same life, or of one before, says nothing.
        """
        if peer not in members:
            return False
        known = self._life(peer)
        if boot > known.boot and last < known.up_to:
            return self._goes_back(known)
        if boot >= known.boot:
            self._note(replace(known, boot=boot, up_to=max(index, known.up_to)))
        return False

    def _life(self, peer: AgentId) -> Life:
        return self._known.get(peer) or Life(agent=peer)

    def _goes_back(self, known: Life) -> bool:
        self._note(replace(known, went_back=True))
        return not known.went_back

    def _note(self, life: Life) -> None:
        if self._known.get(life.agent) != life:
            self._known[life.agent] = life
            self.changed = True

    def remembered(self, peer: AgentId) -> int:
        """Up to where the peer has said that its disk is."""
        return self._life(peer).up_to

    def reconfigured(self, members: Collection[AgentId]) -> None:
        """Who has left may come anew."""
        for peer in self._known.keys() - set(members):
            del self._known[peer]
            self.changed = True

    def count(self, peer: AgentId) -> bool:
        """Whether what the peer says in consensus counts."""
        return not self._life(peer).went_back

    def take(self) -> tuple[Life, ...] | None:
        """All of it, for the disk; None while that has it."""
        if not self.changed:
            return None
        self.changed = False
        return tuple(self._known.values())


def forgotten(me: AgentId, voters: Collection[AgentId], told: Mapping[AgentId, int], last: int) -> int | None:
    """Up to where the disk of `me` was, if it has gone back from there; None otherwise.

    `told`: how far each peer remembers it. More than the log has, up to `last`, by the word of a majority of the
    voters: one that lies can't keep another one out (but of two, see `majority_of_others`).
    """
    wanted = majority_of_others(voters, me)
    more = sorted((told[voter] for voter in set(voters) - {me} if told.get(voter, 0) > last), reverse=True)
    return more[wanted - 1] if len(more) >= wanted else None
