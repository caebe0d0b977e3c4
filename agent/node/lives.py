"""The lives of the members that count, as their peers remember them: who comes with less than that has a disk that went
back.

Starts are counted on the disk before anybody hears of them, and each member tells the others how far the ledger is on
its disk for good. Neither ever falls, unless somebody put an older copy of the disk back, or the disk lost what it said
was written. What that agent voted and acknowledged since is forgotten there; its word counts no more until it has left
the configuration. Every peer goes by what it heard from that agent itself, and keeps it on its own disk
(agent.node.disk), since it may have started anew before it meets that agent again.

What an agent tells is signed, and whoever remembers more of it than it has shows it that signature: its own, so one
that remembers is enough, and none that lies can keep it out (agent.node.consensus).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from msgspec import Struct, field
from msgspec.structs import replace

from agent.model.types import AgentId
from agent.node.messages import KeptFrame
from agent.raft import Life


class Lives(Struct):
    """`_known`: of those who count. `_former`: the last words of those who don't any more, to be shown to them all the
    same: an older disk may know nothing of that. `changed`: the disk lacks some of it.
    """

    _known: dict[AgentId, Life] = field(default_factory=dict)
    _former: dict[AgentId, Life] = field(default_factory=dict)
    changed: bool = False

    @classmethod
    def of(cls, kept: Iterable[Life]) -> Lives:
        """From what the disk held."""
        return cls({life.agent: life for life in kept})

    def linked(self, peer: AgentId, boot: int, members: Collection[AgentId]) -> bool:
        """A link is up with a peer that says how often it has started; whether its disk was found to have gone back."""
        if peer not in members:
            return False
        known = self.life(peer)
        if boot < known.starts:
            return self._goes_back(known)
        self._note(replace(known, starts=boot))
        return False

    def kept(self, peer: AgentId, told: KeptFrame, members: Collection[AgentId]) -> bool:
        """A peer says how far its disk is; whether that was found to have gone back.

        An old message of the same life, or of one before, says nothing.
        """
        if peer not in members:
            return False
        known = self.life(peer)
        if told.boot >= known.boot and (told.went_back or (told.boot > known.boot and told.last < known.up_to)):
            return self._goes_back(known)
        if told.boot >= known.boot:
            further = replace(known, up_to=told.index, word=told.word) if told.index > known.up_to else known
            self._note(replace(further, boot=told.boot))
        return False

    def life(self, peer: AgentId) -> Life:
        """What is remembered of it."""
        return self._known.get(peer) or Life(agent=peer)

    def word(self, peer: AgentId) -> Life:
        """Its last statement about its disk, whether or not it still counts."""
        return self._known.get(peer) or self._former.get(peer) or Life(agent=peer)

    def _goes_back(self, known: Life) -> bool:
        self._note(replace(known, went_back=True))
        return not known.went_back

    def _note(self, life: Life) -> None:
        if self._known.get(life.agent) != life:
            self._known[life.agent] = life
            self.changed = True

    def reconfigured(self, members: Collection[AgentId]) -> None:
        """A member that left may come back as new; its statements stay true of the disk that it had."""
        for peer in self._known.keys() - set(members):
            life = self._known.pop(peer)
            if life.word:
                self._former[peer] = Life(agent=peer, up_to=life.up_to, word=life.word)
            self.changed = True
        for peer in self._former.keys() & set(members):
            del self._former[peer]
            self.changed = True

    def forget(self, expelled: Collection[AgentId]) -> None:
        """They don't come back."""
        for peer in self._former.keys() & set(expelled):
            del self._former[peer]
            self.changed = True

    def count(self, peer: AgentId) -> bool:
        """Whether the peer's consensus messages count."""
        return not self.life(peer).went_back

    def take(self) -> tuple[Life, ...] | None:
        """All of it, to store; None while the disk has it."""
        if not self.changed:
            return None
        self.changed = False
        return (*self._known.values(), *self._former.values())
