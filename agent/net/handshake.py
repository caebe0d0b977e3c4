"""Opening a link: the client's hello, the server's judgement, the server's hello. Only then is it up, on both sides.

In TLS 1.3 a client believes it is connected before the server has looked at its certificate. So the server's first
frame is what makes a link, and it is sent only after everything was checked. The client checks the same of the server.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, Literal

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.errors import InputError, NotAuthenticated
from agent.instruction import public_hex, read_hello, sign_hello
from agent.model.identity import agent_id_of
from agent.model.types import AgentId, ClusterId, Digest, Label
from agent.net.frames import KEY_BYTES, Hello, RefusalReason, Refused, decode_opening, encode_frame
from agent.net.link import Link, PeerInfo
from agent.net.tls import peer_identity, session_binding
from agent.node.versions import FRAME_VERSION, spoken_with

Standing = Literal["member", "unknown", "expelled"]
"""What our ledger says of a certificate: `unknown` is one of the cluster that isn't in the ledger (yet)."""

Authority = Callable[[AgentId, Digest], Standing]


class HandshakeFailed(Exception):
    """The link isn't accepted. `told`: what the peer said, if it is the peer that doesn't."""

    def __init__(self, reason: RefusalReason, detail: str = "", *, told: Refused | None = None) -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason: Final = reason
        self.told: Final = told


@dataclass(slots=True, kw_only=True)
class LocalAgent:
    """Who this agent says it is. `epoch` and `level` follow the ledger; `boot` grows with each start."""

    id: AgentId
    name: Label
    cluster: ClusterId
    epoch: int
    boot: int
    agent_version: str
    level: int
    api_port: int
    peer_port: int
    signing_key: Ed25519PrivateKey = field(repr=False)
    datagram_secret: bytes = field(default_factory=lambda: secrets.token_bytes(KEY_BYTES), repr=False)

    def __post_init__(self) -> None:
        if agent_id_of(bytes.fromhex(public_hex(self.signing_key))) != self.id:
            raise ValueError("the id isn't the signing key's")

    def datagram_key(self, peer: AgentId) -> bytes:
        """The key with which `peer` authenticates its datagrams to us: the same on all links of this start, another for
        each peer.
        """
        return hmac.digest(self.datagram_secret, peer.encode(), "sha256")

    def hello(self, audience: AgentId, binding: Digest) -> Hello:
        """The hello for `audience` on the session with that binding."""
        return Hello(
            token=sign_hello(self.signing_key, audience=audience, tls=binding, now_s=time.time()),
            cluster=self.cluster,
            epoch=self.epoch,
            name=self.name,
            boot=self.boot,
            agent_version=self.agent_version,
            level=self.level,
            api_port=self.api_port,
            peer_port=self.peer_port,
            frames=FRAME_VERSION,
            datagram_key=self.datagram_key(audience),
        )


class Certified(msgspec.Struct, frozen=True):
    """What the peer's certificate says, before any frame."""

    id: AgentId
    certificate: Digest
    binding: Digest


def certified(link: Link, me: LocalAgent) -> Certified:
    """The peer that TLS verified. Raises HandshakeFailed for a certificate that names nobody, or ourselves."""
    try:
        peer, digest = peer_identity(link.tls)
        binding = session_binding(link.tls)
    except InputError as error:
        raise HandshakeFailed("identity", error.what) from None
    if peer == me.id:
        raise HandshakeFailed("self")
    return Certified(peer, digest, binding)


async def greet_as_client(link: Link, me: LocalAgent, peer: Certified, authority: Authority) -> PeerInfo:
    """Say hello, wait for the server's. Raises HandshakeFailed, or ConnectionError when the server just closes."""
    if authority(peer.id, peer.certificate) == "expelled":
        raise HandshakeFailed("expelled")
    link.send(encode_frame(me.hello(peer.id, peer.binding)))
    link.flush()
    return await _hear(link, me, peer, authority, dialled=True)


async def greet_as_server(link: Link, me: LocalAgent, peer: Certified, authority: Authority) -> PeerInfo:
    """Judge the client's hello. The caller sends ours with `welcome` once it accepts the link.

    Raises HandshakeFailed; the caller tells the client with `refuse`.
    """
    return await _hear(link, me, peer, authority, dialled=False)


def welcome(link: Link, me: LocalAgent, peer: Certified) -> None:
    """The server's first frame: the link is up."""
    link.send(encode_frame(me.hello(peer.id, peer.binding)))
    link.flush()


def refuse(link: Link, refused: Refused) -> None:
    """Tell a certified peer why it is refused, and close."""
    link.send(encode_frame(refused))
    link.close("asked")


async def _hear(link: Link, me: LocalAgent, peer: Certified, authority: Authority, *, dialled: bool) -> PeerInfo:
    try:
        opening = decode_opening(await link.first())
    except InputError as error:
        raise HandshakeFailed("protocol", error.what) from None
    if isinstance(opening, Refused):
        raise HandshakeFailed(opening.reason, "the peer refused", told=opening)
    try:
        claims = read_hello(opening.token, audience=me.id, tls=peer.binding)
    except NotAuthenticated as error:
        raise HandshakeFailed("hello", error.what) from None
    if claims.iss != peer.id:
        raise HandshakeFailed("hello", "certificate and hello are of two agents")
    if opening.cluster != me.cluster:
        raise HandshakeFailed("cluster", f"the peer is of cluster {opening.cluster}")
    frames = spoken_with(opening.frames)
    if frames is None:
        raise HandshakeFailed("version", f"the peer knows frames up to version {opening.frames} only")
    standing = authority(peer.id, peer.certificate)  # only now: it may have been expelled while we waited
    if standing == "expelled":
        raise HandshakeFailed("expelled")
    return PeerInfo(
        id=peer.id,
        name=opening.name,
        epoch=opening.epoch,
        boot=opening.boot,
        agent_version=opening.agent_version,
        frames=frames,
        datagram_key=opening.datagram_key,
        host=link.host,
        peer_port=opening.peer_port,
        certificate=peer.certificate,
        known=standing == "member",
        dialled=dialled,
    )
