"""What members say to each other. Signing and datagrams are the shell's business.

Every message carries its sender's own incarnation, so hearing a member is a claim *alive* by the only one who may raise
it.
Decoding checks types and bounds; whether the ids are members is checked by `Swim.receive`.
"""

from typing import Annotated, Final, TypeAlias

import msgspec

from agent.swim.states import Claim

# Agent ids have 26 bytes; ten updates of two ids of this length still fit into a datagram.
MAX_ID_BYTES: Final = 32

# 10 updates × at most 79 bytes + head ≤ 850 bytes: leaves 350 of 1200 for the shell's envelope (ids, signature).
MAX_UPDATES_PER_MESSAGE: Final = 10

# One datagram never needs IP fragmentation, also inside a tunnel: below IPv6's smallest MTU of 1280 bytes.
MAX_DATAGRAM_BYTES: Final = 1200

# What an encoded message takes at most of it.
MAX_MESSAGE_BYTES: Final = 850

# msgpack's largest signed integer: what every implementation can hold.
MAX_INCARNATION: Final = (1 << 63) - 1

# An honest incarnation grows by one per refutation, so 2^32 ahead is never honest; without the bound a single forged
# claim of the largest incarnation could never be refuted again.
MAX_INCARNATION_STEP: Final = 1 << 32

# Sequence numbers wrap here; only the few that are open at one time must differ.
MAX_SEQUENCE: Final = (1 << 32) - 1

MemberId: TypeAlias = Annotated[str, msgspec.Meta(min_length=1, max_length=MAX_ID_BYTES)]
Incarnation: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_INCARNATION)]
Sequence: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=MAX_SEQUENCE)]


class Update(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One piggybacked claim (SWIM §4.1): `origin` says that `member` was `claim` in `incarnation`.

    Origins make suspicions countable: only different ones confirm each other (Lifeguard §IV.B).
    """

    member: MemberId
    origin: MemberId
    claim: Claim
    incarnation: Incarnation


Updates: TypeAlias = Annotated[tuple[Update, ...], msgspec.Meta(max_length=MAX_UPDATES_PER_MESSAGE)]


class Ping(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=1):
    """Are you there? Answered by an Ack with the same sequence. Sequence 0 is never waited for."""

    sequence: Sequence
    incarnation: Incarnation
    updates: Updates = ()


class PingRequest(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=2):
    """Please ping `target` for me (SWIM §3.1). Answered by an Ack or a Nack with this sequence."""

    sequence: Sequence
    incarnation: Incarnation
    target: MemberId
    updates: Updates = ()


class Ack(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=3):
    """The member that the sequence asked about is there. `incarnation` is the sender's own, also a helper's."""

    sequence: Sequence
    incarnation: Incarnation
    updates: Updates = ()


class Nack(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=4):
    """The helper is well, the target silent so far (Lifeguard §IV.A)."""

    sequence: Sequence
    incarnation: Incarnation
    updates: Updates = ()


class Gossip(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, tag=5):
    """News only; not answered."""

    incarnation: Incarnation
    updates: Updates = ()


SwimMessage: TypeAlias = Ping | PingRequest | Ack | Nack | Gossip
