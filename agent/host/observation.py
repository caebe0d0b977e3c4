"""What the hosting loop reports to the node core: the host's half of a `HostReport`."""

from __future__ import annotations

from msgspec import Struct

from agent.model.errand import ErrandFinding
from agent.model.report import HostResources, ObservedReplica, PortConflict, RuntimeInfo


class HostObservation(Struct, frozen=True, kw_only=True):
    """`applied`: the ledger index of the wanted set that it was reconciled against; 0 before there was one."""

    applied: int = 0
    replicas: tuple[ObservedReplica, ...] = ()
    busy_ports: tuple[PortConflict, ...] = ()
    runtimes: tuple[RuntimeInfo, ...] = ()
    resources: HostResources = HostResources()
    findings: tuple[ErrandFinding, ...] = ()
