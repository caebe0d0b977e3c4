"""How a request reaches a member: HTTPS pinned to the cluster, or the local socket; ssh would be another."""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol
from weakref import WeakSet

import aiohttp
from msgspec import Struct
from yarl import URL

from agent import __version__
from agent.client.endpoints import Endpoint
from agent.errors import InputError
from agent.model.identity import AGENT_ID_LENGTH, SAN_SUFFIX
from agent.model.types import AgentId, CertificatePem

CONNECT_TIMEOUT_S = 5.0  # a host across the world answers within one
USER_AGENT = f"muster/{__version__}"

_SAN = re.compile(rf"([a-z2-7]{{{AGENT_ID_LENGTH}}}){re.escape(SAN_SUFFIX)}")


class Request(Struct, frozen=True, kw_only=True):
    """One request; `path` begins with a slash and is encoded. `timeout_s` None: a stream.

    `silence_s`: how long nothing may come.
    """

    method: str
    path: str
    headers: Mapping[str, str] = {}
    params: Mapping[str, str] = {}
    body: bytes | AsyncIterable[bytes] | None = None
    timeout_s: float | None = None
    silence_s: float | None = None


class Transport(Protocol):
    """Used inside one event loop. What fails raises aiohttp.ClientError, OSError or TimeoutError (see `reason_of`)."""

    def request(self, endpoint: Endpoint, request: Request) -> AbstractAsyncContextManager[aiohttp.ClientResponse]: ...

    async def close(self) -> None: ...


class NotAMember(aiohttp.ServerFingerprintMismatch):
    """The certificate is the cluster's and isn't the one of an agent that we ask."""

    def __init__(self, what: str) -> None:
        super().__init__(b"", b"", "", 0)
        self.what = what


class _AgentCheck(aiohttp.Fingerprint):
    """Looks at the certificate of each connection before anything is sent over it.

    aiohttp's hook for this is called a fingerprint: the anchor was checked by TLS, here it is the agent's name.
    `open`: each connection that was looked at, while there is one.
    """

    def __init__(self, known: frozenset[AgentId]) -> None:
        super().__init__(bytes(32))
        self._known = known
        self.open: WeakSet[asyncio.Transport] = WeakSet()

    def check(self, transport: asyncio.Transport) -> None:
        """Raises NotAMember. An address may have gone from one member to another; both are in the home."""
        self.open.add(transport)
        tls = transport.get_extra_info("ssl_object")
        fields = tls.getpeercert() if tls is not None else None
        names = (fields or {}).get("subjectAltName", ())
        match = _SAN.fullmatch(str(names[0][1])) if len(names) == 1 and names[0][0] == "DNS" else None
        if match is None:
            raise NotAMember("its certificate doesn't name an agent")
        if self._known and match[1] not in self._known:
            raise NotAMember(f"it is {match[1]}, which this home doesn't know as a member")


class HttpsTransport:
    """TLS 1.3 and nobody but the cluster's anchor is trusted; whatever the system trusts doesn't count.

    `members`: ids that are believed at addresses from the home; an address that a person named may be any agent's.
    """

    def __init__(self, anchor: CertificatePem, members: frozenset[AgentId]) -> None:
        self._context = pinned_context(anchor)
        self._members = members
        self._sessions: dict[bool, tuple[aiohttp.ClientSession, _AgentCheck]] = {}

    def request(self, endpoint: Endpoint, request: Request) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """See Transport."""
        session = self._session(named=endpoint.id is None)
        url = URL(endpoint.url + request.path, encoded=True).with_query(dict(request.params))
        return _send(session, url, request, self._context)

    async def close(self) -> None:
        """End all connections, without a word where a peer would have to answer it first."""
        for session, check in self._sessions.values():
            await session.close()
            for connection in check.open:
                connection.abort()  # one left in mid-answer would wait for the peer's close_notify
        await asyncio.sleep(0)  # the loop closes sockets in its next turn

    def _session(self, *, named: bool) -> aiohttp.ClientSession:
        if named not in self._sessions:
            check = _AgentCheck(frozenset() if named else self._members)
            self._sessions[named] = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=check)), check
        return self._sessions[named][0]


class SocketTransport:
    """The local socket of the agent on this host."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._session: aiohttp.ClientSession | None = None

    def request(self, endpoint: Endpoint, request: Request) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """See Transport."""
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(self._path)))
        url = URL("http://localhost" + request.path, encoded=True).with_query(dict(request.params))
        return _send(self._session, url, request, None)

    async def close(self) -> None:
        """End all connections."""
        if self._session is not None:
            await self._session.close()


def pinned_context(anchor: CertificatePem) -> ssl.SSLContext:
    """Trusts one certificate and speaks TLS 1.3 only. Raises InputError when the anchor isn't a certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False  # an agent's name is its id, not its address
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cadata=anchor)
    except (ssl.SSLError, ValueError):
        raise InputError("the cluster's certificate isn't one", where="cluster.crt") from None
    return context


def reason_of(error: BaseException) -> str:
    """Why a member couldn't be asked, in a few words."""
    if isinstance(error, NotAMember):
        return error.what
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return "its certificate isn't of this cluster"
    if isinstance(error, aiohttp.ClientConnectorError):
        system = error.os_error
        return (system.strerror or str(system) or type(system).__name__).lower()
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it closed the connection"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__


def _send(
    session: aiohttp.ClientSession, url: URL, request: Request, context: ssl.SSLContext | None
) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
    return session.request(
        request.method,
        url,
        headers={"User-Agent": USER_AGENT, **request.headers},
        data=request.body,
        allow_redirects=False,  # the token is for this cluster's members alone
        timeout=aiohttp.ClientTimeout(
            total=request.timeout_s, sock_connect=CONNECT_TIMEOUT_S, sock_read=request.silence_s
        ),
        ssl=context if context is not None else True,
    )
