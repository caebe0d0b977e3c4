"""How a request reaches a member: HTTPS pinned to the cluster, or the local socket."""

from __future__ import annotations

import asyncio
import re
import ssl
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from agent.client.endpoints import Endpoint
from agent.client.http import Answer, Connections, NotTrusted, Request, Streams
from agent.errors import InputError
from agent.model.addresses import is_ip
from agent.model.identity import AGENT_ID_LENGTH, SAN_SUFFIX
from agent.model.types import AgentId, CertificatePem

NEXT_ADDRESS_AFTER_S = 0.25  # of a name that has several: RFC 8305 §5

_SAN = re.compile(rf"([a-z2-7]{{{AGENT_ID_LENGTH}}}){re.escape(SAN_SUFFIX)}")


class Transport(Protocol):
    """Used inside one event loop. Failures raise TransportError."""

    def request(self, endpoint: Endpoint, request: Request) -> AbstractAsyncContextManager[Answer]: ...

    async def close(self) -> None: ...


class HttpsTransport:
    """TLS 1.3 that trusts only the cluster's anchor, none of the system's.

    `members`: ids that are accepted at addresses from the home; at an address that a person named, any agent is.
    """

    def __init__(self, anchor: CertificatePem, members: frozenset[AgentId]) -> None:
        self._context = pinned_context(anchor)
        self._members = members
        self._connections = Connections(self._dial, lambda endpoint: endpoint.authority)

    def request(self, endpoint: Endpoint, request: Request) -> AbstractAsyncContextManager[Answer]:
        """See Transport."""
        return self._connections.request(endpoint, request)

    async def close(self) -> None:
        """End all connections at once."""
        await self._connections.close()

    async def _dial(self, endpoint: Endpoint) -> Streams:
        """Checks which agent it leads to before anything is sent."""
        # An address has no race to run, in which asyncio may lose a socket when it is cut.
        delay_s = None if is_ip(endpoint.address) else NEXT_ADDRESS_AFTER_S
        reader, writer = await asyncio.open_connection(
            endpoint.address,
            endpoint.port,
            ssl=self._context,
            server_hostname="",  # none is sent: agents have no use for it, and it costs a command 2 ms for IDNA
            happy_eyeballs_delay=delay_s,
        )
        try:
            _check_agent(writer.get_extra_info("ssl_object"), self._members if endpoint.id is not None else frozenset())
        except NotTrusted:
            writer.transport.abort()
            raise
        return reader, writer


class SocketTransport:
    """The local socket of the agent on this host."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connections = Connections(self._dial, lambda _: "localhost")

    def request(self, endpoint: Endpoint, request: Request) -> AbstractAsyncContextManager[Answer]:
        """See Transport."""
        return self._connections.request(endpoint, request)

    async def close(self) -> None:
        """End all connections."""
        await self._connections.close()

    async def _dial(self, _: Endpoint) -> Streams:
        return await asyncio.open_unix_connection(self._path)


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


def _check_agent(tls: ssl.SSLObject, known: frozenset[AgentId]) -> None:
    """TLS checked the anchor; this checks the agent's name, since an address may pass from one member to another.

    `known`: the ids that are accepted; empty: any agent. Raises NotTrusted.
    """
    names = (tls.getpeercert() or {}).get("subjectAltName", ())
    match = _SAN.fullmatch(str(names[0][1])) if len(names) == 1 and names[0][0] == "DNS" else None
    if match is None:
        raise NotTrusted("its certificate doesn't name an agent")
    if known and match[1] not in known:
        raise NotTrusted(f"it is {match[1]}, which this home doesn't know as a member")
