"""When there are two links with one peer, as when both dial at once: which one stays."""

from __future__ import annotations

from typing import Literal

from agent.model.types import AgentId
from agent.net.link import PeerInfo

Verdict = Literal["keep", "switch", "restarted", "replaced"]
"""What becomes of a second link; the last two are the reason that `link_down` gives for the first."""


def judge_second(own: AgentId, old: PeerInfo, new: PeerInfo, old_age_s: float, handshake_timeout_s: float) -> Verdict:
    """Which of two links with one peer stays: the `old` (`keep`) or the new, quietly (`switch`) or as another life.

    Both dialled at once: the one dialled by the smaller id stays; both sides see the same two and agree. A peer dials
    only while it has no link; so another one by the same side, or one that comes later than any handshake that was
    under way, means that the peer lost the old one.
    """
    if new.boot != old.boot:
        return "restarted" if new.boot > old.boot else "keep"
    if new.dialled == old.dialled or old_age_s > handshake_timeout_s:
        return "replaced"
    new_by_smaller = (own < new.id) == new.dialled
    return "switch" if new_by_smaller else "keep"
