"""Snapshots by somebody who knows the format: what would break a reader later is refused when it is offered."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from msgspec.structs import replace

from agent.model.instruction import Grant
from agent.state import ClusterState, SnapshotRefused, decode_snapshot, encode_snapshot
from agent.state.proof import MAX_EPOCHS
from agent.state.types import Evidence
from tests.support.ledger import Ledger, operator, service, stack


@pytest.fixture
def state() -> ClusterState:
    ledger = Ledger()
    ledger.instruct("grant", "operator:bob", Grant(operator=operator("bob", "deploy")))
    ledger.deploy(stack(web=service(replicas=3)), by="bob")
    ledger.scale(web=2)
    return ledger.state


def _far_epoch(state: ClusterState) -> ClusterState:
    """Tokens of every epoch since genesis count."""
    return replace(state, epoch=2**40)


def _another_operators_name(state: ClusterState) -> ClusterState:
    return replace(state, operators={**state.operators, "carol": state.operators["bob"]})


def _another_stacks_name(state: ClusterState) -> ClusterState:
    return replace(state, stacks={"shop": replace(state.stacks["shop"], name="blog")})


def _evidence_under_another_key(state: ClusterState) -> ClusterState:
    key, item = next((key, item) for key, item in state.evidence.items() if item.act == "scale")
    rest = {other: it for other, it in state.evidence.items() if other != key}
    return replace(state, evidence={**rest, "stack:shop/99": item})


def _garbage_as_evidence(state: ClusterState) -> ClusterState:
    """Read again by the next instruction on that stack."""
    item = Evidence(act="scale", target="stack:blog", revision=2, token="x", body=b"\xff")
    return replace(state, evidence={**state.evidence, "stack:blog/2": item})


def _garbage_as_a_beginning(state: ClusterState) -> ClusterState:
    """What began each epoch is read before anything else of them is known."""
    item = Evidence(act="recover", target="cluster", revision=1, token="x", body=b"\xff")
    return replace(state, epoch=2, evidence={**state.evidence, "cluster/1": item})


def _many_epochs_and_grants(state: ClusterState) -> ClusterState:
    """Each is nobody's, and whose epoch a token is for it says itself."""
    (real,) = (item for item in state.evidence.values() if item.act == "grant")
    lies = {
        f"operator:x{number}/1": replace(real, target=f"operator:x{number}", revision=1, body=b"{}")
        for number in range(300)
    }
    return replace(state, epoch=1 + MAX_EPOCHS, evidence=lies)


@pytest.mark.parametrize(
    "lie",
    [
        _far_epoch,
        _another_operators_name,
        _another_stacks_name,
        _evidence_under_another_key,
        _garbage_as_evidence,
        _garbage_as_a_beginning,
        _many_epochs_and_grants,
    ],
)
def test_what_would_break_its_reader_is_refused_at_once(
    state: ClusterState, lie: Callable[[ClusterState], ClusterState]
) -> None:
    began = time.monotonic()
    with pytest.raises(SnapshotRefused):
        decode_snapshot(encode_snapshot(lie(state)), founded_as=state)
    assert time.monotonic() - began < 5.0


def test_the_truth_is_taken(state: ClusterState) -> None:
    assert decode_snapshot(encode_snapshot(state), founded_as=state) == state
