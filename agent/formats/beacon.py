"""The UDP beacon (docs/seed.md "Broadcasting mechanism"): readable JSON, seven keys at the top, ours inside
`capabilities`.

A beacon is a hint where something may be found. A signed one says which agent sent it; that earns it no trust.
"""

from typing import Annotated, Any, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta, Struct

from agent.errors import TooLarge
from agent.formats.timestamps import parse_rfc3339_ms
from agent.model.decode import convert, decode_json
from agent.model.types import AgentId, ClusterId, HostAddress, Port

MAX_BEACON_BYTES = 1200  # one datagram in one frame on any link (IPv6's smallest MTU is 1280)
MAX_CAPABILITIES = 32  # a beacon is a signpost, no inventory

ServiceType = Literal["coordinator", "worker", "unknown"]
Sequence = Annotated[int, Meta(ge=0, le=2**53)]
Signature = Annotated[str, Meta(pattern=r"\A[0-9a-f]{128}\Z", description="an Ed25519 signature, hexadecimal")]
Scalar = str | int | float | bool | None
_SIGNED_KEYS = ("agent_id", "cluster", "seq", "sig")
_CONTEXT = b"muster beacon\x00"  # a signature over a beacon can be none over anything else


class Beacon(Struct, frozen=True, kw_only=True):
    """One announced service. `timestamp` is RFC 3339 UTC, for people: the table counts time by its own clock.

    `agent_id`, `cluster`, `seq` and `sig` are all set (ours) or all None (a foreign one). `seq` grows with each beacon
    of an agent, also across restarts: it starts at the milliseconds since the epoch. `capabilities` are those beside
    these four.
    """

    service_id: Annotated[str, Meta(min_length=1, max_length=128, pattern=r"\A[^\x00-\x1f\x7f]*\Z")]
    type: ServiceType
    host: HostAddress
    port: Port
    protocol: Annotated[str, Meta(min_length=1, max_length=16, pattern=r"\A[a-z0-9.+-]*\Z")]
    capabilities: Annotated[dict[str, Scalar], Meta(max_length=MAX_CAPABILITIES)] = {}
    timestamp: Annotated[str, Meta(max_length=40)]
    agent_id: AgentId | None = None
    cluster: ClusterId | None = None
    seq: Sequence | None = None
    sig: Signature | None = None

    @property
    def signed(self) -> bool:
        """Whether it carries a signature, which nobody has verified yet."""
        return self.sig is not None


class _Wire(Struct, frozen=True, kw_only=True):
    """The datagram's JSON. Further keys of other systems are ignored."""

    service_id: str
    type: str = "unknown"
    host: str
    port: int
    protocol: str
    capabilities: dict[str, Any] = {}
    timestamp: str


class _Ours(Struct, frozen=True, kw_only=True):
    """What makes a beacon ours: all four, none null."""

    agent_id: AgentId
    cluster: ClusterId
    seq: Sequence
    sig: Signature


_encoder = msgspec.json.Encoder()
_canonical_encoder = msgspec.json.Encoder(order="deterministic")


def encode_beacon(beacon: Beacon) -> bytes:
    """The datagram. Raises TooLarge over MAX_BEACON_BYTES."""
    data = _encoder.encode(_wire(beacon))
    if len(data) > MAX_BEACON_BYTES:
        raise TooLarge(f"a beacon of {len(data)} bytes; at most {MAX_BEACON_BYTES} are sent", where=beacon.service_id)
    return data


def decode_beacon(data: bytes) -> Beacon:
    """The beacon in a datagram, ours or foreign; its signature isn't verified. Raises InputError.

    A `type` that SEED doesn't know becomes `unknown`; objects and arrays among the capabilities are left out.
    """
    wire = decode_json(data, _Wire, max_bytes=MAX_BEACON_BYTES)
    parse_rfc3339_ms(wire.timestamp, where="$.timestamp")
    ours: dict[str, Any] = {}
    if wire.capabilities.keys() & {"agent_id", "sig"}:
        named = {name: wire.capabilities[name] for name in _SIGNED_KEYS if name in wire.capabilities}
        ours = msgspec.structs.asdict(convert(named, _Ours, "$.capabilities"))
    others = {name: value for name, value in wire.capabilities.items() if name not in ours and _is_scalar(value)}
    known = wire.type in ("coordinator", "worker", "unknown")
    fields = msgspec.structs.asdict(wire) | {"type": wire.type if known else "unknown", "capabilities": others}
    return convert(fields | ours, Beacon)


def sign_beacon(beacon: Beacon, key: Ed25519PrivateKey) -> Beacon:
    """The beacon with its signature; `agent_id`, `cluster` and `seq` must be set. Raises ValueError."""
    if beacon.agent_id is None or beacon.cluster is None or beacon.seq is None:
        raise ValueError("only an agent's beacon is signed: agent_id, cluster and seq")
    return msgspec.structs.replace(beacon, sig=key.sign(_signed_bytes(beacon)).hex())


def verify_beacon(beacon: Beacon, key: Ed25519PublicKey) -> bool:
    """Whether `key`, which the caller knows for `beacon.agent_id`, signed it. An unsigned one never verifies."""
    if beacon.sig is None:
        return False
    try:
        key.verify(bytes.fromhex(beacon.sig), _signed_bytes(beacon))
    except InvalidSignature:
        return False
    return True


def _signed_bytes(beacon: Beacon) -> bytes:
    """The canonical form: keys sorted, everything but the signature; the datagram's own spelling doesn't matter."""
    return _CONTEXT + _canonical_encoder.encode(_wire(msgspec.structs.replace(beacon, sig=None)))


def _wire(beacon: Beacon) -> _Wire:
    ours = {name: getattr(beacon, name) for name in _SIGNED_KEYS}
    return _Wire(
        service_id=beacon.service_id,
        type=beacon.type,
        host=beacon.host,
        port=beacon.port,
        protocol=beacon.protocol,
        capabilities=beacon.capabilities | {name: value for name, value in ours.items() if value is not None},
        timestamp=beacon.timestamp,
    )


def _is_scalar(value: object) -> bool:
    return value is None or isinstance(value, str | int | float | bool)
