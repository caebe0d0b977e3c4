"""Whether operators signed what a state says: every live object is traced to an instruction, and that to genesis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable

import msgspec
from msgspec.structs import replace

from agent.errors import InputError, MusterError
from agent.instruction import VerifiedInstruction, audience_of, read_instruction, unverified_claims
from agent.model.cluster import Genesis, Member, Operator
from agent.model.instruction import Body, Enrol, Grant, GrantKey, Recover, Relabel, Remove, Scale
from agent.model.ledger import Assignment, GenesisEntry, decode_entry
from agent.model.types import AgentId, Label, OperatorName
from agent.state.errors import SnapshotRefused
from agent.state.queries import expulsions
from agent.state.signed import body_of, named_services
from agent.state.types import ClusterState, Evidence, SignedStack, StackState

MAX_EPOCHS = 1_000  # since genesis; each is begun by hand, and proven


def prove(state: ClusterState) -> None:
    """Raises SnapshotRefused, naming the first thing that nothing proves.

    Operators of the past count: what they signed while they had authority stays in force after they go.
    """
    genesis = _genesis(state)
    _check_names(state)
    audiences = {audience_of(state.cluster, epoch) for epoch in range(genesis.epoch, state.epoch + 1)}
    operators = Operators(genesis.admins, _grants(state), audiences)
    _check_epochs(state, genesis, operators)
    _want(all(operators.had(operator) for operator in state.operators.values()), "an operator that nobody granted")
    founders = {member.id: member for member in genesis.members}
    made: defaultdict[str, list[VerifiedInstruction]] = defaultdict(list)
    for item in state.evidence.values():
        if item.act == "grant":  # verified already
            continue
        verified = operators.verify(item)
        made[item.target].append(verified)
        if isinstance(verified.body, Enrol):
            founders[verified.body.member.id] = verified.body.member
    enrolled = {agent: _labelled(member, made[f"host:{agent}"]) for agent, member in founders.items()}
    _want(
        all(enrolled.get(agent) == member for agent, member in state.members.items()), "a member that nobody enrolled"
    )
    _want(not state.expelled & state.members.keys(), "a member that was expelled")
    _want(expulsions(state).keys() <= state.expelled, "an expulsion that expelled nobody")
    for name, api_key in state.api_keys.items():
        bodies = [item.body for item in made[f"key:{name}"]]
        granted = any(isinstance(body, GrantKey) and body.key == api_key for body in bodies)
        _want(name == api_key.name and granted, "an API key that nobody granted")
    for agent in state.drained:
        asked = any(item.claims.act == "drain" for item in made[f"host:{agent}"])
        _want(agent in state.members and asked, "a drain nobody asked for")
    for key, signed in state.signed.items():
        _check_deploy(operators, key, signed)
    for name, stack in state.stacks.items():
        _check_stack(state, name, stack, made[f"stack:{name}"])
    for assignment in state.assignments.values():
        _check_assignment(state, assignment)


def proven_expelled(known: ClusterState, later: ClusterState, among: Collection[AgentId]) -> frozenset[AgentId]:
    """Which of these `later`, whose signatures were checked, proves to be expelled.

    An operator whose authority has ended in `known` proves nothing: what was signed before, `known` would have itself.
    """
    kept = expulsions(later)
    return frozenset(agent for agent in kept.keys() & set(among) if _may_be_later(known, kept[agent]))


def _may_be_later(known: ClusterState, item: Evidence) -> bool:
    claims = unverified_claims(item.token)
    if claims.iss not in known.operators:
        return f"operator:{claims.iss}" not in known.targets  # else it was revoked
    try:
        read_instruction(item.token, item.body, known.operators, claims.aud)
    except MusterError:
        return False
    return True


def _labelled(member: Member, made: list[VerifiedInstruction]) -> Member:
    """As enrolled, except for labels that an instruction changed; `made` are those instructions by host."""
    bodies = [(item.claims.rev, item.body) for item in made if isinstance(item.body, Relabel)]
    newest = max(bodies, key=lambda each: each[0], default=None)
    return member if newest is None else replace(member, labels=newest[1].labels)


def _want(held: bool, otherwise: str) -> None:
    if not held:
        raise SnapshotRefused(f"it names {otherwise}")


def _genesis(state: ClusterState) -> Genesis:
    try:
        entry = decode_entry(state.genesis)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SnapshotRefused(f"its genesis can't be read: {error}") from None
    if not isinstance(entry, GenesisEntry):
        raise SnapshotRefused("its genesis isn't one")
    genesis = entry.genesis
    same = (genesis.cluster, genesis.trust_anchor, genesis.name) == (state.cluster, state.trust_anchor, state.name)
    _want(same and 0 <= state.epoch - genesis.epoch <= MAX_EPOCHS, "another cluster than its genesis")
    return genesis


def _check_names(state: ClusterState) -> None:
    """What is looked up by a name must have that name; else a proof of one object would do for another."""
    _want(all(name == item.name for name, item in state.operators.items()), "an operator as another")
    _want(all(name == item.name for name, item in state.stacks.items()), "a stack as another")
    for key, item in state.evidence.items():
        _want(key == f"{item.target}/{item.revision}", "an instruction as another than it is")


def beginnings(state: ClusterState) -> dict[int, Evidence]:
    """What began each epoch of a state except its first, by epoch; for a state whose signatures were checked."""
    found: dict[int, Evidence] = {}
    for item in state.evidence.values():
        if item.act == "recover":
            body = body_of(item)
            assert isinstance(body, Recover)
            found[body.epoch] = item
    return found


def _check_epochs(state: ClusterState, genesis: Genesis, operators: Operators) -> None:
    """Each epoch since genesis was begun by an admin, in the one before it."""
    for item in state.evidence.values():
        if item.act == "recover":
            operators.verify(item)
    begun = beginnings(state)
    _want(sorted(begun) == list(range(genesis.epoch + 1, state.epoch + 1)), "an epoch that nobody began")
    for epoch, item in begun.items():
        before = audience_of(state.cluster, epoch - 1)
        _want(unverified_claims(item.token).aud == before, "an epoch that nobody began in the one before")


def _grants(state: ClusterState) -> Iterable[Evidence]:
    return (item for item in state.evidence.values() if item.act == "grant")


class Operators:
    """Everybody who ever was an operator, by name: one name may have had several keys and scopes.

    They are `first`, and those to whom they granted something, in any order. Raises SnapshotRefused for a grant by
    somebody who couldn't grant.
    """

    def __init__(self, first: Iterable[Operator], grants: Iterable[Evidence], audiences: Collection[str]) -> None:
        self._audiences = audiences
        self._known: dict[OperatorName, list[Operator]] = {operator.name: [operator] for operator in first}
        waiting = sorted(grants, key=lambda item: (item.target, item.revision))
        while waiting:  # whoever granted may have been granted by one further down
            later = [item for item in waiting if not self._grant(item)]
            if len(later) == len(waiting):
                raise SnapshotRefused("it names a grant by nobody who could")
            waiting = later

    def had(self, operator: Operator) -> bool:
        """Whether exactly this operator was granted at some time."""
        return operator in self._known.get(operator.name, ())

    def verify(self, item: Evidence | SignedStack) -> VerifiedInstruction:
        """The instruction, signed by somebody who was allowed to at some time. Raises SnapshotRefused."""
        verified = self._try(item.token, item.body)
        if verified is None:
            raise SnapshotRefused("it names an instruction whose signature doesn't hold")
        if isinstance(item, Evidence):
            claims = verified.claims
            same = (claims.act, claims.target, claims.rev) == (item.act, item.target, item.revision)
            _want(same, "an instruction as another than it is")
        return verified

    def _grant(self, item: Evidence) -> bool:
        if self._try(item.token, item.body) is None:
            return False
        body = self.verify(item).body
        if isinstance(body, Grant):
            self._known.setdefault(body.operator.name, []).append(body.operator)
        return True

    def _try(self, token: str, body: bytes) -> VerifiedInstruction | None:
        try:
            claimed = unverified_claims(token)
        except InputError:
            return None
        if claimed.aud not in self._audiences:
            return None
        for operator in self._known.get(claimed.iss, ()):
            try:
                return read_instruction(token, body, {operator.name: operator}, claimed.aud)
            except MusterError:
                continue  # another version of the operator may have signed it
        return None


def _check_deploy(operators: Operators, key: str, signed: SignedStack) -> None:
    claims = operators.verify(signed).claims
    same = claims.act in ("deploy", "place") and (claims.target, claims.rev, claims.bdg) == (
        f"stack:{signed.stack.name}",
        signed.ref.revision,
        signed.ref.digest,
    )
    _want(same and key == claims.bdg, "a deploy as another than it is")


def _check_stack(state: ClusterState, name: Label, stack: StackState, made: list[VerifiedInstruction]) -> None:
    services: set[Label] = set()
    for ref in (stack.deployed, stack.previous):
        if ref is None:
            continue
        signed = state.signed.get(ref.digest)
        if signed is None or signed.stack.name != name or ref.revision > signed.ref.revision:
            raise SnapshotRefused("it names a deploy that nobody signed")
        services |= signed.stack.services.keys()
    names = frozenset(services)

    def said(kind: str, service: Label, revision: int | None = None) -> list[Body]:
        return [
            item.body
            for item in made
            if item.claims.act == kind
            and service in named_services(item.body, names)
            and revision in (None, item.claims.rev)
        ]

    for scale in (stack.scale, stack.previous_scale):
        for service, count in scale.items():
            bodies = said("scale", service)
            _want(
                any(isinstance(b, Scale) and b.services[service] == count for b in bodies), "a scale nobody asked for"
            )
    for service, generation in stack.generations.items():
        _want(bool(said("restart", service, generation)), "a restart nobody asked for")
    for service in stack.stopped | stack.previous_stopped:
        _want(bool(said("stop", service) or said("place", service)), "a stop nobody asked for")
    _want(stack.held <= state.signed[stack.deployed.digest].stack.services.keys(), "a start of nothing that is signed")
    if stack.removing:
        _want(any(isinstance(item.body, Remove) for item in made), "a removal nobody asked for")


def _check_assignment(state: ClusterState, assignment: Assignment) -> None:
    signed = state.signed.get(assignment.instruction.digest)
    stack = state.stacks.get(assignment.stack)
    member = state.members.get(assignment.host)
    if signed is None or stack is None or member is None or signed.stack.name != stack.name:
        raise SnapshotRefused("it names an assignment of nothing that is signed")
    _want(assignment.service in signed.stack.services, "an assignment of nothing that is signed")
    before = assignment.predecessor
    _want(before is None or before.host in state.members.keys() - {assignment.host}, "a predecessor on no other host")
