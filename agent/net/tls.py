"""TLS contexts, and whose certificate is at the other end.

Peer links: mutual TLS 1.3, with the cluster's certificate as the only trust anchor; a certificate says "this key is
agent X of cluster Y" and nothing about authority (docs/security.md "Identity is not authority"). The API: TLS 1.3,
server certificate only.
"""

from __future__ import annotations

import hashlib
import re
import ssl
from pathlib import Path

from agent.errors import InputError, NeedsRepair, StorageError
from agent.model.identity import AGENT_ID_LENGTH, SAN_SUFFIX
from agent.model.types import AgentId, Digest

_SAN = re.compile(rf"[a-z2-7]{{{AGENT_ID_LENGTH}}}{re.escape(SAN_SUFFIX)}")


def peer_server_context(certificate: Path, key: Path, anchor_pem: str) -> ssl.SSLContext:
    """For the listening side of peer links: a client must show a certificate of the cluster.

    Raises NeedsRepair when the key files don't fit each other or the anchor isn't a certificate, StorageError when they
    can't be read.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, certificate, key)
    _trust_only(context, anchor_pem)
    return context


def peer_client_context(certificate: Path, key: Path, anchor_pem: str) -> ssl.SSLContext:
    """For the dialling side: the server must show a certificate of the cluster. Raises as `peer_server_context`.

    Names aren't checked by TLS, since an address may be dialled before its agent is known: `peer_identity` is.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, certificate, key)
    _trust_only(context, anchor_pem)
    return context


def api_server_context(certificate: Path, key: Path) -> ssl.SSLContext:
    """For the HTTPS API: operators prove themselves with tokens, so no client certificate is asked for."""
    context = _context(ssl.PROTOCOL_TLS_SERVER, certificate, key)
    context.verify_mode = ssl.CERT_NONE
    return context


def peer_identity(tls: ssl.SSLObject | ssl.SSLSocket) -> tuple[AgentId, Digest]:
    """The agent id in the peer's verified certificate, and the sha256 of the certificate's DER.

    Raises InputError unless the certificate's subject alternative names are exactly one DNS name
    `<agent id>.agent.muster`: a second name could be read as another agent by another reader.
    """
    der = tls.getpeercert(binary_form=True)
    fields = tls.getpeercert()
    if not der or not fields:
        raise InputError("the peer showed no certificate that was verified")
    names = fields.get("subjectAltName", ())
    if len(names) != 1 or names[0][0] != "DNS" or not _SAN.fullmatch(str(names[0][1])):
        raise InputError("the peer's certificate doesn't name exactly one agent")
    return str(names[0][1])[:AGENT_ID_LENGTH], hashlib.sha256(der).hexdigest()


def session_binding(tls: ssl.SSLObject | ssl.SSLSocket) -> str:
    """What only the two ends of this TLS session know, hexadecimal: the client's Finished message (RFC 5929 §3).

    A hello bound to it is worthless on any other session. Both sides see the same value; sessions are never resumed.
    """
    finished = tls.get_channel_binding("tls-unique")
    if not finished:
        raise InputError("the TLS session gives no channel binding")
    return hashlib.sha256(b"muster session\x00" + finished).hexdigest()


def _context(protocol: int, certificate: Path, key: Path) -> ssl.SSLContext:
    # A bare context: `create_default_context` would trust the system's authorities as well.
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.hostname_checks_common_name = False
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    if protocol == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # a resumed session would be served after its trust was withdrawn
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:
        kind = NeedsRepair if isinstance(error, ssl.SSLError) else StorageError
        fix = "Run `bootstrap install` for this host again; it repairs the identity."
        raise kind(f"the TLS certificate and key can't be used: {error}", where=str(certificate), fix=fix) from error
    return context


def _trust_only(context: ssl.SSLContext, anchor_pem: str) -> None:
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(cadata=anchor_pem)
    except (ssl.SSLError, ValueError) as error:
        raise NeedsRepair(f"the cluster's certificate can't be used: {error}") from error
