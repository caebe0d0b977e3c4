"""The status of a cluster: one model for `agent status --json` and `GET /api/v1/deployment/status`."""

from typing import Literal

from msgspec import Struct, field

from agent.model.errand import ErrandKind, FindingState
from agent.model.ledger import AssignedPort, Phase
from agent.model.report import HostResources, ReplicaState, RuntimeInfo
from agent.model.types import AgentId, ClusterId, Labels

STATUS_VERSION = 1

HostState = Literal["alive", "suspect", "dead", "left", "unknown"]
HostRole = Literal["coordinator", "voter", "observer"]
Severity = Literal["warning", "error"]


class ClusterStatus(Struct, frozen=True, kw_only=True):
    id: ClusterId
    epoch: int
    name: str


class AgentRef(Struct, frozen=True, kw_only=True):
    """An agent by id and by its host's name."""

    id: AgentId
    name: str


class QuorumStatus(Struct, frozen=True, kw_only=True):
    """`voters` counted, `reachable` of them now; `tolerates`: how many more may be lost before the ledger stops."""

    voters: int
    reachable: int
    tolerates: int


class HostStatus(Struct, frozen=True, kw_only=True):
    """`fit`: whether replicas of every kind may be placed there. `reasons` says why not: it is dead or drained, or one
    of its engines doesn't answer, so that it takes only replicas for its other engine. `last_seen`: RFC 3339, or None
    if never.

    `cordoned`: it was drained: nothing more is placed there, and what may run elsewhere leaves. `resources`: as it last
    reported them, None where this agent has no report of it.
    """

    id: AgentId
    name: str
    address: str
    role: HostRole
    state: HostState
    fit: bool
    reasons: tuple[str, ...] = ()
    cordoned: bool = False
    labels: Labels = {}
    agent_version: str = ""
    runtime: tuple[RuntimeInfo, ...] = ()
    last_seen: str | None = None
    resources: HostResources | None = None


class ImageStatus(Struct, frozen=True, kw_only=True):
    ref: str
    id: str


class ReplicaStatus(Struct, frozen=True, kw_only=True):
    slot: int
    host: str
    state: ReplicaState
    reason: str = ""
    container_id: str = ""
    container_name: str = ""
    image: ImageStatus | None = None
    revision: int
    ports: tuple[AssignedPort, ...] = ()
    restarts: int = 0
    stays: str = ""
    """What keeps the replica where it is when its host is drained: its pin, its volume, or no host that fits."""
    alone: str = ""
    """Why it has to end before its successor elsewhere starts; empty: it goes on until that one is healthy."""
    predecessor: str = ""
    """The host that still runs what was there before the replica moved."""
    predecessor_state: ReplicaState | None = None
    """What that host says of it."""
    predecessor_ports: tuple[AssignedPort, ...] = ()


class ServiceStatus(Struct, frozen=True, kw_only=True):
    """`wanted`, `healthy` and `unknown` count replicas; the agent that answers has no report of the `unknown` ones."""

    name: str
    wanted: int
    healthy: int
    unknown: int = 0
    replicas: tuple[ReplicaStatus, ...] = ()
    pending: str = ""
    """Why slots without a host have none ("n3: 512 MiB wanted, 300 MiB free"); empty when all have one."""


class HostCheck(Struct, frozen=True, kw_only=True):
    """What a host finds out for a rollout. `prepare`: whether it can run a service's replicas; `reach`: whether it
    reaches them.
    """

    host: str
    kind: ErrandKind
    service: str
    state: FindingState
    detail: str


class StackStatus(Struct, frozen=True, kw_only=True):
    """`checks`: how far the hosts are, while the stack is preparing or validating, or is to leave a drained host."""

    name: str
    revision: int
    phase: Phase
    reason: str = ""
    changed_by: str
    changed_at: str
    services: tuple[ServiceStatus, ...] = ()
    checks: tuple[HostCheck, ...] = ()


class Problem(Struct, frozen=True, kw_only=True):
    """Something wrong, where, and what to do about it."""

    severity: Severity
    where: str
    what: str
    fix: str


class InstanceStatus(Struct, frozen=True, kw_only=True):
    """docs/seed.md "Deployment status"."""

    host: str
    port: int | None
    status: str
    container_id: str
    last_seen: str | None


class Status(Struct, frozen=True, kw_only=True):
    """`as_of`: when the soft state in it was reported, RFC 3339. `stale`: it isn't the coordinator's own view of now.

    `health_score`: 100 × healthy / wanted over the replicas that aren't unknown, and 100 if there are none.
    """

    version: int = STATUS_VERSION
    cluster: ClusterStatus
    answered_by: AgentRef
    as_of: str
    stale: bool
    coordinator: AgentRef | None
    term: int
    quorum: QuorumStatus
    hosts: tuple[HostStatus, ...] = ()
    stacks: tuple[StackStatus, ...] = ()
    problems: tuple[Problem, ...] = ()
    instances: dict[str, InstanceStatus] = field(default_factory=dict)
    network_services: int = 0
    api_requests_total: int = 0
    health_score: float = 100.0


class MemberView(Struct, frozen=True, kw_only=True):
    """A line of `agent members`: the host, and how this agent sees it.

    `agent invite` seals for `sealing_key`; it asks that agent itself for it, whose certificate names its id.
    """

    id: AgentId
    name: str
    address: str
    api_port: int
    peer_port: int
    role: HostRole
    state: HostState
    linked: bool
    labels: Labels = {}
    sealing_key: str = ""
    agent_version: str = ""
    last_seen: str | None = None


class Health(Struct, frozen=True, kw_only=True):
    """`GET /health`: open to everybody, so it says little. `ok`: the agent serves and knows a coordinator.

    `epoch`: the cluster's, as this agent knows it; 0 from a version that doesn't tell. `expelled`: it knows that
    its host was, or hears so and knows no coordinator.
    """

    ok: bool
    name: str
    coordinator: str | None
    applied: int
    agent_version: str
    epoch: int = 0
    expelled: bool = False
