"""The listening side: accept, bounds, TLS handshake. Whoever hasn't proved anything gets little, and not for long."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from agent.errors import InputError, PortTaken
from agent.net.link import Link

# Connections that haven't said who they are, together. Each holds some 50 KiB of TLS buffers: 6 MiB at most.
MAX_HALF_OPEN: Final = 128

# The same from one address: more than a host's agent ever opens at once, far fewer than MAX_HALF_OPEN, so that one
# address can't keep all others out.
MAX_HALF_OPEN_PER_ADDRESS: Final = 16

# Connections the kernel keeps for us: a whole cluster that dials at once.
BACKLOG_CONNECTIONS: Final = 1024

# When the process is out of file descriptors, accepting again at once would only spin.
ACCEPT_PAUSE_S: Final = 0.1

_PASSING = {errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH}
"""What accept(2) says of a connection that died in the queue; the next one is fine."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises PortTaken, or InputError when the address isn't one of this host's."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG_CONNECTIONS)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken((port,), where=host) from None
        raise InputError(f"can't listen on port {port}: {error.strerror}", where=host) from None
    return listener


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
        self._listener = listener
        self._context = context
        self._make = make
        self._take = take
        self._timeout_s = handshake_timeout_s
        self._drops = drops
        self._half_open: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._accepting = asyncio.get_running_loop().create_task(self._accept(), name="peer links: accept")

    @property
    def port(self) -> int:
        """The port in use, also when 0 was asked for."""
        return int(self._listener.getsockname()[1])

    @property
    def half_open(self) -> int:
        """Connections whose peer isn't known yet."""
        return self._half_open.total()

    async def close(self) -> None:
        """Stop accepting, and cut what isn't up yet."""
        tasks = [self._accepting, *self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._listener.close()

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(self._listener)
            except OSError as error:
                if error.errno not in _PASSING:
                    self._drops["accept"] += 1
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            host = str(address[0])
            if self.half_open >= MAX_HALF_OPEN or self._half_open[host] >= MAX_HALF_OPEN_PER_ADDRESS:
                self._drops["half-open" if self.half_open >= MAX_HALF_OPEN else "address"] += 1
                connection.close()
                continue
            self._half_open[host] += 1
            task = loop.create_task(self._open(connection, host))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

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
