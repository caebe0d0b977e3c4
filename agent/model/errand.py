"""What a coordinator asks hosts to find out for a rollout, and what they found: soft state both ways.

An errand is a pointer, as an assignment is: the host resolves it by its own ledger, so no coordinator can make it pull,
bind or call what no operator signed. A host has one list of them, replaced whole; the next coordinator asks anew.
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
    """Have everything here that these replicas of one service need to start, without starting them.

    `assignments` are those that will be made when every host is ready, all of one service and for this host.
    """

    stack: Label
    service: Label
    revision: int
    assignments: Annotated[tuple[Assignment, ...], Meta(min_length=1, max_length=MAX_SLOTS)]


class Reach(Struct, frozen=True, kw_only=True, tag="reach", omit_defaults=True):
    """Ask every published TCP port of these replicas. `index`: the ledger's, from which on they are where they are."""

    stack: Label
    revision: int
    index: int
    slots: Annotated[tuple[Slot, ...], Meta(min_length=1, max_length=MAX_SLOTS)]


Errand = Prepare | Reach
ErrandKind = Literal["prepare", "reach"]
FindingState = Literal["working", "ready", "failed"]


def errand_id(errand: Errand) -> str:
    """Names what is asked: 16 hexadecimal characters over all of it."""
    return hashlib.sha256(_encoder.encode(errand)).hexdigest()[:16]


class Unreached(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A replica's port that this host doesn't get an answer from, and why."""

    service: ShortText
    slot: int
    port: int
    reason: Detail


class ErrandFinding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far a host is with one errand. `detail`: what it does, or what is wrong and what to do about it."""

    errand: ShortText
    kind: ErrandKind
    stack: ShortText
    service: ShortText = ""
    state: FindingState
    detail: Detail = ""
    unreached: Annotated[tuple[Unreached, ...], Meta(max_length=MAX_UNREACHED)] = ()
