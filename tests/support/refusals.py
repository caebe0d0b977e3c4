"""An agent is refused as expelled, without a link table: as the shell of either (agent.node.driver) hands it on."""

from __future__ import annotations

from agent.model.expulsion import Expulsion
from agent.node.core import NodeCore
from agent.node.instant import Instant
from agent.state import expulsions


def refuse(core: NodeCore, by: NodeCore, when: Instant) -> Expulsion | None:
    """`by` knows `core` as expelled. What its disk has to keep, if it has just been proven."""
    kept = expulsions(by.context.state).get(core.context.id)
    token, body = (kept.token, kept.body) if kept is not None else ("", b"")
    news = core.refused(by.context.id, token, body, when)
    return news if news is not None and news.is_known else None
