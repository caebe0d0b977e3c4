"""Open calls to peers: a request, its replies, and what happens when the peer goes."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from agent.model.types import AgentId
from agent.node.instant import Instant
from agent.node.messages import Reply

OnReply = Callable[[Reply | None, bool, Instant], None]
"""(reply, end, when); reply None: the link is gone, nothing more comes."""


class _Open(Struct, frozen=True):
    peer: AgentId
    on_reply: OnReply


class CallBook:
    """Calls that this agent opened. Ids are never used twice between two starts of the agent."""

    def __init__(self) -> None:
        self._next = 1
        self._open: dict[int, _Open] = {}

    def open(self, peer: AgentId, on_reply: OnReply) -> int:
        """A number for a call to `peer`; its replies go to `on_reply`."""
        call = self._next
        self._next += 1
        self._open[call] = _Open(peer, on_reply)
        return call

    def close(self, call: int) -> AgentId | None:
        """Forget a call; its peer, or None when it was over already."""
        found = self._open.pop(call, None)
        return found.peer if found else None

    def replied(self, peer: AgentId, call: int, reply: Reply, end: bool, when: Instant) -> bool:
        """Pass a reply on; one to a cancelled call crossed the cancellation. False: there never was such a call."""
        found = self._open.get(call)
        if found is None:
            return call < self._next
        if found.peer != peer:
            return False
        if end:
            del self._open[call]
        found.on_reply(reply, end, when)
        return True

    def peer_lost(self, peer: AgentId, when: Instant) -> None:
        """End every call to `peer`."""
        lost = [call for call, found in self._open.items() if found.peer == peer]
        for call in lost:
            found = self._open.pop(call, None)
            if found is not None:
                found.on_reply(None, True, when)
