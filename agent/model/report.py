"""Soft state: what a host observes of itself and streams to the coordinator. Never in the ledger."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from agent.model.cluster import MAX_MEMBERS
from agent.model.errand import MAX_ERRANDS, ErrandFinding
from agent.model.ledger import AssignedPort
from agent.model.stack import MAX_REPLICAS, RuntimeName
from agent.model.types import AgentId, Labels, Millis, ShortText

MAX_REASON_CHARACTERS = 4_000  # a sentence and a program's last words; each of 10,000 replicas may have one
MAX_RUNTIMES = 8  # a host has one or two
MAX_PORTS = 256  # of one replica

Reason = Annotated[str, Meta(max_length=MAX_REASON_CHARACTERS)]

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

    stack: ShortText
    service: ShortText
    slot: int
    state: ReplicaState
    revision: int
    spec_hash: ShortText
    runtime: RuntimeName = "docker"
    reason: Reason = ""
    container_id: ShortText = ""
    container_name: ShortText = ""
    image_ref: ShortText = ""
    image_id: ShortText = ""
    ports: Annotated[tuple[AssignedPort, ...], Meta(max_length=MAX_PORTS)] = ()
    restarts: int = 0
    started_at: Millis = 0


class RuntimeInfo(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An engine on a host: whether it answers, its version, and which images it has (docker)."""

    name: RuntimeName
    available: bool
    version: ShortText = ""
    reason: Reason = ""


class HostResources(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the host has. The scheduler reserves against `memory_mib` and `cpu_millis`; load is only shown."""

    memory_mib: int = 0
    cpu_millis: int = 0
    disk_free_mib: int = 0
    load_1m: float = 0.0


class PortConflict(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The host couldn't bind the port its assignment names; the coordinator gives another one."""

    stack: ShortText
    service: ShortText
    slot: int
    host_port: int


class HostReport(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole of a host's soft state. `boot` counts the agent's starts; (boot, sequence) orders reports, unless the
    host's disk went back.

    `applied` is the ledger index that the host had reconciled: a report older than an assignment says nothing about it.
    `index`: how far its ledger is (0: an earlier version doesn't say). `linked` are the members that the host has a
    peer link with; `findings` answer the errands that it was sent on.
    """

    host: AgentId
    boot: int
    sequence: int
    at: Millis
    applied: int
    agent_version: ShortText
    level: int = 1
    index: int = 0
    labels: Labels = {}
    runtimes: Annotated[tuple[RuntimeInfo, ...], Meta(max_length=MAX_RUNTIMES)] = ()
    resources: HostResources = HostResources()
    replicas: Annotated[tuple[ObservedReplica, ...], Meta(max_length=MAX_REPLICAS)] = ()
    busy_ports: Annotated[tuple[PortConflict, ...], Meta(max_length=MAX_REPLICAS)] = ()
    linked: Annotated[tuple[AgentId, ...], Meta(max_length=MAX_MEMBERS)] = ()
    findings: Annotated[tuple[ErrandFinding, ...], Meta(max_length=MAX_ERRANDS)] = ()
