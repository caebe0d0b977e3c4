"""Epochs: how another one begins when the majority is lost for good, and when an agent believes that.

There is no quorum to ask, so an admin's signature takes its place: over the survivor and the head of its ledger. One
compromised host can't begin an epoch, and whoever meets the survivor later can check who did.
"""

from __future__ import annotations

from msgspec.structs import replace

from agent.errors import Conflict, Unprocessable
from agent.instruction import audience_of
from agent.model.instruction import Body, Recover
from agent.model.types import AgentId
from agent.state.errors import SnapshotRefused
from agent.state.proof import Operators, beginnings
from agent.state.signed import Signed
from agent.state.types import ClusterState

_AGAIN = "Look again, and sign what is there now: `agent recover --new-epoch`."


def recover(head: ClusterState, survivor: AgentId, base: ClusterState, signed: Signed, body: Body) -> ClusterState:
    """The next epoch. `head` is everything that the `survivor` knows, `base` the same, one entry further.

    Raises Conflict for another head or epoch, Unprocessable for another agent.
    """
    assert isinstance(body, Recover)
    if body.epoch != head.epoch + 1:
        raise Conflict(f"the next epoch is {head.epoch + 1}, not {body.epoch}", where="$.epoch", fix=_AGAIN)
    if (body.index, body.chain) != (head.index, head.chain):
        raise Conflict(f"the ledger here ends at {head.index} and isn't the one that was signed", where="$", fix=_AGAIN)
    if body.survivor != survivor or survivor not in base.members:
        raise Unprocessable("it was signed for another survivor", where="$.survivor", fix=_AGAIN)
    return replace(base, epoch=body.epoch, evidence={**base.evidence, signed.evidence_key: signed.evidence})


def refuse(_base: ClusterState, _signed: Signed, _body: Body) -> ClusterState:
    """`recover` through consensus: if there is a majority to commit it, nothing has to be recovered."""
    raise Unprocessable(
        "an epoch begins outside of consensus, on a survivor",
        fix="`agent recover --new-epoch` asks the survivor itself, once the majority is lost.",
    )


def check_crossing(ours: ClusterState, offered: ClusterState) -> None:
    """Whether an agent at `ours` may leave its epoch for that of `offered`, a state that is proven in itself.

    Proven means: signed by somebody who was an admin at some time. *This* agent follows only an admin by its own
    ledger, or somebody whom such an admin has made one since; not one whose authority was revoked, as far as this agent
    knows. Raises SnapshotRefused.
    """
    if offered.genesis != ours.genesis:
        raise SnapshotRefused("it comes from another genesis")
    begun = beginnings(offered).get(ours.epoch + 1)
    if begun is None:
        raise SnapshotRefused(f"nothing in it begins epoch {ours.epoch + 1}")
    grants = (item for key, item in offered.evidence.items() if item.act == "grant" and key not in ours.evidence)
    audiences = {audience_of(ours.cluster, epoch) for epoch in range(ours.epoch, offered.epoch + 1)}
    Operators(ours.operators.values(), grants, audiences).verify(begun)
