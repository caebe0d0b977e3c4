"""What enrol, expel, drain, undrain, relabel, grant, revoke (operators and API keys) and cancel do.

Refusals are MusterErrors that say why and what to do.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec.structs import replace

from agent.errors import Conflict, InputError, NotFound, Unprocessable
from agent.model.cluster import MAX_API_KEYS, MAX_MEMBERS, MAX_OPERATORS, Operator
from agent.model.identity import agent_id_of
from agent.model.instruction import Act, Body, Enrol, Grant, GrantKey, Relabel
from agent.model.types import AgentId, OperatorName, Target
from agent.state.placing import assignments_without
from agent.state.queries import assignments_on, expulsions, member_named
from agent.state.signed import Signed
from agent.state.stacks import forget_removed, with_revision
from agent.state.types import ClusterState, Evidence

EXPULSION_LEVEL = 4  # of the ledger, from which on the instructions that expelled somebody are kept
MAX_EXPULSIONS_KEPT = 1_000  # the newest: as many as a cluster has members; 1 KiB each
MAX_GRANTS_KEPT = 10_000  # all grants ever: they vouch for what former operators signed; 1 KiB each


def _enrol(state: ClusterState, signed: Signed, body: Body) -> ClusterState:
    """Enter a member, or replace its entry (another address, other labels, a certificate made anew)."""
    assert isinstance(body, Enrol)
    member = body.member
    _want_no_return(state, member.id)
    if agent_id_of(bytes.fromhex(member.signing_key)) != member.id:
        raise InputError("the id isn't the one of the signing key", where="$.member.id")
    known = member_named(state, member.name)
    if known is not None and known.id != member.id:
        raise Conflict(
            f"the name {member.name} belongs to {known.id}", fix="`agent expel` that one first, or take another name."
        )
    if member.id not in state.members and len(state.members) >= MAX_MEMBERS:
        raise Unprocessable(f"the cluster has its {MAX_MEMBERS} members")
    evidence = _without_act(_without(state.evidence, f"member:{member.id}/"), f"host:{member.id}", "relabel")
    return replace(
        state,
        members={**state.members, member.id: member},
        evidence={**evidence, signed.evidence_key: signed.evidence},
    )


def _want_no_return(state: ClusterState, agent: AgentId) -> None:
    if agent in state.expelled:
        raise Conflict(f"{agent} was expelled, and ids never return", fix="Let the host make a new identity.")


def _expel(state: ClusterState, signed: Signed, _body: Body) -> ClusterState:
    """Remove a member for good; its assignments go with it, so that the coordinator places them elsewhere.

    What was moving there stays where it still runs; what was moving away doesn't run there any more. The instruction is
    kept, for the host itself to see and for whoever wasn't there.
    """
    agent = _member(state, signed)
    if len(state.members) == 1:
        raise Unprocessable("the last member can't be expelled", fix="`bootstrap uninstall` it instead.")
    lost = assignments_on(state, agent)
    stacks = {
        name: replace(stack, moved_index=state.index, moved_at=state.at)
        for name, stack in state.stacks.items()
        if any(key.stack == name for key in lost)
    }
    state = replace(
        state,
        members={known: member for known, member in state.members.items() if known != agent},
        expelled=state.expelled | {agent},
        drained=state.drained - {agent},
        evidence=_with_expulsion(state, signed, _without(state.evidence, f"member:{agent}/", f"host:{agent}/")),
        assignments=assignments_without(state, agent),
        stacks={**state.stacks, **stacks},
    )
    return forget_removed(state, frozenset(stacks))


def _with_expulsion(state: ClusterState, signed: Signed, evidence: dict[str, Evidence]) -> dict[str, Evidence]:
    if state.level < EXPULSION_LEVEL:
        return evidence
    kept = [key for key, item in evidence.items() if item.act == "expel"]
    if len(kept) >= MAX_EXPULSIONS_KEPT:
        oldest = min(kept, key=lambda key: (state.targets[evidence[key].target].result.index, key))
        evidence = _without(evidence, oldest)
    return {**evidence, signed.evidence_key: signed.evidence}


def expelled_unproven(known: ClusterState, later: ClusterState) -> frozenset[AgentId]:
    """Whom `later` names as expelled without the instruction, though the ledger keeps it since `known`.

    Of an earlier level than that nobody has kept any, and of very many only the newest.
    """
    proven = expulsions(later)
    if known.level < EXPULSION_LEVEL or len(proven) >= MAX_EXPULSIONS_KEPT:
        return frozenset()
    return later.expelled - known.expelled - proven.keys()


def _drain(state: ClusterState, signed: Signed, _body: Body) -> ClusterState:
    """The host is to run nothing; the coordinator moves what may run elsewhere. Its agent stays a
    member and a voter.
    """
    agent = _member(state, signed)
    return replace(state, drained=state.drained | {agent}, evidence=_with_newest(state.evidence, signed))


def _undrain(state: ClusterState, signed: Signed, _body: Body) -> ClusterState:
    """The host may be used again."""
    agent = _member(state, signed)
    evidence = _without_act(state.evidence, signed.claims.target, "drain")
    return replace(state, drained=state.drained - {agent}, evidence=evidence)


def _relabel(state: ClusterState, signed: Signed, body: Body) -> ClusterState:
    """Another set of labels for a member, until it is enrolled again; the coordinator moves what doesn't fit them."""
    assert isinstance(body, Relabel)
    agent = _member(state, signed)
    member = replace(state.members[agent], labels=body.labels)
    return replace(state, members={**state.members, agent: member}, evidence=_with_newest(state.evidence, signed))


def _member(state: ClusterState, signed: Signed) -> AgentId:
    if signed.name not in state.members:
        raise NotFound(f"no member has the id {signed.name}", fix="`agent members` lists them.")
    return signed.name


def _grant(state: ClusterState, signed: Signed, body: Body) -> ClusterState:
    assert isinstance(body, Grant)
    operator = body.operator
    if state.operators.get(operator.name) != body.replaces:
        held = "another key, scope or stacks" if operator.name in state.operators else "no authority"
        what = f"{operator.name} has {held}, not what this grant would replace"
        raise Conflict(what, fix="Look at `agent operator list`, through another agent too (--via), and grant again.")
    if operator.name not in state.operators and len(state.operators) >= MAX_OPERATORS:
        raise Unprocessable(f"the cluster has its {MAX_OPERATORS} operators")
    if sum(1 for item in state.evidence.values() if item.act == "grant") >= MAX_GRANTS_KEPT:
        raise Unprocessable(f"the cluster has had its {MAX_GRANTS_KEPT} grants")
    operators = {**state.operators, operator.name: operator}
    _want_admin(operators)
    return replace(state, operators=operators, evidence={**state.evidence, signed.evidence_key: signed.evidence})


def _revoke(state: ClusterState, signed: Signed, _body: Body) -> ClusterState:
    """End an operator's authority. What it signed stays in force, so its grants stay as evidence."""
    if signed.name not in state.operators:
        raise NotFound(f"no operator is called {signed.name}", fix="`agent operator list` lists them.")
    operators = {name: operator for name, operator in state.operators.items() if name != signed.name}
    _want_admin(operators)
    return replace(state, operators=operators)


def _want_admin(operators: dict[OperatorName, Operator]) -> None:
    if not any(operator.scope == "admin" for operator in operators.values()):
        raise Unprocessable("the last admin can't go", fix="Grant `admin` to somebody else first.")


def _grant_key(state: ClusterState, signed: Signed, body: Body) -> ClusterState:
    assert isinstance(body, GrantKey)
    key = body.key
    if key.name in state.api_keys:
        raise Conflict(f"{key.name} has an API key", fix=f"End that one first: agent key revoke {key.name}")
    if len(state.api_keys) >= MAX_API_KEYS:
        raise Unprocessable(f"the cluster has its {MAX_API_KEYS} API keys")
    evidence = {**_without(state.evidence, f"key:{key.name}/"), signed.evidence_key: signed.evidence}
    return replace(state, api_keys={**state.api_keys, key.name: key}, evidence=evidence)


def _revoke_key(state: ClusterState, signed: Signed, _body: Body) -> ClusterState:
    if signed.name not in state.api_keys:
        raise NotFound(f"no API key is called {signed.name}", fix="`agent key list` lists them.")
    kept = {name: key for name, key in state.api_keys.items() if name != signed.name}
    return replace(state, api_keys=kept, evidence=_without(state.evidence, f"key:{signed.name}/"))


def _cancel(state: ClusterState, signed: Signed, _body: Body) -> ClusterState:
    """Take the revision that an open instruction would have taken, and do nothing else. On who was expelled nothing is
    open, and the last instruction has to stay the one that did it.
    """
    if state.level >= EXPULSION_LEVEL and signed.claims.target.startswith("member:"):
        _want_no_return(state, signed.name)
    stack = state.stacks.get(signed.name) if signed.claims.target.startswith("stack:") else None
    return state if stack is None else with_revision(state, stack, signed)


def _without(evidence: dict[str, Evidence], *prefixes: str) -> dict[str, Evidence]:
    return {key: item for key, item in evidence.items() if not key.startswith(prefixes)}


def _without_act(evidence: dict[str, Evidence], target: Target, act: Act) -> dict[str, Evidence]:
    return {key: item for key, item in evidence.items() if (item.target, item.act) != (target, act)}


def _with_newest(evidence: dict[str, Evidence], signed: Signed) -> dict[str, Evidence]:
    """Replaces the last evidence of its act on its target by this."""
    kept = _without_act(evidence, signed.claims.target, signed.claims.act)
    return {**kept, signed.evidence_key: signed.evidence}


MEMBERSHIP_ACTS: dict[Act, Callable[[ClusterState, Signed, Body], ClusterState]] = {
    "enrol": _enrol,
    "expel": _expel,
    "drain": _drain,
    "undrain": _undrain,
    "relabel": _relabel,
    "grant": _grant,
    "revoke": _revoke,
    "grant-key": _grant_key,
    "revoke-key": _revoke_key,
    "cancel": _cancel,
}
