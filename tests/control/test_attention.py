"""What asks for a decision: only what one depends on, however often hosts tell of themselves and operators sign."""

from __future__ import annotations

from typing import get_args

import pytest
from msgspec.structs import replace

from agent.control.attention import Attention
from agent.model.instruction import Act, InstructionResult
from agent.model.report import HostReport, HostResources, ObservedReplica
from agent.state import Applied
from tests.control.world import report

REPORT = report("a" * 26, applied=10, linked=["b" * 26])
RUNS = ObservedReplica(
    stack="shop", service="web", slot=1, state="healthy", revision=1, spec_hash="", runtime="process"
)
WHO_MAY_SIGN_OR_READ = {"grant", "revoke", "grant-key", "revoke-key"}


def asked_by(told: HostReport, *, waiting: dict[str, int] | None = None, voter: bool = False) -> Attention:
    """After `REPORT`, by the next one."""
    attention = Attention()
    attention.reported(REPORT, told, waiting or {}, voter=voter)
    return attention


@pytest.mark.parametrize(("applied", "stacks"), [(11, set()), (12, {"shop"}), (13, {"shop", "blog"})])
def test_a_host_that_has_got_as_far_as_a_stack_was_moved_is_looked_at_for_that_stack(
    applied: int, stacks: set[str]
) -> None:
    asked = asked_by(replace(REPORT, applied=applied), waiting={"shop": 12, "blog": 13, "old": 10})
    assert (asked.stacks, asked.everything, asked.hosts) == (stacks, False, False)


def test_a_voter_with_other_links_says_how_hosts_are_seen_and_nothing_of_any_stack() -> None:
    other = replace(REPORT, linked=())
    assert asked_by(other, voter=True).hosts
    assert not asked_by(other, voter=True).everything
    assert not asked_by(other).is_wanted


def test_what_runs_asks_for_its_own_stack() -> None:
    assert asked_by(replace(REPORT, replicas=(RUNS,)), waiting={"blog": 5}).stacks == {"shop"}


@pytest.mark.parametrize(
    "told",
    [
        replace(REPORT, boot=2),
        replace(REPORT, applied=0),
        replace(REPORT, runtimes=()),
        replace(REPORT, resources=HostResources(memory_mib=512, cpu_millis=1000)),
    ],
)
def test_what_a_host_has_to_offer_asks_for_everything(told: HostReport) -> None:
    assert asked_by(told).everything


def test_the_same_told_again_asks_for_nothing() -> None:
    assert not asked_by(replace(REPORT, sequence=2, at=2), waiting={"shop": 5, "blog": 99}).is_wanted


def instruction(act: Act, outcome: str = "applied") -> Applied:
    result = InstructionResult(
        outcome=outcome,  # type: ignore[arg-type]  # one of the Literal's
        target="stack:web",
        revision=2,
        digest="0" * 64,
        jti="0" * 32,
        by="ops",
        at=1,
        index=7,
    )
    return Applied(index=7, at=1, kind="instruction", act=act, result=result)


@pytest.mark.parametrize("act", sorted(set(get_args(Act)) - WHO_MAY_SIGN_OR_READ - {"cancel"}))
def test_an_instruction_that_tells_no_stack_may_concern_all_of_them(act: Act) -> None:
    attention = Attention()
    attention.applied(instruction(act))
    assert attention.everything
    assert attention.urgent


@pytest.mark.parametrize("act", sorted(WHO_MAY_SIGN_OR_READ | {"cancel"}))
def test_who_may_sign_and_a_revision_taken_place_nothing(act: Act) -> None:
    attention = Attention()
    attention.applied(instruction(act))
    assert not attention.is_wanted
    assert not attention.urgent


def test_a_refusal_changes_nothing() -> None:
    attention = Attention()
    attention.applied(instruction("deploy", outcome="refused"))
    assert not attention.is_wanted
