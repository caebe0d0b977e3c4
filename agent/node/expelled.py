"""Whether this agent was expelled, and who says so. Pure.

Who knows of it refuses every link, so the agent hears of nothing else any more, its own expulsion in the ledger least
of all. What peers say is for people alone: one that lies must not change what this host does.
"""

from __future__ import annotations

from msgspec import Struct, field

from agent.formats.timestamps import rfc3339
from agent.model.expulsion import Expulsion
from agent.model.types import AgentId
from agent.node.context import Context

MAX_TOLD_BY = 16  # of those who say it: more make it no truer


class Expelled(Struct):
    """`_told_by`: the peers that said so when they were last dialled."""

    context: Context
    _told_by: set[AgentId] = field(default_factory=set)

    def told(self, peer: AgentId) -> bool:
        """A peer refuses us as expelled; whether that is news."""
        is_news = not self._told_by
        if len(self._told_by) < MAX_TOLD_BY:
            self._told_by.add(peer)
        return is_news

    def link_up(self, peer: AgentId) -> None:
        """It takes us, whatever it said before."""
        self._told_by.discard(peer)

    @property
    def keeps_out(self) -> Expulsion | None:
        """The same while nobody coordinates us: who hears the coordinator is a member, whatever somebody else says."""
        return self.look() if self.context.leader is None else None

    def look(self) -> Expulsion | None:
        """What is known or said; None when nobody says so."""
        context = self.context
        if context.id in context.state.expelled:
            record = context.state.targets[f"member:{context.id}"]
            return Expulsion(by=record.by, at=rfc3339(record.at))
        if self._told_by:
            return Expulsion(told_by=tuple(sorted(map(context.name_of, self._told_by))))
        return None
