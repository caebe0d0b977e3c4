"""What a report asks for: only what a decision depends on, however often hosts tell of themselves."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.control.attention import Attention
from agent.model.report import HostReport, HostResources, ObservedReplica
from tests.control.world import report

REPORT = report("a" * 26, applied=10, linked=["b" * 26])
RUNS = ObservedReplica(
    stack="shop", service="web", slot=1, state="healthy", revision=1, spec_hash="", runtime="process"
)


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
