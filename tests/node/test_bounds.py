"""What one host can make of the coordinator's memory and of what others see: bounded texts, bounded events."""

from __future__ import annotations

import pytest

from agent.host import HostObservation
from agent.model.errand import MAX_DETAIL_CHARACTERS, MAX_UNREACHED, ErrandFinding, Unreached
from agent.model.events import MAX_WHAT_CHARACTERS
from agent.model.report import MAX_REASON_CHARACTERS, HostReport, ObservedReplica, RuntimeInfo
from agent.node.telling import HOST_EVENTS_BURST, HOST_EVENTS_PER_S
from tests.node.cluster import Cluster, Node
from tests.node.reports import signed_by


def replica(slot: int = 1, reason: str = "") -> ObservedReplica:
    return ObservedReplica(
        stack="shop", service="web", slot=slot, state="failed", revision=1, spec_hash="x", reason=reason
    )


def finding(**fields: object) -> ErrandFinding:
    return ErrandFinding(**{"errand": "0" * 16, "kind": "reach", "stack": "shop", "state": "failed", **fields})  # type: ignore[arg-type]  # ErrandFinding's


def unreached(reason: str) -> Unreached:
    return Unreached(service="web", slot=1, port=8080, reason=reason)


@pytest.fixture
def cluster() -> Cluster:
    cluster = Cluster(3)
    cluster.elect()
    cluster.run(1.0)
    return cluster


def tell(node: Node, *replicas: ObservedReplica) -> None:
    node.up.observed(HostObservation(applied=1, replicas=replicas), node.when)
    node.cluster.settle()


def test_a_long_reason_is_cut_by_the_host_that_tells_it(cluster: Cluster) -> None:
    host = cluster.followers[0]
    tell(host, replica(reason="x" * 100_000))
    (told,) = cluster.elect().up.coordination.reports[host.id].replicas
    assert len(told.reason) == MAX_REASON_CHARACTERS
    assert told.reason.endswith("x…")


@pytest.mark.parametrize(
    "changes",
    [
        {"replicas": (replica(reason="x" * (MAX_REASON_CHARACTERS + 1)),)},
        {"agent_version": "9" * 300},
        {"runtimes": tuple(RuntimeInfo(name="docker", available=True) for _ in range(100))},
        {"runtimes": (RuntimeInfo(name="docker", available=False, reason="x" * 10_000),)},
        {"findings": (finding(detail="x" * (MAX_DETAIL_CHARACTERS + 1)),)},
        {"findings": (finding(unreached=(unreached("x" * (MAX_DETAIL_CHARACTERS + 1)),)),)},
        {"findings": (finding(unreached=(unreached("refused"),) * (MAX_UNREACHED + 1)),)},
    ],
)
def test_a_report_with_longer_ones_is_nobodys(cluster: Cluster, changes: dict[str, object]) -> None:
    host, coordinator = cluster.followers[0], cluster.elect()
    known = coordinator.up.coordination.reports[host.id]
    fields = {name: getattr(known, name) for name in ("host", "boot", "at", "applied", "agent_version")}
    report = HostReport(**(fields | {"sequence": 10_000} | changes))
    coordinator.up.frame(host.id, signed_by(host, report), coordinator.when)
    assert coordinator.up.coordination.reports[host.id] == known
    assert coordinator.up.drops == {"report_unreadable": 1}


def test_an_events_sentence_is_bounded(cluster: Cluster) -> None:
    host, coordinator = cluster.followers[0], cluster.elect()
    tell(host)
    coordinator.forget()
    tell(host, replica(reason="x" * MAX_REASON_CHARACTERS))
    assert max(len(event.what) for event in coordinator.events) == MAX_WHAT_CHARACTERS


def test_a_host_that_changes_its_mind_all_the_time_leaves_room_for_the_others(cluster: Cluster) -> None:
    host, coordinator = cluster.followers[0], cluster.elect()
    tell(host)
    coordinator.forget()
    for number in range(5):
        tell(host, *(replica(slot, f"{number}") for slot in range(1, 201)))
    told = [event for event in coordinator.events if event.kind == "replica"]
    assert len(told) == HOST_EVENTS_BURST
    assert [event.what for event in coordinator.events if "more changes" in event.what] == [
        f"{host.name} tells of more changes than are shown"
    ]
    cluster.run(3.0)
    coordinator.forget()
    tell(host, *(replica(slot, "later") for slot in range(1, 201)))
    later = [event for event in coordinator.events if event.kind == "replica"]
    assert 0 < len(later) <= 4 * HOST_EVENTS_PER_S
