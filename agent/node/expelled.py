"""Whether this agent was expelled, and who says so. Pure.

Who knows of it refuses every link, so the agent hears of nothing else any more, its own expulsion in the ledger least
of all. The instruction that an operator signed makes it certain: then this host has nothing to run and no vote. Without
it, what peers say is for people alone: one that lies must not change what this host does.
"""

from __future__ import annotations

from msgspec import Struct, field

from agent.errors import MusterError
from agent.formats.timestamps import rfc3339
from agent.instruction import read_instruction
from agent.model.expulsion import Expulsion
from agent.model.instruction import Body, Expel
from agent.model.types import AgentId
from agent.node.context import Context
from agent.node.instant import Instant
from agent.state import audience_of, expulsions
from agent.state.signed import body_of

MAX_TOLD_BY = 16  # of those who say it: more make it no truer


class Expelled(Struct):
    """`_known`: what was proven, for the rest of the epoch, since an expelled id never returns. The next may have begun
    from a ledger without it. `_told_by`: the peers that said so when they were last dialled.
    """

    context: Context
    _known: Expulsion | None = None
    _told_by: set[AgentId] = field(default_factory=set)

    def begin(self, when: Instant) -> None:
        """Stand aside from the start, if it was known before."""
        if self._known is not None and self._known.epoch < self.context.state.epoch:
            self._known = None
        if self._known is not None:
            self._stand_aside(when)

    def told(self, peer: AgentId, token: str, body: bytes, when: Instant) -> Expulsion | None:
        """A peer refuses us as expelled, perhaps with the instruction; what is news in that."""
        before = self.look()
        if len(self._told_by) < MAX_TOLD_BY:
            self._told_by.add(peer)
        if token and self._known is None and (proven := self._proven(token, body)) is not None:
            self._known = proven
            self._stand_aside(when)
        after = self.look()
        is_news = before is None or (after is not None and after.is_known and not before.is_known)
        return after if is_news else None

    def link_up(self, peer: AgentId) -> None:
        """It takes us, whatever it said before."""
        self._told_by.discard(peer)

    @property
    def keeps_out(self) -> Expulsion | None:
        """What keeps this host out: an expulsion that is known, or that others tell of while nobody coordinates us."""
        found = self.look()
        return found if found is not None and (found.is_known or self.context.leader is None) else None

    def look(self) -> Expulsion | None:
        """What is known or said; None when nobody says so."""
        context = self.context
        if context.id in context.state.expelled:
            record, kept = context.state.targets[f"member:{context.id}"], expulsions(context.state).get(context.id)
            reason = _reason(body_of(kept)) if kept is not None else ""
            return Expulsion(by=record.by, at=rfc3339(record.at), reason=reason, epoch=context.state.epoch)
        if self._known is not None:
            return self._known
        if self._told_by:
            return Expulsion(told_by=tuple(sorted(map(context.name_of, self._told_by))))
        return None

    def _proven(self, token: str, body: bytes) -> Expulsion | None:
        """What the instruction says, if it is one to expel us, by somebody who may as far as our ledger knows.

        One of a revision that another instruction has taken never applied, and never will. Others may not have applied
        either, but then the members still coordinate us.
        """
        state, target = self.context.state, f"member:{self.context.id}"
        if self.context.leader is not None:
            return None
        try:
            read = read_instruction(token, body, state.operators, audience_of(state))
        except MusterError:
            return None
        claims, record = read.claims, state.targets.get(target)
        taken = record.revision if record is not None else 0
        if (claims.act, claims.target) != ("expel", target) or claims.rev <= taken:
            return None
        at = rfc3339(claims.iat * 1000)
        return Expulsion(by=read.operator.name, at=at, reason=_reason(read.body), epoch=state.epoch)

    def _stand_aside(self, when: Instant) -> None:
        self.context.expelled = True
        self.context.raft.retire(when.mono)


def _reason(body: Body) -> str:
    assert isinstance(body, Expel)
    return body.reason
