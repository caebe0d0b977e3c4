"""When links send signs of life: with a frame that has woken this agent anyway, and by a timer when none comes.

For an idle agent a wake-up costs more than the work that it then does. A leader's heartbeats reach all others at one
moment, so the links among these send theirs in the turn of the loop that brought one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Final

from msgspec import Struct, field

from agent.net.dialler import BackOff
from agent.net.frames import HEADER_BYTES, encode_frame
from agent.net.link import Link
from agent.node.messages import Alive

# A link that is this near to being due is due as well, once something else has woken this agent: a frame that came, or
# another link's turn. More than a heartbeat's interval, so that a follower's links all speak when the leader has.
EARLY_SHARE: Final = 0.25  # of alive_interval_s

# Links are looked over at most this often while frames come; a coordinator of 1000 hosts has 250 of them.
LOOK_SHARE: Final = 0.05  # of alive_interval_s

_ALIVE: Final = encode_frame(Alive())
ALIVE_CONTENT: Final = _ALIVE[HEADER_BYTES + 1 :]  # behind length and version


class LinkTiming(Struct, frozen=True, kw_only=True):
    """All in seconds. A dead peer is noticed after silence_timeout_s, or at once when its kernel says so.

    alive_interval_s: after this long without a frame an `Alive` is sent, and half of it is enough to answer the peer's
    at once; ≤ silence_timeout_s / 3, so that two may be lost. handshake_timeout_s: TCP, TLS and hellos together,
    each; a host that is overloaded needs a second.
    """

    alive_interval_s: float = 0.65
    silence_timeout_s: float = 2.0
    connect_timeout_s: float = 1.5
    handshake_timeout_s: float = 4.0
    back_off: BackOff = field(default_factory=BackOff)

    @classmethod
    def lan(cls) -> LinkTiming:
        """One site."""
        return cls()

    @classmethod
    def wan(cls) -> LinkTiming:
        """Sites up to 300 ms apart; a lossy path may stall TCP for 3 s and still be the best there is."""
        return cls(alive_interval_s=2.6, silence_timeout_s=8.0, connect_timeout_s=4.0, handshake_timeout_s=8.0)


class Pulse:
    """`links`: all that are up. `look(now, unread)` follows whenever they were spoken on; `unread`: what their peers
    have sent may be in the sockets still, so that silence says nothing.
    """

    def __init__(
        self, timing: LinkTiming, links: Callable[[], Iterable[Link]], look: Callable[[float, bool], None]
    ) -> None:
        self._timing = timing
        self._links = links
        self._look = look
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._timer_due = self._early_due = 0.0

    def start(self) -> None:
        """Begin; `stop` ends it."""
        self._schedule(rest_s=0.0)

    def stop(self) -> None:
        """Send nothing more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def ride_along(self) -> None:
        """A frame has woken us: what is nearly due goes now, and needs no wake-up of its own."""
        if self._timer is not None and self._loop.time() >= self._early_due:
            self._timer.cancel()
            self._beat(unread=True)  # the turn of the loop that brought this frame may bring more
            self._schedule(rest_s=0.0)

    def answer(self, link: Link) -> None:
        """The peer has sent a sign of life. If ours is due soon it goes now, with TCP's acknowledgement."""
        if link.queued_bytes == 0 and link.last_received - link.last_sent >= self._timing.alive_interval_s / 2:
            _say_alive(link)

    def _on_timer(self) -> None:
        """Behind what the sockets brought in this turn; after a stall of this agent itself, that may not be all."""
        interval_s = self._timing.alive_interval_s
        self._beat(unread=self._loop.time() - self._timer_due > interval_s)
        self._schedule(rest_s=interval_s * EARLY_SHARE)

    def _beat(self, *, unread: bool) -> None:
        now, timing = self._loop.time(), self._timing
        quiet_s = timing.alive_interval_s * (1 - EARLY_SHARE)
        for link in self._links():
            if link.queued_bytes == 0 and now - link.last_sent >= quiet_s:
                _say_alive(link)
        self._look(now, unread)

    def _schedule(self, *, rest_s: float) -> None:
        """When the first link is due, to be told that we live or to be judged silent, but not within `rest_s`; and from
        when a frame will do."""
        now, timing = self._loop.time(), self._timing
        sent = heard = now
        for link in self._links():
            sent = min(sent, now if link.queued_bytes else link.last_sent)
            heard = min(heard, link.last_received)
        due = min(sent + timing.alive_interval_s, heard + timing.silence_timeout_s)
        self._early_due = max(due - timing.alive_interval_s * EARLY_SHARE, now + timing.alive_interval_s * LOOK_SHARE)
        self._timer_due = max(due, now + rest_s)
        self._timer = self._loop.call_at(self._timer_due, self._on_timer)


def _say_alive(link: Link) -> None:
    link.send(_ALIVE, hold=True)
    link.flush()
