"""Serving the application: HTTPS with bounds on connections, and the local socket."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import socket
import ssl
from collections import Counter
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

from aiohttp import web

from agent.api.app import STREAMS
from agent.api.limits import (
    HANDSHAKE_TIMEOUT_S,
    KEEPALIVE_TIMEOUT_S,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_ADDRESS,
    MAX_LOCAL_CONNECTIONS,
    SHUTDOWN_TIMEOUT_S,
)
from agent.api.problems import plain_problem, problem_response
from agent.errors import Conflict, MusterError
from agent.net.acceptor import BACKLOG_CONNECTIONS, Acceptor, listen

SOCKET_GROUP = "muster"  # its members may read status on the host without being root
SOCKET_MODE = 0o660

_LOCAL = "local"  # in place of an address: whoever is on the local socket


class _Connection(web.RequestHandler):
    """aiohttp's protocol, but what isn't even HTTP gets a problem too, and no traceback in our log.

    `closed` is called once the connection has ended.
    """

    closed: Callable[[], None] = staticmethod(lambda: None)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Called for a request that can't be parsed; the connection closes behind it."""
        if request.writer.output_size > 0:
            raise ConnectionError("the answer had begun")
        reason = "the request isn't valid HTTP" if status < 500 else "the agent failed at this request"
        if status == HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE:
            reason = "the request's headers are too large"
        response = problem_response(plain_problem(status, reason, ""))
        response.force_close()
        return response

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget it."""
        super().connection_lost(exc)
        self.closed()


class ApiServer:
    """`await ApiServer.start(…)`, and `close` once.

    `drops` counts connections turned away: bound, address, local, tls.
    """

    def __init__(self, runner: web.AppRunner, listener: socket.socket | None, tls: ssl.SSLContext | None) -> None:
        self._runner = runner
        self._listener = listener
        self._tls = tls
        self.drops: Counter[str] = Counter()
        self._open: Counter[str] = Counter()
        self._acceptors: list[Acceptor] = []
        self._local: socket.socket | None = None
        self._socket_path: Path | None = None

    @classmethod
    async def start(
        cls,
        app: web.Application,
        *,
        host: str | None,
        port: int = 9999,
        tls: ssl.SSLContext | None,
        socket_path: Path | None = None,
    ) -> ApiServer:
        """Serve on `host`:`port` with `tls` (which must be TLS 1.3 only), unless `host` is None, and on the socket.

        Raises PortTaken, InputError (not an address of this host), Conflict (another agent has the socket).
        """
        listener = listen(host, port) if host is not None else None
        runner = web.AppRunner(
            app, handle_signals=False, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_TIMEOUT_S
        )
        server = cls(runner, listener, tls)
        try:
            await runner.setup()
            if socket_path is not None:
                server._local = await asyncio.to_thread(_listen_local, socket_path)
                server._socket_path = socket_path
            for each in (listener, server._local):
                if each is not None:
                    acceptor = Acceptor(each, admit=server._admit, serve=server._take, drops=server.drops)
                    server._acceptors.append(acceptor)
        except BaseException:
            await server.close()
            raise
        return server

    @property
    def port(self) -> int:
        """The TCP port in use, also when 0 was asked for; 0 without one."""
        return int(self._listener.getsockname()[1]) if self._listener is not None else 0

    @property
    def connections(self) -> int:
        """TCP connections now, including those in their handshake."""
        return self._open.total() - self._open[_LOCAL]

    @property
    def local_connections(self) -> int:
        """Connections to the local socket now."""
        return self._open[_LOCAL]

    async def close(self) -> None:
        """Stop accepting, end streams, give requests under way SHUTDOWN_TIMEOUT_S."""
        for acceptor in self._acceptors:
            await acceptor.close()
        for listener in (self._listener, self._local):
            if listener is not None:
                listener.close()
        self._runner.app[STREAMS].close()
        await self._runner.cleanup()
        if self._socket_path is not None:
            await asyncio.to_thread(self._socket_path.unlink, missing_ok=True)

    # Inside

    def _protocol(self) -> _Connection:
        assert self._runner.server is not None
        return _Connection(
            self._runner.server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEPALIVE_TIMEOUT_S,
            auto_decompress=False,  # a signature binds the bytes on the wire
            lingering_time=1.0,
        )

    def _admit(self, host: str) -> bool:
        if reason := self._full(host or _LOCAL):
            self.drops[reason] += 1
            return False
        self._open[host or _LOCAL] += 1
        return True

    def _full(self, host: str) -> str:
        """The bound that one more from there would break; else nothing."""
        if host == _LOCAL:
            return "local" if self.local_connections >= MAX_LOCAL_CONNECTIONS else ""
        if self.connections >= MAX_CONNECTIONS:
            return "bound"
        return "address" if self._open[host] >= MAX_CONNECTIONS_PER_ADDRESS else ""

    async def _take(self, connection: socket.socket, address: str) -> None:
        protocol, host = self._protocol(), address or _LOCAL
        tls = self._tls if host != _LOCAL else None
        protocol.closed = lambda: self._forget(host)
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: protocol,
                connection,
                ssl=tls,
                ssl_handshake_timeout=HANDSHAKE_TIMEOUT_S if tls is not None else None,
                ssl_shutdown_timeout=HANDSHAKE_TIMEOUT_S if tls is not None else None,
            )
        except BaseException as error:
            self._forget(host)
            connection.close()
            if not isinstance(error, OSError):  # ssl.SSLError and TimeoutError are the client's fault
                raise
            self.drops["tls"] += 1

    def _forget(self, host: str) -> None:
        self._open[host] -= 1
        if self._open[host] <= 0:
            del self._open[host]


def _listen_local(path: Path) -> socket.socket:
    """A listening unix socket of mode 0660, in place of a dead one. Until chmod, only its owner can connect."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        _remove_dead(path)
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        listener.bind(str(path))
        with contextlib.suppress(KeyError, PermissionError):  # without that group only root may read
            os.chown(path, -1, grp.getgrnam(SOCKET_GROUP).gr_gid)
        path.chmod(SOCKET_MODE)
        listener.listen(BACKLOG_CONNECTIONS)
    except OSError as error:
        listener.close()
        raise MusterError(f"the local socket can't be made: {error.strerror}", where=str(path)) from None
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_dead(path: Path) -> None:
    """Raises Conflict when somebody still answers on it."""
    if not path.is_socket():
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
    raise Conflict("another agent serves this socket", where=str(path), fix="Stop it, or set another `run_dir`.")
