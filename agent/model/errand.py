"""What a coordinator asks hosts to find out for a rollout, and what they found: soft state both ways.

Like an assignment, an errand is a pointer: the host resolves it by its own ledger, so no coordinator can make it pull,
bind or call anything that no operator signed. A host has one list of errands, which is replaced as a whole; the next
coordinator asks again.
"""

import hashlib
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from agent.model.ledger import Assignment, Slot
from agent.model.types import Label, ShortText

MAX_ERRANDS = 1000  # for one host; 200 services of five stacks at once
MAX_SLOTS = 1000  # replicas of one errand, as many as an entry assigns at once
MAX_UNREACHED = 20  # told of one errand; whoever mends the first five has mended the cause
MAX_DETAIL_CHARACTERS = 500  # an engine's message and what to do about it

Detail = Annotated[str, Meta(max_length=MAX_DETAIL_CHARACTERS)]

_encoder = msgspec.msgpack.Encoder(order="deterministic")


class Prepare(Struct, frozen=True, kw_only=True, tag="prepare", omit_defaults=True):
    """Get everything ready that these replicas of one service need to start, without starting them.

    `assignments` are those that will be made once every host is ready, all of one service and for this host.
    """

    stack: Label
    service: Label
    revision: int
    assignments: Annotated[tuple[Assignment, ...], Meta(min_length=1, max_length=MAX_SLOTS)]


class Reach(Struct, frozen=True, kw_only=True, tag="reach", omit_defaults=True):
    """Try every published TCP port of these replicas. `index`: the ledger index from which on they are there."""

    stack: Label
    revision: int
    index: int
    slots: Annotated[tuple[Slot, ...], Meta(min_length=1, max_length=MAX_SLOTS)]


Errand = Prepare | Reach
ErrandKind = Literal["prepare", "reach"]
FindingState = Literal["working", "ready", "failed"]


def errand_id(errand: Errand) -> str:
    """Identifies what is asked: 16 hexadecimal characters of its hash."""
    return hashlib.sha256(_encoder.encode(errand)).hexdigest()[:16]


class Unreached(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A replica's port that this host doesn't get an answer from, and why."""

    service: ShortText
    slot: int
    port: int
    reason: Detail


class ErrandFinding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a host is with one errand. `detail`: what it is doing, or what is wrong and how to fix it."""

    errand: ShortText
    kind: ErrandKind
    stack: ShortText
    service: ShortText = ""
    state: FindingState
    detail: Detail = ""
    unreached: Annotated[tuple[Unreached, ...], Meta(max_length=MAX_UNREACHED)] = ()
