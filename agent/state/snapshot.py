"""The state as bytes, and the proof of it.

A snapshot keeps, for each live object, the instruction that made it: token and exact body. Whoever installs one
verifies all of them, down to genesis, so a snapshot can't say what no operator signed (ARCHITECTURE.md "Invariants, and
who checks them"). It can't prove that it *leaves nothing out*: that needs the same (index, digest) from a majority, and
revisions that don't go back.
"""

import hashlib
from typing import Literal

import msgspec
from msgspec import Struct

from agent.model.cluster import ApiKey, Member, Operator
from agent.model.instruction import InstructionResult, TargetRecord
from agent.model.ledger import Assignment
from agent.model.stack import InstructionRef, Stack
from agent.model.types import AgentId, CertificatePem, ClusterId, Digest, Jti, Label, Millis, OperatorName
from agent.state.errors import SnapshotRefused
from agent.state.proof import prove
from agent.state.queries import key_of
from agent.state.types import ClusterState, Evidence, SignedStack, StackState


class _Deploy(Struct, frozen=True, kw_only=True):
    ref: InstructionRef
    token: str
    body: bytes


class _Snapshot(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """ClusterState, flat: stacks' bodies as signed bytes only, assignments without keys."""

    v: Literal[1] = 1
    cluster: ClusterId
    name: Label
    epoch: int
    level: int
    trust_anchor: CertificatePem
    index: int
    chain: Digest
    at: Millis
    genesis: bytes
    members: dict[AgentId, Member]
    expelled: frozenset[AgentId]
    drained: frozenset[AgentId] = frozenset()
    operators: dict[OperatorName, Operator]
    api_keys: dict[OperatorName, ApiKey] = {}
    targets: dict[str, TargetRecord]
    refusals: dict[Jti, InstructionResult]
    stacks: dict[Label, StackState]
    signed: tuple[_Deploy, ...]
    assignments: tuple[Assignment, ...]
    evidence: dict[str, Evidence]


_encoder = msgspec.msgpack.Encoder(order="deterministic")
_decoder = msgspec.msgpack.Decoder(_Snapshot)


def encode_snapshot(state: ClusterState) -> bytes:
    """The state as bytes, the same for the same state: agents at the same index have the same."""
    flat = _Snapshot(
        cluster=state.cluster,
        name=state.name,
        epoch=state.epoch,
        level=state.level,
        trust_anchor=state.trust_anchor,
        index=state.index,
        chain=state.chain,
        at=state.at,
        genesis=state.genesis,
        members=state.members,
        expelled=state.expelled,
        drained=state.drained,
        operators=state.operators,
        api_keys=state.api_keys,
        targets=state.targets,
        refusals=state.refusals,
        stacks=state.stacks,
        signed=tuple(
            _Deploy(ref=item.ref, token=item.token, body=item.body) for _, item in sorted(state.signed.items())
        ),
        assignments=tuple(state.assignments[key] for key in sorted(state.assignments)),
        evidence=state.evidence,
    )
    return _encoder.encode(flat)


def decode_snapshot(data: bytes, *, verify: bool = True, founded_as: ClusterState | None = None) -> ClusterState:
    """The state again. `verify=False` is for what this agent itself stored.

    `founded_as` is a state of the reader's own: the snapshot must come from the same genesis. Without it the proof ends
    at the genesis in the snapshot itself, which anybody can make. Raises SnapshotRefused.
    """
    try:
        flat = _decoder.decode(data)
        state = _state_of(flat)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise SnapshotRefused(f"not a snapshot that this version can read: {error}") from None
    if founded_as is not None and state.genesis != founded_as.genesis:
        raise SnapshotRefused("it comes from another genesis")
    if verify:
        prove(state)
    return state


def _state_of(flat: _Snapshot) -> ClusterState:
    signed: dict[Digest, SignedStack] = {}
    for item in flat.signed:
        stack = msgspec.json.decode(item.body, type=Stack)
        key = hashlib.sha256(item.body).hexdigest()
        signed[key] = SignedStack(ref=item.ref, stack=stack, token=item.token, body=item.body)
    return ClusterState(
        cluster=flat.cluster,
        name=flat.name,
        epoch=flat.epoch,
        level=flat.level,
        trust_anchor=flat.trust_anchor,
        index=flat.index,
        chain=flat.chain,
        at=flat.at,
        genesis=flat.genesis,
        members=flat.members,
        expelled=flat.expelled,
        drained=flat.drained,
        operators=flat.operators,
        api_keys=flat.api_keys,
        targets=flat.targets,
        refusals=flat.refusals,
        stacks=flat.stacks,
        signed=signed,
        assignments={key_of(assignment): assignment for assignment in flat.assignments},
        evidence=flat.evidence,
    )
