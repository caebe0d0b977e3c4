"""SWIM over UDP: every datagram is signed by its sender, for its receiver, and counts once.

    version 1 │ sender id 26 │ boot 8 │ sequence 8 │ message (msgpack) │ Ed25519 signature 64      bytes

The signature also covers cluster, epoch and the receiver's id, which are not sent. A datagram is checked in this
order: length → known member → token bucket → signature → (boot, sequence) window; so a stranger costs a look-up, and a
flood under a member's name costs that name's own bucket, not the processor.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Final

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct, field

from agent.errors import InputError, InvariantBroken, PortTaken
from agent.model.identity import AGENT_ID_LENGTH
from agent.model.types import AgentId, ClusterId
from agent.net.addresses import is_ip
from agent.swim import MAX_DATAGRAM_BYTES, MAX_MESSAGE_BYTES, SwimMessage

DATAGRAM_VERSION: Final = 1

_HEAD = struct.Struct(f">B{AGENT_ID_LENGTH}sQQ")
_SIGNATURE_BYTES: Final = 64
_CONTEXT: Final = b"muster datagram\x00"  # a signature over a datagram can be none over anything else

MIN_DATAGRAM_BYTES: Final = _HEAD.size + 1 + _SIGNATURE_BYTES

# Read per turn of the loop before others get theirs: 64 verifications are about 10 ms, well below a heartbeat.
DATAGRAMS_PER_TICK: Final = 64

# A member sends a few a second (probes, acks, gossip; more in a large cluster while many are suspected).
BUCKET_RATE_PER_S: Final = 50.0
BUCKET_BURST: Final = 100

# How far behind the newest a datagram may arrive, in sequence numbers: more than a second of a member's traffic.
WINDOW_DATAGRAMS: Final = 128

# The kernel's buffer, so that a stall of a second loses nothing in a cluster of 1000.
RECEIVE_BUFFER_BYTES: Final = 1024 * 1024

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[SwimMessage] = msgspec.msgpack.Decoder(SwimMessage)

if _HEAD.size + MAX_MESSAGE_BYTES + _SIGNATURE_BYTES > MAX_DATAGRAM_BYTES:
    raise InvariantBroken("a SWIM message and its envelope don't fit into a datagram")


class ReplayWindow(Struct):
    """Which (boot, sequence) of one sender came before: a sliding window as of RFC 4303 §3.4.3.

    Invariant: no pair is accepted twice; nothing of a boot before the newest is accepted.
    """

    boot: int = -1
    newest: int = -1
    seen: int = 0

    def accept(self, boot: int, sequence: int) -> bool:
        """Whether this pair is fresh; if so it is remembered."""
        if boot < self.boot:
            return False
        if boot > self.boot:
            self.boot, self.newest, self.seen = boot, sequence, 1
            return True
        ahead = sequence - self.newest
        if ahead > 0:
            kept = self.seen << ahead if ahead < WINDOW_DATAGRAMS else 0
            self.newest, self.seen = sequence, (kept | 1) & ((1 << WINDOW_DATAGRAMS) - 1)
            return True
        bit = 1 << -ahead
        if -ahead >= WINDOW_DATAGRAMS or self.seen & bit:
            return False
        self.seen |= bit
        return True


class TokenBucket(Struct):
    """Lets `rate_per_s` through on average and `burst` at once. Invariant: 0 <= tokens <= burst."""

    rate_per_s: float = BUCKET_RATE_PER_S
    burst: float = BUCKET_BURST
    tokens: float = BUCKET_BURST
    at: float = 0.0

    def take(self, now: float) -> bool:
        """Whether one more may pass at `now` (monotonic seconds)."""
        self.tokens = min(self.burst, self.tokens + max(0.0, now - self.at) * self.rate_per_s)
        self.at = now
        if self.tokens < 1.0:
            return False
        self.tokens -= 1.0
        return True


class _Sender(Struct):
    key: Ed25519PublicKey
    bucket: TokenBucket
    window: ReplayWindow = field(default_factory=ReplayWindow)


class Envelope:
    """Seals and opens datagrams; sans-IO. `drops` counts, by the check that failed: `length`, `version`, `unknown`,
    `rate`, `signature`, `replay`, `message`.
    """

    def __init__(
        self, id: AgentId, cluster: ClusterId, epoch: int, boot: int, key: Ed25519PrivateKey, drops: Counter[str]
    ) -> None:
        self._id = id
        self._cluster = cluster
        self._boot = boot
        self._key = key
        self._sequence = 0
        self._senders: dict[AgentId, _Sender] = {}
        self.epoch = epoch
        self.drops = drops

    def set_members(self, keys: dict[AgentId, bytes]) -> None:
        """Exactly these may send: their Ed25519 public keys (32 bytes) by id. Windows of those who stay are kept."""
        for gone in self._senders.keys() - keys.keys():
            del self._senders[gone]
        for peer, raw in keys.items():
            if peer != self._id and peer not in self._senders:
                self._senders[peer] = _Sender(Ed25519PublicKey.from_public_bytes(raw), TokenBucket())

    def set_boot(self, peer: AgentId, boot: int) -> None:
        """A peer link told which start the peer is in: nothing of an earlier one is accepted, whatever was seen.

        A host whose disk went back in time counts its starts anew; the link is proof, the window only a memory.
        """
        sender = self._senders.get(peer)
        if sender is not None and sender.window.boot != boot:
            sender.window = ReplayWindow(boot=boot)

    def seal(self, to: AgentId, message: SwimMessage) -> bytes:
        """The datagram for `to`. Raises InvariantBroken when the message is too long: SWIM's own bound excludes it."""
        self._sequence += 1
        head = _HEAD.pack(DATAGRAM_VERSION, self._id.encode("ascii"), self._boot, self._sequence)
        body = head + _encoder.encode(message)
        if len(body) + _SIGNATURE_BYTES > MAX_DATAGRAM_BYTES:
            raise InvariantBroken(f"a datagram of {len(body) + _SIGNATURE_BYTES} bytes")
        return body + self._key.sign(self._signed(to, body))

    def open(self, data: bytes, now: float) -> tuple[AgentId, SwimMessage] | None:
        """Sender and message, or None for anything that doesn't pass; counted."""
        judged = self._judge(data, now)
        if isinstance(judged, str):
            self.drops[judged] += 1
            return None
        return judged

    def _judge(self, data: bytes, now: float) -> tuple[AgentId, SwimMessage] | str:
        if not MIN_DATAGRAM_BYTES <= len(data) <= MAX_DATAGRAM_BYTES:
            return "length"
        version, raw_id, boot, sequence = _HEAD.unpack_from(data)
        if version != DATAGRAM_VERSION:
            return "version"
        peer = raw_id.decode("ascii", "replace")
        sender = self._senders.get(peer)
        if sender is None:
            return "unknown"
        if not sender.bucket.take(now):
            return "rate"
        body = data[:-_SIGNATURE_BYTES]
        try:
            sender.key.verify(data[-_SIGNATURE_BYTES:], self._signed(self._id, body))
        except InvalidSignature:
            return "signature"
        if not sender.window.accept(boot, sequence):
            return "replay"
        try:
            return peer, _decoder.decode(body[_HEAD.size :])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
            return "message"

    def _signed(self, to: AgentId, body: bytes) -> bytes:
        return b"".join((_CONTEXT, f"{self._cluster}.{self.epoch}.{to}\x00".encode("ascii"), body))


class Datagrams:
    """The UDP socket around an `Envelope`. `on_message(sender, message)` is called from the event loop."""

    def __init__(self, envelope: Envelope, on_message: Callable[[AgentId, SwimMessage], None]) -> None:
        self._envelope = envelope
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self.heard: dict[AgentId, float] = {}
        """When the newest datagram of each member came, by the loop's clock; members only, so it is bounded."""

    def start(self, host: str, port: int) -> int:
        """Listen; gives the port in use. Raises PortTaken or InputError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER_BYTES)
            opened.bind((host, port))
        except OSError as error:
            opened.close()
            if error.errno == errno.EADDRINUSE:
                raise PortTaken((port,), where=host) from None
            raise InputError(f"can't listen on UDP port {port}: {error.strerror}", where=host) from None
        self._socket = opened
        self._loop.add_reader(opened.fileno(), self.drain)
        return int(opened.getsockname()[1])

    def stop(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def send(self, to: AgentId, host: str, port: int, message: SwimMessage) -> bool:
        """Sign and send to the member `to` at an IP address. False when the kernel wouldn't take it; counted."""
        if self._socket is None:
            return False
        if not is_ip(host):  # the kernel takes none, and `sendto` would ask a resolver, on the event loop
            self._envelope.drops["name"] += 1
            return False
        try:
            self._socket.sendto(self._envelope.seal(to, message), (host, port))
        except OSError:  # full buffer, no route: SWIM asks again by itself
            self._envelope.drops["send"] += 1
            return False
        return True

    def drain(self) -> None:
        """Read what waits, at most DATAGRAMS_PER_TICK; the loop comes back for more. To be called before a timer is
        believed."""
        for _ in range(DATAGRAMS_PER_TICK):
            if self._socket is None:
                return
            try:
                data = self._socket.recv(MAX_DATAGRAM_BYTES + 1)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error of an earlier datagram; the socket is fine
                self._envelope.drops["socket"] += 1
                continue
            opened = self._envelope.open(data, self._loop.time())
            if opened is not None:
                self.heard[opened[0]] = self._loop.time()
                self._on_message(*opened)
