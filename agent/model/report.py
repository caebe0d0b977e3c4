"""Soft state: what a host observes of itself and streams to the coordinator. Never in the ledger."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from agent.model.errand import Finding
from agent.model.ledger import AssignedPort
from agent.model.stack import RuntimeName
from agent.model.types import AgentId, Labels, Millis

ReplicaState = Literal[
    "pending",  # assigned, its host hasn't begun
    "pulling",  # the image is on its way
    "starting",  # runs, its first health check isn't in yet
    "healthy",  # runs, and its check passes (no check: it runs)
    "unhealthy",  # runs, its check fails
    "backoff",  # ended or failed to start; the next try is being waited for
    "stopping",
    "stopped",  # ended, and wanted so
    "failed",  # ended or can't be started; its host tries again, but slowly and without much hope
    "unknown",  # its host hasn't reported to this coordinator
]


class ObservedReplica(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One replica as its host sees it. `spec_hash` names what runs; `reason` says what is wrong, in a sentence."""

    stack: str
    service: str
    slot: int
    state: ReplicaState
    revision: int
    spec_hash: str
    runtime: RuntimeName = "docker"
    reason: str = ""
    container_id: str = ""
    container_name: str = ""
    image_ref: str = ""
    image_id: str = ""
    ports: tuple[AssignedPort, ...] = ()
    restarts: int = 0
    started_at: Millis = 0


class RuntimeInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An engine on a host: whether it answers, its version, and which images it has (docker)."""

    name: RuntimeName
    available: bool
    version: str = ""
    reason: str = ""


class HostResources(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the host has. The scheduler reserves against `memory_mib` and `cpu_millis`; load is only shown."""

    memory_mib: int = 0
    cpu_millis: int = 0
    disk_free_mib: int = 0
    load_1m: float = 0.0


class PortConflict(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The host couldn't bind the port its assignment names; the coordinator gives another one."""

    stack: str
    service: str
    slot: int
    host_port: int


class HostReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole of a host's soft state. `boot` counts the agent's starts; (boot, sequence) orders reports.

    `applied` is the ledger index that the host had reconciled against: a report older than an assignment says nothing
    about it. `linked` are the members the host has a peer link with; `findings` answer the errands that it was sent on.
    """

    host: AgentId
    boot: int
    sequence: int
    at: Millis
    applied: int
    agent_version: str
    level: int = 1
    labels: Labels = {}
    runtimes: tuple[RuntimeInfo, ...] = ()
    resources: HostResources = HostResources()
    replicas: tuple[ObservedReplica, ...] = ()
    busy_ports: tuple[PortConflict, ...] = ()
    linked: tuple[AgentId, ...] = ()
    findings: tuple[Finding, ...] = ()
