"""`apply`: how an entry of the ledger changes the state. Pure: no clock, no randomness, the same on every agent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from functools import lru_cache, partial
from typing import TypeVar

import msgspec
from msgspec.structs import replace

from agent.errors import InvariantBroken, MusterError, Unprocessable
from agent.instruction import read_instruction
from agent.model.fault import Fault, error_of
from agent.model.instruction import Act, Body, Claims, InstructionResult, TargetRecord
from agent.model.ledger import (
    AssignEntry,
    GenesisEntry,
    InstructionEntry,
    LedgerEntry,
    LevelEntry,
    PhaseEntry,
    decode_entry,
    encode_entry,
)
from agent.model.stack import Stack
from agent.model.types import Digest, Jti, Millis
from agent.state import epochs
from agent.state.errors import UnknownEntry
from agent.state.membership import MEMBERSHIP_ACTS
from agent.state.placing import Ignored, place, set_phase
from agent.state.queries import audience_of
from agent.state.signed import Signed
from agent.state.stacks import STACK_ACTS
from agent.state.types import MAX_REFUSALS, Applied, ClusterState, EntryName

STATE_LEVEL = 4  # the highest level of entry kinds and rules that this version applies

# Acts that came after level 1: refused until the ledger is at theirs, as an agent that doesn't know them refuses them.
ACT_LEVELS: Mapping[Act, int] = {}

REMEMBERED = 256  # decoded entries: each is looked at when it comes and again when it is applied
MAX_REMEMBERED_BYTES = 32_768  # so that all of them together have 8 MiB at most
_remembered = lru_cache(REMEMBERED)(decode_entry)

_V = TypeVar("_V")

_NO_CHAIN = "0" * 64
_NO_JTI = "0" * 32  # in the answer to a token that can't be believed about anything, its jti included
_Acts = Mapping[Act, Callable[[ClusterState, Signed, Body], ClusterState]]
_ACTS: _Acts = {**STACK_ACTS, **MEMBERSHIP_ACTS, "recover": epochs.refuse}


def genesis_state(data: bytes) -> ClusterState:
    """The state at index 1, from entry 1. Raises UnknownEntry when `data` isn't a genesis entry."""
    entry = _decode(data)
    if not isinstance(entry, GenesisEntry):
        raise UnknownEntry(f"entry 1 is a {entry.__struct_config__.tag}, not a genesis")
    genesis = entry.genesis
    return ClusterState(
        cluster=genesis.cluster,
        name=genesis.name,
        epoch=genesis.epoch,
        level=1,
        trust_anchor=genesis.trust_anchor,
        index=1,
        chain=chain_of_genesis(data),
        at=entry.at,
        members={member.id: member for member in genesis.members},
        operators={admin.name: admin for admin in genesis.admins},
        genesis=data,
    )


def apply(state: ClusterState, index: int, data: bytes, *, verify: bool = True) -> tuple[ClusterState, Applied]:
    """The state after the committed entry `data` at `index`, and what it changed.

    `index` is above `state.index` (consensus' own entries between them aren't applied).

    `verify=False` leaves out an instruction's signature and checks everything else. It is for entries that this very
    agent saw hold before a restart. A committed entry whose signature did *not* hold was refused by everybody
    (`Applied.act` is None); leaving out the check of that one would let it in, so nobody may count it as verified.

    Raises UnknownEntry for an entry that this version can't read, InvariantBroken for an entry of the past.
    """
    if index <= state.index:
        raise InvariantBroken(f"entry {index} comes again, the state is at {state.index}")
    entry = _decode(data)
    base = _behind(state, index, data, entry)
    match entry:
        case InstructionEntry():
            return _instruct(base, entry, _ACTS, verify=verify)
        case AssignEntry():
            return _coordinate(base, entry)
        case PhaseEntry():
            return _coordinate(base, entry)
        case LevelEntry():
            return _raise_level(base, entry)
        case GenesisEntry():
            raise UnknownEntry(f"entry {index} is a second genesis")


def begin_epoch(state: ClusterState, entry: InstructionEntry) -> tuple[ClusterState, InstructionResult]:
    """The state with which the next epoch begins, one index after `state`, and the answer to the operator.

    `state` is the survivor's (`entry.via`), with everything in its ledger. Everything about the instruction is checked
    except its times. Raises the MusterError that it is refused with.
    """
    acts: _Acts = {"recover": partial(epochs.recover, state, entry.via)}
    base = _behind(state, state.index + 1, encode_entry(entry), entry)
    begun, applied = _instruct(base, entry, acts, verify=True)
    result = applied.result
    assert result is not None
    if result.outcome != "applied" or applied.act != "recover" or result.repeated:
        raise error_of(Fault(kind=result.kind, status=0, what=result.what, where=result.target, fix=result.fix))
    return begun, result


def is_readable(data: bytes) -> bool:
    """Whether `apply` would take an entry after the genesis. One that it can't read must not be committed.

    The leader may be compromised: an entry that ends every agent that applies it would end the cluster, again at each
    start.
    """
    return stamp_of(data) is not None


def stamp_of(data: bytes) -> Millis | None:
    """When an entry after the genesis was proposed, as its coordinator stamped it; None for one that isn't readable."""
    try:
        entry = _decode(data)
    except UnknownEntry:
        return None
    if isinstance(entry, GenesisEntry) or (isinstance(entry, LevelEntry) and entry.level > STATE_LEVEL):
        return None
    return entry.at


def _decode(data: bytes) -> LedgerEntry:
    try:
        return _remembered(data) if len(data) <= MAX_REMEMBERED_BYTES else decode_entry(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UnknownEntry(f"an entry that this version can't read: {error}") from None


def _behind(state: ClusterState, index: int, data: bytes, entry: LedgerEntry) -> ClusterState:
    return replace(state, index=index, chain=link(state.chain, index, data), at=max(state.at, entry.at))


def chain_of_genesis(data: bytes) -> Digest:
    """`ClusterState.chain` at index 1, from entry 1."""
    return link(_NO_CHAIN, 1, data)


def link(chain: Digest, index: int, data: bytes) -> Digest:
    """`ClusterState.chain` after the entry `data` at `index`; `chain` is the one before it."""
    return hashlib.sha256(bytes.fromhex(chain) + index.to_bytes(8, "big") + data).hexdigest()


def _raise_level(base: ClusterState, entry: LevelEntry) -> tuple[ClusterState, Applied]:
    if entry.level > STATE_LEVEL:
        raise UnknownEntry(f"the ledger goes to level {entry.level}, this version knows {STATE_LEVEL}")
    if entry.level <= base.level:
        return base, Applied(index=base.index, at=base.at, kind="level")
    return replace(base, level=entry.level), Applied(index=base.index, at=base.at, kind="level")


def _coordinate(base: ClusterState, entry: AssignEntry | PhaseEntry) -> tuple[ClusterState, Applied]:
    kind: EntryName = "assign" if isinstance(entry, AssignEntry) else "phase"
    applied = Applied(index=base.index, at=base.at, kind=kind, stack=entry.stack)
    try:
        if isinstance(entry, PhaseEntry):
            return set_phase(base, entry), replace(applied, stacks=frozenset({entry.stack}))
        state, assigned, released = place(base, entry)
    except Ignored as reason:
        return base, replace(applied, ignored=str(reason))
    gone = frozenset() if entry.stack in state.stacks else frozenset({entry.stack})
    return state, replace(applied, assigned=assigned, released=released, stacks=gone)


def _instruct(
    base: ClusterState, entry: InstructionEntry, acts: _Acts, *, verify: bool
) -> tuple[ClusterState, Applied]:
    applied = Applied(index=base.index, at=base.at, kind="instruction")
    try:
        verified = read_instruction(entry.token, entry.body, base.operators, audience_of(base), verify=verify)
    except MusterError as error:
        return base, replace(applied, result=_unbelieved(base, entry.body, error))
    claims, by = verified.claims, verified.operator.name
    if _comes_later(base, claims.act, verified.body):
        what = f"a host doesn't run a version yet that knows all that this {claims.act} says"
        later = Unprocessable(what, where="act", fix="`agent members` shows which: upgrade it, or expel it.")
        return base, replace(applied, result=_unbelieved(base, entry.body, later))
    if (answer := _answered(base, claims)) is not None:
        return base, replace(applied, act=claims.act, result=answer)
    signed = Signed(claims=claims, operator=by, token=entry.token, body=entry.body)
    try:
        state = acts.get(claims.act, epochs.refuse)(base, signed, verified.body)
    except MusterError as error:
        refusal = _refusal(base, claims, by, error)
        return _remember(base, refusal), replace(applied, act=claims.act, result=refusal)
    result = _result(base, claims, by=by)
    record = TargetRecord(
        revision=claims.rev,
        act=claims.act,
        digest=claims.bdg,
        jti=claims.jti,
        by=by,
        at=base.at,
        result=result,
    )
    state = replace(state, targets={**state.targets, claims.target: record})
    return state, _changes(base, state, replace(applied, act=claims.act, result=result))


def _comes_later(state: ClusterState, act: Act, body: Body) -> bool:
    """Whether the ledger isn't yet at the level of the act, or of its body: the state must not change then, as it
    wouldn't on an agent of an earlier version.
    """
    level = body.level if isinstance(body, Stack) else 1
    return max(ACT_LEVELS.get(act, 1), level) > state.level


def _answered(state: ClusterState, claims: Claims) -> InstructionResult | None:
    """The answer that the ledger gave before, or a conflict; None when it is the instruction's turn.

    (rev, digest, jti) of each target are kept: a lost update, a replay, and a coordinator that feeds old entries are
    one refused case (docs/security.md "Instructions").
    """
    record = state.targets.get(claims.target)
    if record is not None and (record.jti, record.digest, record.revision) == (claims.jti, claims.bdg, claims.rev):
        return replace(record.result, repeated=True)
    refused = state.refusals.get(claims.jti)
    if refused is not None and (refused.digest, refused.target) == (claims.bdg, claims.target):
        return replace(refused, repeated=True)
    revision = record.revision if record is not None else 0
    if claims.rev == revision + 1:
        return None
    if record is None:
        what, by, at = f"{claims.target} has no revision yet: the next one is 1, not {claims.rev}", "", state.at
    else:
        by, at = record.by, record.at
        what = f"{claims.target} is at revision {revision} ({record.act} by {by}): the next one is {revision + 1}"
    return replace(
        _result(state, claims, by=by),
        outcome="conflict",
        at=at,
        what=what,
        fix="Look at what changed, then make the change again on top of it.",
        kind="conflict",
    )


def _result(state: ClusterState, claims: Claims, *, by: str) -> InstructionResult:
    return InstructionResult(
        outcome="applied",
        target=claims.target,
        revision=claims.rev,
        digest=claims.bdg,
        jti=claims.jti,
        by=by,
        at=state.at,
        index=state.index,
    )


def _refusal(state: ClusterState, claims: Claims, by: str, error: MusterError) -> InstructionResult:
    what = f"{error.where}: {error.what}" if error.where else error.what
    return replace(_result(state, claims, by=by), outcome="refused", what=what, fix=error.fix, kind=error.kind)


def _unbelieved(state: ClusterState, body: bytes, error: MusterError) -> InstructionResult:
    """The answer to a token whose claims aren't verified: it repeats nothing that the token says."""
    return InstructionResult(
        outcome="refused",
        target="cluster",
        revision=0,
        digest=hashlib.sha256(body).hexdigest(),
        jti=_NO_JTI,
        by="",
        at=state.at,
        index=state.index,
        what=error.what,
        fix=error.fix,
        kind=error.kind,
    )


def _remember(state: ClusterState, refusal: InstructionResult) -> ClusterState:
    """A refused instruction takes no revision, so the operator can correct it; a resent one gets the same answer."""
    refusals: dict[Jti, InstructionResult] = {**state.refusals, refusal.jti: refusal}
    if len(refusals) > MAX_REFUSALS:
        del refusals[min(refusals, key=lambda jti: (refusals[jti].index, jti))]
    return replace(state, refusals=refusals)


def _changes(old: ClusterState, new: ClusterState, applied: Applied) -> Applied:
    """What an instruction changed, found by identity: dicts that it didn't copy can't have changed."""
    members = _differing(old.members, new.members)
    return replace(
        applied,
        members=members,
        member=next(((new.members.get(id_) or old.members[id_]).name for id_ in members), ""),
        stacks=_differing(old.stacks, new.stacks),
        released=frozenset(old.assignments.keys() - new.assignments.keys())
        if old.assignments is not new.assignments
        else frozenset(),
    )


def _differing(old: dict[str, _V], new: dict[str, _V]) -> frozenset[str]:
    if old is new:
        return frozenset()
    return frozenset(key for key in old.keys() | new.keys() if old.get(key) is not new.get(key))
