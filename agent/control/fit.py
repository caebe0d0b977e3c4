"""Whether a host can take a replica, and if not, why: a sentence for every refusal."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator

from msgspec import Struct

from agent.control.facts import ClusterFacts, HostFacts
from agent.control.placements import Placements
from agent.model.cluster import Member
from agent.model.ledger import AssignedPort, Assignment
from agent.model.report import HostReport
from agent.model.spec import ReplicaKey
from agent.model.stack import PortSpec, Service
from agent.model.types import Label, Labels
from agent.state import PORT_TRIES, may_have, satisfies

_LAST_PORT = 65535
MAX_REASONS_SHOWN = 10  # hosts that a refusal names; the rest is counted


class Fit(Struct, frozen=True, kw_only=True):
    """`ports`: what the replica gets on that host. `reason`: why it can't go there, else empty."""

    ports: tuple[AssignedPort, ...] = ()
    reason: str = ""


def constraint_reason(name: Label, labels: Labels, service: Service) -> str:
    """Which of the operator's constraints the host of that name and labels breaks, or an empty string."""
    if service.host is not None and service.host != name:
        return f"pinned to {service.host}"
    for key, value in sorted(service.labels.items()):
        has = labels.get(key)
        if has != value:
            return f"label {key}={value} wanted, " + (f"{has} there" if has is not None else "none there")
    return ""


def refusal(reasons: Iterable[tuple[Label, str]]) -> str:
    """Why no host takes it, in one sentence, of (host's name, reason)."""
    told = [f"{name}: {reason}" for name, reason in reasons]
    more = len(told) - MAX_REASONS_SHOWN
    return "; ".join(told[:MAX_REASONS_SHOWN]) + (f"; and {more} more" if more > 0 else "")


def unfit_for_good(member: Member, service: Service, report: HostReport | None) -> bool:
    """Whether the host can't take a replica of it even if it were empty. A host that never said what it has may."""
    if not satisfies(member, service):
        return True
    if report is None or not report.applied:  # what it tells before its first look says nothing
        return False
    has, wanted = report.resources, service.resources
    small = (has.memory_mib and wanted.memory_mib > has.memory_mib) or (
        has.cpu_millis and wanted.cpu_millis > has.cpu_millis
    )
    return bool(small) or all(runtime.name != service.runtime for runtime in report.runtimes)


def state_reason(host: HostFacts) -> str:
    """Why nothing at all may be placed on that host now, or an empty string."""
    if host.lost or host.liveness in ("dead", "left", "suspect"):
        return host.liveness if host.liveness != "suspect" else "not answering"
    if host.report is None:
        return "hasn't reported yet"
    return "drained" if host.drained else ""


def fit(
    key: ReplicaKey,
    service: Service,
    member: Member,
    facts: ClusterFacts,
    placements: Placements,
    current: Assignment | None = None,
) -> Fit:
    """Whether the replica can run on the host by what it has: runtime, resources, ports. Its state isn't looked at.

    `current` is the replica's assignment now: a port that it has on that host stays while it is allowed, even if it is
    about to leave.
    """
    report = facts.of(member.id).report
    if report is None:
        return Fit(reason="hasn't reported yet")
    reason = _runtime_reason(service, report) or _resource_reason(key, service, member, report, placements)
    if reason:
        return Fit(reason=reason)
    places = (current, current.predecessor) if current is not None else ()
    sticking = next((at.ports for at in places if at is not None and at.host == member.id), ())
    return _ports(key, service, member, report, placements, sticking)


def conflicts(key: ReplicaKey, report: HostReport | None) -> frozenset[int]:
    """Host ports that the host couldn't bind for this very replica."""
    if report is None:
        return frozenset()
    return frozenset(
        busy.host_port
        for busy in report.busy_ports
        if (busy.stack, busy.service, busy.slot) == (key.stack, key.service, key.slot)
    )


def _runtime_reason(service: Service, report: HostReport) -> str:
    for runtime in report.runtimes:
        if runtime.name == service.runtime:
            if runtime.available:
                return ""
            return f"{runtime.name} doesn't answer" + (f" ({runtime.reason})" if runtime.reason else "")
    return f"no {service.runtime} there"


def _resource_reason(
    key: ReplicaKey, service: Service, member: Member, report: HostReport, placements: Placements
) -> str:
    wanted = service.resources
    memory = report.resources.memory_mib - placements.memory_mib(member.id, key)
    if wanted.memory_mib > max(memory, 0):
        return f"{wanted.memory_mib} MiB wanted, {max(memory, 0)} MiB free"
    cpu = report.resources.cpu_millis - placements.cpu_millis(member.id, key)
    if wanted.cpu_millis > max(cpu, 0):
        return f"{wanted.cpu_millis} thousandths of a CPU wanted, {max(cpu, 0)} free"
    return ""


def _ports(
    key: ReplicaKey,
    service: Service,
    member: Member,
    report: HostReport,
    placements: Placements,
    sticking: tuple[AssignedPort, ...],
) -> Fit:
    busy = {conflict.host_port for conflict in report.busy_ports} | {member.api_port, member.peer_port}
    refused = conflicts(key, report)  # a port that it holds itself is busy for others only
    chosen: list[AssignedPort] = []
    taken: set[tuple[str, int]] = set()
    for spec in service.ports:
        mine = [port for port in sticking if may_have(spec, port)]
        behind = max((port.host_port for port in mine if port.host_port in refused), default=spec.host_port - 1)
        kept = (port for port in mine if port.host_port not in refused)
        others = (_assigned(spec, number) for number in _numbers(spec, behind) if number not in busy)
        for port in itertools.chain(kept, others):  # mostly the first will do
            name = (port.protocol, port.host_port)
            if name not in taken and placements.free_for(key, member.id, name):
                chosen.append(port)
                taken.add(name)
                break
        else:
            last = min(spec.host_port + PORT_TRIES - 1, _LAST_PORT)
            return Fit(reason=f"no free port in {spec.host_port}…{last}/{spec.protocol}")
    return Fit(ports=tuple(chosen))


def _numbers(spec: PortSpec, behind: int) -> Iterator[int]:
    """The host ports to try: those after `behind` first, because a report names only the newest port that was taken,
    and one that was given up before it would be tried again for ever.
    """
    end = min(spec.host_port + PORT_TRIES, _LAST_PORT + 1)
    first = min(max(spec.host_port, behind + 1), end)
    return itertools.chain(range(first, end), range(spec.host_port, first))


def _assigned(spec: PortSpec, number: int) -> AssignedPort:
    return AssignedPort(container_port=spec.container_port, host_port=number, protocol=spec.protocol)
