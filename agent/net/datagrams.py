"""Datagrams between members: SWIM, and heartbeats with their answers. Each is for one receiver, and counts once.

    form 1 │ sender id 26 │ boot 8 │ sequence 8 │ message (msgpack) │ proof      bytes

| form | message | proof |
|---|---|---|
| 1 | SWIM | Ed25519 signature, 64 |
| 2 | SWIM | HMAC-SHA256, its first 16 |
| 3 | a heartbeat or its answer | HMAC-SHA256, its first 16 |

The proof also covers cluster, epoch and the receiver's id, which are not sent. The key of the HMAC is the receiver's:
each agent gives each peer one over their TLS link, in its hello, made of a secret of this start of it. A signature
costs fifty times as much, and is for members without a link.

A datagram is checked in this order: length → known member → token bucket (signatures only) → proof → (boot, sequence)
window → token bucket (keys only); so a stranger costs a look-up, and a flood of signatures under a member's name costs
that name's own bucket, not the processor. What is proved by a key has its bucket behind the proof, which costs 4 µs,
three times what reading it does: in front of it whoever knows a member's name could silence that member. It bounds what
the member itself makes others do. What a flood costs is bounded by how many are read at all: behind that they
are dropped, whoever sent them, and what matters goes over the links.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import math
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
from agent.model.addresses import is_ip
from agent.model.identity import AGENT_ID_LENGTH
from agent.model.types import AgentId, ClusterId
from agent.net.beats import Beat
from agent.net.frames import KEY_BYTES
from agent.swim import MAX_DATAGRAM_BYTES, MAX_MESSAGE_BYTES, SwimMessage

SIGNED_SWIM: Final = 1
KEYED_SWIM: Final = 2
KEYED_BEAT: Final = 3

_HEAD = struct.Struct(f">B{AGENT_ID_LENGTH}sQQ")
_SIGNATURE_BYTES: Final = 64
_CONTEXT: Final = b"muster datagram\x00"  # a signature over a datagram can be none over anything else

# Half of SHA-256: nobody guesses 128 bits (RFC 2104 §5).
_MAC_BYTES: Final = 16
_PROOF_BYTES: Final = {SIGNED_SWIM: _SIGNATURE_BYTES, KEYED_SWIM: _MAC_BYTES, KEYED_BEAT: _MAC_BYTES}

MIN_DATAGRAM_BYTES: Final = _HEAD.size + 1 + _MAC_BYTES

# Read per turn of the loop before others get theirs: 64 verifications are about 10 ms, well below a heartbeat.
DATAGRAMS_PER_TICK: Final = 64

# Read by all: five voters' KEYED_RATE_PER_S and what a cluster of 1000 probes; with what they cost a tenth of a core.
READ_RATE_PER_S: Final = 12_000.0
READ_BURST: Final = 4_000  # the kernel's buffer holds about as many: what came in a stall of our own isn't a flood
REST_S: Final = 0.01  # from one look at a flood to the next: its share of what may be read comes together in it

# A member without a link sends a few a second (probes, acks, gossip; more in a large cluster while many are suspected).
BUCKET_RATE_PER_S: Final = 50.0
BUCKET_BURST: Final = 100

# By key: a leader that is asked for reads sends one heartbeat a turn of its loop, some hundred a second. One that were
# dropped would go over the link the next time (agent.net.beats).
KEYED_RATE_PER_S: Final = 2000.0
KEYED_BURST: Final = 2000

# How far behind the newest a datagram may arrive, in sequence numbers: more than a second of a member's traffic.
WINDOW_DATAGRAMS: Final = 128

# The kernel's buffer, so that a stall of a second loses nothing in a cluster of 1000.
RECEIVE_BUFFER_BYTES: Final = 1024 * 1024

_encoder = msgspec.msgpack.Encoder()
_swim: msgspec.msgpack.Decoder[SwimMessage] = msgspec.msgpack.Decoder(SwimMessage)
_beats: msgspec.msgpack.Decoder[Beat] = msgspec.msgpack.Decoder(Beat)

if _HEAD.size + MAX_MESSAGE_BYTES + _SIGNATURE_BYTES > MAX_DATAGRAM_BYTES:
    raise InvariantBroken("a SWIM message and its envelope don't fit into a datagram")


class ReplayWindow(Struct):
    """Which (boot, sequence) of one sender came before: a sliding window as in RFC 4303 §3.4.3.

    Invariant: no pair is accepted twice; nothing of an earlier boot than the newest is accepted.
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
    """A member: how it proves itself to us, and what it may send by each proof; `heard_at`: when something passed."""

    signing_key: Ed25519PublicKey
    mac_key: bytes
    signed: TokenBucket = field(default_factory=TokenBucket)
    keyed: TokenBucket = field(default_factory=lambda: TokenBucket(KEYED_RATE_PER_S, KEYED_BURST, KEYED_BURST))
    window: ReplayWindow = field(default_factory=ReplayWindow)
    heard_at: float = -math.inf


class Envelope:
    """Seals and opens datagrams; sans-IO. `drops` counts, by the check that failed: `length`, `version`, `unknown`,
    `rate`, `signature`, `replay`, `message`. `key_for`: the key that we gave a peer, for what it sends us.
    """

    def __init__(
        self,
        id: AgentId,
        cluster: ClusterId,
        epoch: int,
        boot: int,
        signing_key: Ed25519PrivateKey,
        drops: Counter[str],
        *,
        key_for: Callable[[AgentId], bytes],
    ) -> None:
        self._id = id
        self._cluster = cluster
        self._boot = boot
        self._signing_key = signing_key
        self._key_for = key_for
        self._sequence = 0
        self._senders: dict[AgentId, _Sender] = {}
        self._keys: dict[AgentId, bytes] = {}
        self.epoch = epoch
        self.drops = drops

    def set_members(self, keys: dict[AgentId, bytes]) -> None:
        """Only these may send: their Ed25519 public keys (32 bytes) by id. Members that stay keep their windows."""
        for gone in self._senders.keys() - keys.keys():
            del self._senders[gone]
        for peer, raw in keys.items():
            if peer != self._id and peer not in self._senders:
                public = Ed25519PublicKey.from_public_bytes(raw)
                self._senders[peer] = _Sender(public, self._key_for(peer))

    def linked(self, peer: AgentId, boot: int, key: bytes) -> None:
        """A peer link said which start the peer is in, and the key for what we send it; b"": it accepts only
        signatures.

        Nothing of an earlier start is accepted, whatever was seen: a host whose disk went back counts its starts anew.
        The link is proof, the window only a memory.
        """
        if len(key) == KEY_BYTES:
            self._keys[peer] = key
        sender = self._senders.get(peer)
        if sender is not None and sender.window.boot != boot:
            sender.window = ReplayWindow(boot=boot)

    def unlinked(self, peer: AgentId) -> None:
        """The peer may restart now, with other keys."""
        self._keys.pop(peer, None)

    def takes_beats(self, peer: AgentId) -> bool:
        """Whether there is a key for it."""
        return peer in self._keys

    def seal(self, to: AgentId, message: SwimMessage | Beat) -> bytes:
        """The datagram for `to`. Raises InvariantBroken when the message is too long: SWIM's own bound excludes it; and
        KeyError for a heartbeat to whom there is no key for."""
        key = self._keys.get(to)
        if isinstance(message, Beat):
            form, key = KEYED_BEAT, self._keys[to]
        else:
            form = SIGNED_SWIM if key is None else KEYED_SWIM
        self._sequence += 1
        body = _HEAD.pack(form, self._id.encode("ascii"), self._boot, self._sequence) + _encoder.encode(message)
        if len(body) + _SIGNATURE_BYTES > MAX_DATAGRAM_BYTES:
            raise InvariantBroken(f"a datagram of {len(body) + _SIGNATURE_BYTES} bytes")
        covered = self._covered(to, body)
        return body + (self._signing_key.sign(covered) if key is None else _mac(key, covered))

    def heard_since(self, since: float) -> frozenset[AgentId]:
        """Members of whom something passed since then."""
        return frozenset(peer for peer, sender in self._senders.items() if sender.heard_at >= since)

    def open(self, data: bytes, now: float) -> tuple[AgentId, SwimMessage | Beat] | None:
        """Sender and message, or None for a datagram that fails a check, which is counted."""
        judged = self._judge(data, now)
        if isinstance(judged, str):
            self.drops[judged] += 1
            return None
        return judged

    def _judge(self, data: bytes, now: float) -> tuple[AgentId, SwimMessage | Beat] | str:
        if not MIN_DATAGRAM_BYTES <= len(data) <= MAX_DATAGRAM_BYTES:
            return "length"
        form, raw_id, boot, sequence = _HEAD.unpack_from(data)
        proof_bytes = _PROOF_BYTES.get(form)
        if proof_bytes is None:
            return "version"
        if len(data) <= _HEAD.size + proof_bytes:
            return "length"
        peer = raw_id.decode("ascii", "replace")
        sender = self._senders.get(peer)
        if sender is None:
            return "unknown"
        if form == SIGNED_SWIM and not sender.signed.take(now):
            return "rate"
        body, proof = data[:-proof_bytes], data[-proof_bytes:]
        if not _proves(sender, form, proof, self._covered(self._id, body)):
            return "signature"
        if not sender.window.accept(boot, sequence):
            return "replay"
        if form != SIGNED_SWIM and not sender.keyed.take(now):
            return "rate"
        try:
            message = (_beats if form == KEYED_BEAT else _swim).decode(body[_HEAD.size :])
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError):
            return "message"
        sender.heard_at = now
        return peer, message

    def _covered(self, to: AgentId, body: bytes) -> bytes:
        return b"".join((_CONTEXT, f"{self._cluster}.{self.epoch}.{to}\x00".encode("ascii"), body))


def _mac(key: bytes, covered: bytes) -> bytes:
    return hmac.digest(key, covered, "sha256")[:_MAC_BYTES]


def _proves(sender: _Sender, form: int, proof: bytes, covered: bytes) -> bool:
    if form != SIGNED_SWIM:
        return hmac.compare_digest(proof, _mac(sender.mac_key, covered))
    try:
        sender.signing_key.verify(proof, covered)
    except InvalidSignature:
        return False
    return True


class Datagrams:
    """The UDP socket around an `Envelope`. `on_message(sender, message)` is called from the event loop.

    `budget`: how many are looked at. Of more, the first is dropped as `flood`; the others wait for REST_S, or the
    kernel drops them.
    """

    def __init__(
        self,
        envelope: Envelope,
        on_message: Callable[[AgentId, SwimMessage | Beat], None],
        budget: TokenBucket | None = None,
    ) -> None:
        self._envelope = envelope
        self._on_message = on_message
        self._loop = asyncio.get_running_loop()
        self._socket: socket.socket | None = None
        self._budget = budget or TokenBucket(READ_RATE_PER_S, READ_BURST, READ_BURST)
        self._rest: asyncio.TimerHandle | None = None

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
        if self._rest is not None:
            self._rest.cancel()
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._socket.close()
            self._socket = None

    def send(self, to: AgentId, host: str, port: int, message: SwimMessage | Beat) -> bool:
        """Seal and send to the member `to` at an IP address. False when the kernel wouldn't take it; counted."""
        if self._socket is None:
            return False
        if not is_ip(host):  # the kernel takes none, and `sendto` would ask a resolver, on the event loop
            self._envelope.drops["name"] += 1
            return False
        try:
            self._socket.sendto(self._envelope.seal(to, message), (host, port))
        except OSError:  # full buffer, no route: SWIM asks again by itself, and heartbeats come all the time
            self._envelope.drops["send"] += 1
            return False
        return True

    def drain(self) -> None:
        """Read what waits, at most DATAGRAMS_PER_TICK; the loop comes back for more. To be called before a timer is
        believed."""
        for _ in range(DATAGRAMS_PER_TICK):
            if self._socket is None or self._rest is not None:
                return
            try:
                data = self._socket.recv(MAX_DATAGRAM_BYTES + 1)
            except BlockingIOError:
                return
            except OSError:  # an ICMP error of an earlier datagram; the socket is fine
                self._envelope.drops["socket"] += 1
                continue
            now = self._loop.time()
            if not self._budget.take(now):
                self._envelope.drops["flood"] += 1
                self._loop.remove_reader(self._socket.fileno())
                self._rest = self._loop.call_later(REST_S, self._read_on)
                return
            opened = self._envelope.open(data, now)
            if opened is not None:
                self._on_message(*opened)

    def _read_on(self) -> None:
        self._rest = None
        if self._socket is not None:
            self._loop.add_reader(self._socket.fileno(), self.drain)
