"""The listening side: accept, bounds, TLS handshake. A peer that hasn't proved anything gets
little, and not for long.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from agent.net.acceptor import Acceptor
from agent.net.link import Link

# Connections that haven't said who they are, together. Each holds some 50 KiB of TLS buffers: 6 MiB at most.
MAX_HALF_OPEN: Final = 128

# The same from one address: more than a host's agent ever opens at once, far fewer than MAX_HALF_OPEN, so that one
# address can't keep all others out.
MAX_HALF_OPEN_PER_ADDRESS: Final = 16


class Listener:
    """Accepts connections until it is closed; `take` gets each one after its TLS handshake, as a task of ours.

    `drops` counts what was turned away: `half-open`, `address` (a bound), `tls` (no handshake, no certificate).
    """

    def __init__(
        self,
        listener: socket.socket,
        context: ssl.SSLContext,
        make: Callable[[], Link],
        take: Callable[[Link], Awaitable[None]],
        *,
        handshake_timeout_s: float,
        drops: Counter[str],
    ) -> None:
        self._context = context
        self._make = make
        self._take = take
        self._timeout_s = handshake_timeout_s
        self._drops = drops
        self._half_open: Counter[str] = Counter()
        self._acceptor = Acceptor(listener, admit=self._admit, serve=self._open, drops=drops)

    @property
    def port(self) -> int:
        """The port in use, also when 0 was asked for."""
        return self._acceptor.port

    @property
    def half_open(self) -> int:
        """Connections whose peer isn't verified yet."""
        return self._half_open.total()

    async def close(self) -> None:
        """Stop accepting, and cut what isn't up yet."""
        await self._acceptor.close()

    def _admit(self, host: str) -> bool:
        if self.half_open >= MAX_HALF_OPEN or self._half_open[host] >= MAX_HALF_OPEN_PER_ADDRESS:
            self._drops["half-open" if self.half_open >= MAX_HALF_OPEN else "address"] += 1
            return False
        self._half_open[host] += 1
        return True

    async def _open(self, connection: socket.socket, host: str) -> None:
        loop = asyncio.get_running_loop()
        try:
            _, link = await loop.connect_accepted_socket(
                self._make,
                connection,
                ssl=self._context,
                ssl_handshake_timeout=self._timeout_s,
                ssl_shutdown_timeout=self._timeout_s,
            )
            await self._take(link)
        except OSError:  # also ssl.SSLError and TimeoutError: the peer's fault
            self._drops["tls"] += 1
            connection.close()
        finally:
            self._half_open[host] -= 1
            if not self._half_open[host]:
                del self._half_open[host]
