"""An instruction whose signature held, on its way through `apply`, and the evidence it leaves."""

from __future__ import annotations

from functools import lru_cache

import msgspec
from msgspec import Struct

from agent.model.instruction import BODIES, Act, Body, Claims, Remove, Scale, Services
from agent.model.stack import Stack
from agent.model.types import Label, OperatorName
from agent.state.types import Evidence, StackState

REMEMBERED = 256  # decoded bodies: each change of a stack reads all evidence on it again
MAX_REMEMBERED_BYTES = 32_768  # of a body, so that all of them together have 8 MiB at most


class Signed(Struct, frozen=True, kw_only=True):
    """Claims that hold, who signed them, and the exact token and bytes to keep."""

    claims: Claims
    operator: OperatorName
    token: str
    body: bytes

    @property
    def name(self) -> str:
        """What the target names: `web` of `stack:web`."""
        return self.claims.target.partition(":")[2]

    @property
    def evidence_key(self) -> str:
        """Where `ClusterState.evidence` keeps it."""
        return f"{self.claims.target}/{self.claims.rev}"

    @property
    def evidence(self) -> Evidence:
        """What proves the object that this instruction makes."""
        claims = self.claims
        return Evidence(act=claims.act, target=claims.target, revision=claims.rev, token=self.token, body=self.body)


def body_of(evidence: Evidence) -> Body:
    """The body again. Raises msgspec.DecodeError; never for evidence that `apply` kept."""
    if len(evidence.body) > MAX_REMEMBERED_BYTES:
        return _decoded(evidence.act, evidence.body)
    return _remembered(evidence.act, evidence.body)


def _decoded(act: Act, body: bytes) -> Body:
    decoded: Body = msgspec.json.decode(body, type=BODIES[act])
    return decoded


_remembered = lru_cache(REMEMBERED)(_decoded)


def named_services(body: Body, services: frozenset[Label]) -> frozenset[Label]:
    """The `services` of a stack that the body of place, scale, restart, stop or start is about."""
    match body:
        case Scale():
            return frozenset(body.services) & services
        case Stack():
            return frozenset(body.services) & services
        case Services():
            return (frozenset(body.services) or services) & services
        case _:
            return frozenset()


def in_force(stack: StackState, services: frozenset[Label], evidence: list[Evidence]) -> list[Evidence]:
    """Which instructions on a stack since its deploy still prove something that the state says.

    Each restart that is some service's generation; per service the newest scale, and the newest stop, start or place,
    both since the deploy in force and since the one that a failed rollout returns to.
    """
    floor = min(ref.revision for ref in (stack.deployed, stack.previous) if ref is not None)
    newest: dict[tuple[str, Label, bool, int], Evidence] = {}
    for item in sorted(evidence, key=lambda item: item.revision):
        body = body_of(item)
        if isinstance(body, Remove):
            if stack.removing:
                newest["remove", "", False, 0] = item
            continue
        if item.act == "restart":
            # A restart of "all" was of the services deployed then: only the generations tell which those were.
            if item.revision in stack.generations.values():
                newest["restart", "", False, item.revision] = item
            continue
        if item.revision < floor:
            continue
        group = "run" if item.act in ("stop", "start", "place") else item.act
        since_deploy = item.revision >= stack.deployed.revision
        for service in named_services(body, services):
            newest[group, service, since_deploy, 0] = item
    kept = {item.revision: item for item in newest.values() if item.act != "start"}
    return [kept[revision] for revision in sorted(kept)]
