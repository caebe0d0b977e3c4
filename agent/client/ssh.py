"""The way round a firewall: where a member's API can't be reached, ssh to its host forwards a connection to it.

TLS still runs from here to the agent, and its certificate is checked as always: sshd only carries bytes. `ssh.json` in
the home, which bootstrap writes, says how each host is reached; the user's own ssh configuration applies too.
"""

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from agent.client.endpoints import Endpoint
from agent.client.http import Answer, NotConnected, NotTrusted, Request
from agent.client.transport import Transport
from agent.errors import NotFound
from agent.home import MAX_HOME_FILE_BYTES, Home, as_json, read_file, write_file
from agent.model.cluster import MAX_MEMBERS
from agent.model.decode import decode_json
from agent.model.types import HostAddress, Label, Port

SSH_FILE = "ssh.json"
TUNNEL_TIMEOUT_S = 15.0  # ssh logs in, through a bastion if need be
CONNECT_TIMEOUT_S = 10
ROUND_S = 0.02  # between two looks whether ssh listens
END_TIMEOUT_S = 2.0

_OPTIONS = (
    "BatchMode=yes",
    "PasswordAuthentication=no",
    "KbdInteractiveAuthentication=no",
    "ForwardAgent=no",
    "PermitLocalCommand=no",
    "RemoteCommand=none",
    "ExitOnForwardFailure=yes",
    "ControlMaster=no",
    "ControlPath=none",  # a shared connection would keep the forwarding when we end
    f"ConnectTimeout={CONNECT_TIMEOUT_S}",
    "ServerAliveInterval=5",
)


class SshDestination(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """How ssh reaches a host; what is None comes from ssh's own configuration. `key` is a private key's file."""

    host: HostAddress
    user: (
        Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.@$\\-]{0,63}\Z", description="a user's name")] | None
    ) = None
    port: Port | None = None
    key: Annotated[str, Meta(min_length=1, max_length=1024)] | None = None


class SshFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`ssh.json`."""

    version: Literal[1] = 1
    hosts: Annotated[dict[Label, SshDestination], Meta(max_length=2 * MAX_MEMBERS)] = {}


def read_destinations(home: Home) -> Mapping[str, SshDestination]:
    """Member's name → how ssh reaches it; empty when nobody wrote that down. Raises InputError."""
    path = home.path / SSH_FILE
    try:
        data = read_file(path)
    except NotFound:
        return {}
    return decode_json(data, SshFile, where=f"{path}: $", max_bytes=MAX_HOME_FILE_BYTES).hosts


def write_destinations(home: Home, hosts: Mapping[str, SshDestination]) -> None:
    """Adds these, or replaces those of the same names. Raises MusterError."""
    known = dict(read_destinations(home))
    wanted = known | dict(hosts)
    if wanted != known:
        file = SshFile(hosts=dict(sorted(wanted.items())))
        write_file(home.path / SSH_FILE, as_json(file), mode=0o600, replace=True)


class SshFallback:
    """A Transport that uses another one and, where that can't connect, the same through ssh."""

    def __init__(
        self,
        direct: Transport,
        destinations: Mapping[str, SshDestination],
        *,
        notice: Callable[[str], None] = lambda text: None,
    ) -> None:
        self._direct = direct
        self._destinations = destinations
        self._notice = notice
        self._tunnels: dict[Endpoint, _Tunnel] = {}

    def request(self, endpoint: Endpoint, request: Request) -> AbstractAsyncContextManager[Answer]:
        """See Transport."""
        return self._request(endpoint, request)

    async def close(self) -> None:
        """End all connections and every ssh."""
        await self._direct.close()
        for tunnel in self._tunnels.values():
            await tunnel.close()
        self._tunnels.clear()

    @asynccontextmanager
    async def _request(self, endpoint: Endpoint, request: Request) -> AsyncIterator[Answer]:
        async with contextlib.AsyncExitStack() as stack:
            tunnel = self._tunnels.get(endpoint)
            if tunnel is None or not tunnel.alive:
                try:
                    answer = await stack.enter_async_context(self._direct.request(endpoint, request))
                except NotConnected as error:
                    destination = self._destinations.get(endpoint.label)
                    # Only where no connection came about: nothing was sent, and nobody else answered there.
                    if destination is None or isinstance(error, NotTrusted):
                        raise
                    tunnel = await self._open(endpoint, destination, error)
                else:
                    yield answer
                    return
            yield await stack.enter_async_context(self._direct.request(tunnel.endpoint, request))

    async def _open(self, endpoint: Endpoint, destination: SshDestination, error: Exception) -> "_Tunnel":
        """Open a tunnel. If ssh doesn't get there either, raises the error that made it necessary."""
        tunnel = _Tunnel(endpoint, destination)
        try:
            opened = await tunnel.open()
        except BaseException:
            await tunnel.close()
            raise
        if not opened:
            await tunnel.close()
            raise error
        if (other := self._tunnels.get(endpoint)) is not None:
            await other.close()
        self._tunnels[endpoint] = tunnel
        self._notice(f"{endpoint} can't be reached directly, so this goes through ssh")
        return tunnel


class _Tunnel:
    """One ssh that listens on a loopback port and forwards connections to the agent's API."""

    def __init__(self, endpoint: Endpoint, destination: SshDestination) -> None:
        self._port = _free_port()
        self._argv = tunnel_command(endpoint, destination, self._port)
        self._process: asyncio.subprocess.Process | None = None
        # With the member's id: its certificate is checked as at its own address.
        self.endpoint = msgspec.structs.replace(endpoint, address="127.0.0.1", port=self._port)

    @property
    def alive(self) -> bool:
        """Whether ssh still runs."""
        return self._process is not None and self._process.returncode is None

    async def open(self) -> bool:
        """Whether ssh got as far as listening."""
        try:
            self._process = await asyncio.create_subprocess_exec(
                *self._argv,
                stdin=asyncio.subprocess.PIPE,  # its end, at ours at the latest, ends what ssh runs, and ssh with it
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env={**os.environ, "SSH_ASKPASS_REQUIRE": "never"},
                start_new_session=True,  # no terminal to ask on
            )
        except OSError:
            return False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(TUNNEL_TIMEOUT_S):
                while self.alive:
                    if await self._listens():
                        return True
                    await asyncio.sleep(ROUND_S)
        return False

    async def close(self) -> None:
        """End it."""
        process = self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()

    async def _listens(self) -> bool:
        """ssh listens only once it has logged in (ssh(1), -L)."""
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", self._port)
        except OSError:
            return False
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return True


def tunnel_command(endpoint: Endpoint, destination: SshDestination, port: int) -> list[str]:
    """The argv of an ssh that forwards loopback's `port` to the agent's API, as seen from its own host. Pure.

    It lasts as long as its standard input: with -N it would outlive a command that was killed.
    """
    target = f"[{endpoint.address}]" if ":" in endpoint.address else endpoint.address
    argv = ["ssh", "-T", *(part for option in _OPTIONS for part in ("-o", option))]
    argv += ["-L", f"127.0.0.1:{port}:{target}:{endpoint.port}"]
    if destination.key is not None:
        argv += ["-o", "IdentitiesOnly=yes", "-i", os.path.expanduser(destination.key)]
    if destination.port is not None:
        argv += ["-p", str(destination.port)]
    if destination.user is not None:
        argv += ["-l", destination.user]
    return [*argv, "--", destination.host, "cat"]


def _free_port() -> int:
    """A port where nobody listens now. Whoever takes it meanwhile has no certificate of the cluster."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
