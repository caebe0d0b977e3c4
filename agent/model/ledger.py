"""What an entry of the ledger says. One tagged union, with a version, msgpack-encoded as the Raft entry's data.

Instructions come from operators; everything else is the coordinator's, and can only point at instructions.
`at` is the ledger time: stamped by the coordinator at admission, milliseconds since the epoch, never decreasing.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from agent.model.cluster import Genesis
from agent.model.stack import MAX_REPLICAS, InstructionRef
from agent.model.types import AgentId, Label, Millis, Port

Phase = Literal["preparing", "services", "main", "workers", "validating", "healthy", "failed", "stopped", "removing"]
"""ARCHITECTURE.md "The way of an instruction": preparing → services → main → workers → validating → healthy | failed;
beside them what `stop` and `remove` make of a stack. `services` are the ones without a role, healthy before main."""


class AssignedPort(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A container port, and the host port that its replica got; it sticks."""

    container_port: Port
    host_port: Port
    protocol: Literal["tcp", "udp"] = "tcp"


class Predecessor(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Where a replica was before it moved: that host keeps it running until it is told to let go."""

    host: AgentId
    ports: tuple[AssignedPort, ...] = ()


class Assignment(Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """replica → host: a pointer to (instruction, service, slot), never a copy of what the operator signed.

    `generation` counts the restarts an operator asked for; another generation is another container. `predecessor`: who
    serves until this one is healthy.
    """

    stack: Label
    service: Label
    slot: Annotated[int, Meta(ge=1, le=MAX_REPLICAS)]
    host: AgentId
    instruction: InstructionRef
    ports: tuple[AssignedPort, ...] = ()
    generation: int = 0
    predecessor: Predecessor | None = None


class Slot(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, array_like=True):
    """Names a replica inside its stack."""

    service: Label
    slot: int


class GenesisEntry(Struct, frozen=True, kw_only=True, tag="genesis", omit_defaults=True, forbid_unknown_fields=True):
    """Entry 1."""

    v: Literal[1] = 1
    at: Millis
    genesis: Genesis


class InstructionEntry(
    Struct, frozen=True, kw_only=True, tag="instruction", omit_defaults=True, forbid_unknown_fields=True
):
    """One admitted instruction: the operator's token and the body's exact bytes. `via`: the agent that took it."""

    v: Literal[1] = 1
    at: Millis
    token: str
    body: bytes
    via: AgentId


class AssignEntry(Struct, frozen=True, kw_only=True, tag="assign", omit_defaults=True, forbid_unknown_fields=True):
    """Assignments made, replaced (same slot) and released, for one stack at one revision.

    `revision` is the stack's revision that the coordinator planned from; `apply` ignores an entry for another one.
    """

    v: Literal[1] = 1
    at: Millis
    stack: Label
    revision: int
    assign: tuple[Assignment, ...] = ()
    release: tuple[Slot, ...] = ()


class PhaseEntry(Struct, frozen=True, kw_only=True, tag="phase", omit_defaults=True, forbid_unknown_fields=True):
    """A stack's rollout moves on. `reason` says why it failed, or what it waits for."""

    v: Literal[1] = 1
    at: Millis
    stack: Label
    revision: int
    phase: Phase
    reason: str = ""


class LevelEntry(Struct, frozen=True, kw_only=True, tag="level", omit_defaults=True, forbid_unknown_fields=True):
    """Switches on the entry kinds and rules of a state level, once every member supports it (ARCHITECTURE.md "What is
    kept where")."""

    v: Literal[1] = 1
    at: Millis
    level: int


LedgerEntry = GenesisEntry | InstructionEntry | AssignEntry | PhaseEntry | LevelEntry

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[LedgerEntry] = msgspec.msgpack.Decoder(LedgerEntry)


def encode_entry(entry: LedgerEntry) -> bytes:
    """The entry as the bytes that Raft replicates."""
    return _encoder.encode(entry)


def decode_entry(data: bytes) -> LedgerEntry:
    """The entry in `data`. Raises msgspec.ValidationError / DecodeError for anything this version doesn't know."""
    return _decoder.decode(data)
