"""Which hosts are dead for scheduling: dead in SWIM *and* without a stream to any voter (ARCHITECTURE.md "Membership
and links").

Gossip alone never moves a replica, so one compromised host can't declare others dead. Pure; coordinator only.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from msgspec import Struct

from agent.control.facts import ClusterFacts, HostFacts
from agent.model.report import HostReport
from agent.model.status import HostState
from agent.model.types import AgentId, Millis

NEW_COORDINATOR_GRACE_S = 5.0  # every host gets as long to be heard by a new coordinator as SWIM takes to suspect one
AWAIT_REPORT_S = 10.0  # after it, a host that never reported is no longer waited for: its link may be blocked for long
TOLD_S = 10.0  # two reports: a host that tells of itself is alive, though our own probes don't get through to it
LEFT_GRACE_S = 60.0  # a clean stop is mostly a restart or an upgrade, and workloads go on meanwhile


class Sighting(Struct, frozen=True, kw_only=True):
    """SWIM's state of a member, and since when (monotonic seconds)."""

    state: HostState
    since: float


class Watch(Struct, frozen=True, kw_only=True):
    """What the coordinator has seen and heard.

    `since` (monotonic seconds) and `since_ms` (ledger time): when it began to coordinate. `linked`: members that it
    has a peer link with itself. `reports`: the newest of each host since then, `heard` when they came (monotonic).
    `swim`: members without one are unknown.
    """

    coordinator: AgentId
    since: float
    since_ms: Millis
    linked: frozenset[AgentId]
    swim: Mapping[AgentId, Sighting]
    reports: Mapping[AgentId, HostReport]
    heard: Mapping[AgentId, float] = {}


def cluster_facts(
    members: Iterable[AgentId],
    voters: Collection[AgentId],
    watch: Watch,
    now: float,
    *,
    drained: Collection[AgentId] = (),
) -> ClusterFacts:
    """The hosts as scheduling and rollouts see them at `now` (monotonic seconds)."""
    seen = streams(watch.coordinator, watch.linked, voters, watch.reports)
    hosts = {member: _host(member, watch, now, seen, drained=member in drained) for member in members}
    return ClusterFacts(hosts=hosts, since_ms=watch.since_ms)


def streams(
    coordinator: AgentId,
    linked: Collection[AgentId],
    voters: Collection[AgentId],
    reports: Mapping[AgentId, HostReport],
) -> frozenset[AgentId]:
    """The members that a voter has a stream with. A voter counts only while we have its stream, so that its last report
    can't linger.
    """
    heard = {coordinator, *linked}
    for voter in voters:
        if voter in linked and voter in reports:
            heard.update(reports[voter].linked)
    return frozenset(heard)


def _host(member: AgentId, watch: Watch, now: float, streams: frozenset[AgentId], *, drained: bool) -> HostFacts:
    report = watch.reports.get(member)
    sighting = watch.swim.get(member)
    state: HostState = sighting.state if sighting is not None else "unknown"
    if member in streams:
        told = now - watch.heard.get(member, float("-inf")) <= TOLD_S
        alive = told or state in ("alive", "unknown") or member == watch.coordinator
        liveness: HostState = "alive" if alive else "suspect"
        lost = False
    else:
        grace_over = now - watch.since >= NEW_COORDINATOR_GRACE_S
        left_for_good = sighting is not None and state == "left" and now - sighting.since >= LEFT_GRACE_S
        lost = grace_over and (state == "dead" or left_for_good)
        liveness = "suspect" if state == "dead" and not lost else state
    awaited = report is None and not lost and now - watch.since < AWAIT_REPORT_S
    return HostFacts(liveness=liveness, lost=lost, awaited=awaited, report=report, drained=drained)
