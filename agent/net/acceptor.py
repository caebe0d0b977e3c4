"""Listening and accepting, for the peer port and the API alike.

Connections are accepted in the event loop's reader callback, not awaited: a cancelled await could lose one that the
kernel had handed over already.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Final

from agent.errors import InputError, PortTaken
from agent.tasks import cancel_and_wait

# Connections the kernel keeps for us: a whole cluster that dials at once.
BACKLOG_CONNECTIONS: Final = 1024

# When the process is out of file descriptors, accepting again at once would only spin.
ACCEPT_PAUSE_S: Final = 0.1

# Accepted per turn of the loop: a flood mustn't hold up a heartbeat.
ACCEPTED_PER_TICK: Final = 64

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


class Acceptor:
    """Serves each connection in a task of its own, `serve(connection, peer's address)`, until `close`.

    Takes over `listener`. `admit(address)` counts a connection and says whether there is room; a unix socket's address
    is an empty string. `serve` owns the connection from its first step on. `drops` counts `accept` failures: mostly no
    file descriptors left.
    """

    def __init__(
        self,
        listener: socket.socket,
        *,
        admit: Callable[[str], bool],
        serve: Callable[[socket.socket, str], Awaitable[None]],
        drops: Counter[str],
    ) -> None:
        self._listener = listener
        self._admit = admit
        self._serve = serve
        self._drops = drops
        self._untouched: set[socket.socket] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()
        self._pause: asyncio.TimerHandle | None = None
        self._resume()

    @property
    def port(self) -> int:
        """The port in use, also when 0 was asked for."""
        return int(self._listener.getsockname()[1])

    async def close(self) -> None:
        """Accept nothing more, and cancel what is being opened or served. May be called again."""
        if self._pause is not None:
            self._pause.cancel()
        if self._listener.fileno() >= 0:
            self._loop.remove_reader(self._listener.fileno())
            self._listener.close()
        tasks = list(self._tasks)
        await cancel_and_wait(*tasks)
        for connection in self._untouched:  # their tasks were cancelled before the first step: nobody else closes them
            connection.close()
        self._untouched.clear()

    def _resume(self) -> None:
        self._pause = None
        self._loop.add_reader(self._listener.fileno(), self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_PER_TICK):
            try:
                connection, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _PASSING:
                    continue
                self._drops["accept"] += 1
                self._loop.remove_reader(self._listener.fileno())
                self._pause = self._loop.call_later(ACCEPT_PAUSE_S, self._resume)
                return
            host = str(address[0]) if isinstance(address, tuple) else ""
            if not self._admit(host):
                connection.close()
                continue
            connection.setblocking(False)
            self._untouched.add(connection)
            task = self._loop.create_task(self._open(connection, host))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _open(self, connection: socket.socket, host: str) -> None:
        self._untouched.discard(connection)
        await self._serve(connection, host)
