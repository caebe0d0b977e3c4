"""Which way heartbeats and their answers go: by datagram where those are known to come through both ways, else over the
link; sans-IO.

A link is a TCP connection: one lost segment holds up everything behind it for 0.2 s, the next time for 0.4 s, and so
on, and an election begins although all are well. A datagram that is lost costs one heartbeat.

Only an answered heartbeat proves that datagrams pass in both directions. So an answer goes the way its heartbeat came,
and a heartbeat goes over the link too unless the one before was answered by datagram. When a firewall begins to drop
datagrams, one heartbeat is lost, and the next goes over the link.
"""

from __future__ import annotations

import math
from typing import Final

from msgspec import Struct

from agent.model.types import AgentId
from agent.raft.messages import Heartbeat, HeartbeatResponse

Beat = Heartbeat | HeartbeatResponse

# An answered heartbeat proves for so many heartbeats' time that datagrams pass: until the next one, sent a little late.
# With one more at risk a follower would wait within 50 ms of its patience (agent.raft.config); busy hosts are later.
PROVED_BEATS: Final = 1.5

# Where nothing is answered for so long, datagrams are most likely shut out: from then on one is tried now and then.
TRIES_S: Final = 5.0
RETRY_S: Final = 1.0


class Ways(Struct, frozen=True):
    """Over the link, by datagram, or both."""

    link: bool
    datagram: bool


class _Path(Struct):
    """With one peer. `link_round`, `datagram_round`: (term, round) of its newest heartbeat that came each way.

    `tried_round`: of our newest one that went by datagram, at `tried_at`. `answered_at`: when the newest one was sent
    that was answered so before the next: in a queue, as in a flood, answers come late, and datagrams may have stopped.
    """

    answered_at: float = -math.inf
    trying_since: float = -math.inf
    tried_at: float = -math.inf
    tried_round: tuple[int, int] | None = None
    link_round: tuple[int, int] | None = None
    datagram_round: tuple[int, int] | None = None


class Beats:
    """`heartbeat_s`: how often a leader sends one (agent.raft.config). Times are seconds of one clock."""

    def __init__(self, heartbeat_s: float) -> None:
        self._proved_s = PROVED_BEATS * heartbeat_s
        self._paths: dict[AgentId, _Path] = {}

    def linked(self, peer: AgentId, now: float) -> None:
        """There is a link with that peer, which accepts heartbeats by datagram; nothing is known of those yet."""
        self._paths[peer] = _Path(trying_since=now)

    def unlinked(self, peer: AgentId) -> None:
        """The link is gone."""
        self._paths.pop(peer, None)

    def came(self, peer: AgentId, beat: Beat, *, by_datagram: bool) -> None:
        """One from the peer has arrived."""
        path = self._paths.get(peer)
        if path is None:
            return
        this = (beat.term, beat.round)
        if isinstance(beat, HeartbeatResponse):
            if by_datagram and this == path.tried_round:
                path.answered_at = path.tried_at
        elif by_datagram:
            path.datagram_round = this
        else:
            path.link_round = this

    def ways(self, peer: AgentId, beat: Beat, now: float) -> Ways:
        """How to send this one."""
        path = self._paths.get(peer)
        if path is None:
            return Ways(link=True, datagram=False)
        this = (beat.term, beat.round)
        if isinstance(beat, HeartbeatResponse):
            by_datagram = path.datagram_round == this
            return Ways(link=not by_datagram or path.link_round == this, datagram=by_datagram)
        proved = now - path.answered_at <= self._proved_s
        hopeful = now - max(path.answered_at, path.trying_since) < TRIES_S
        tried = proved or hopeful or now - path.tried_at >= RETRY_S
        if tried:
            path.tried_at, path.tried_round = now, this
        return Ways(link=not proved, datagram=tried)
