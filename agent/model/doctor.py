"""What `agent doctor` asks hosts and reports: what a host sees of itself, and what is wrong with it."""

from typing import Any, Literal

from msgspec import Struct

from agent.model.expulsion import Expulsion
from agent.model.report import RuntimeInfo
from agent.model.types import AgentId, Labels, Millis

REPORT_VERSION = 1

Protocol = Literal["tcp", "udp"]
Holder = Literal["agent", "other", "nobody"]
Connects = Literal["yes", "refused", "silent", "no-route"]
Check = Literal[
    "agent",
    "clock",
    "config",
    "disk",
    "discovery",
    "docker",
    "firewall",
    "ledger",
    "memory",
    "network",
    "ports",
    "version",
]
FindingSeverity = Literal["error", "warning", "note"]


class PortUse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A port that the agent wants and who listens on it; `holder` describes another program."""

    port: int
    protocol: Protocol
    held_by: Holder
    holder: str = ""


class WantedPort(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A port that a replica preferred but couldn't have; it got `given`. `holder`: who has the port, if known."""

    replica: str
    port: int
    given: int = 0  # an agent before this key tells none
    holder: str = ""


class DiskUse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The file system that `path` is on. Inodes are 0 where it doesn't count them."""

    path: str
    size_mib: int
    free_mib: int
    inodes: int = 0
    inodes_free: int = 0
    read_only: bool = False


class DockerUse(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The engine as it answers now; `root` is where it keeps its data."""

    answers: bool
    version: str = ""
    driver: str = ""
    root: str = ""
    reason: str = ""


class Firewall(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An active firewall that blocks some of the agents' traffic; `commands` open it. `lasting`: across reboots."""

    name: str
    commands: tuple[str, ...]
    lasting: bool = False


class Unit(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A systemd unit, in systemd's words. `restarts` since it was loaded. `said`: what it last told systemd of itself
    (sd_notify(3), STATUS).
    """

    name: str
    active: str
    enabled: str = ""
    result: str = ""
    restarts: int = 0
    said: str = ""


class PeerSight(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Another member as this host sees it. `connects`: the result of a TCP connection to its peer port.

    `heard_udp`: a datagram from it has just come to our peer port. `same_network`: its address is in one of our
    networks, so its broadcasts should arrive here.
    """

    id: AgentId
    name: str
    address: str
    peer_port: int
    connects: Connects
    linked: bool = False
    heard_udp: bool = False
    heard_beacon: bool = False
    heard_mdns: bool = False
    same_network: bool = False


class PublishedPort(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A replica's TCP port on the member `host` that couldn't be connected to, and why."""

    replica: str
    host: AgentId
    port: int
    connects: Connects


class LedgerSight(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How far this host's copy of the ledger is, and who coordinates as far as it knows."""

    term: int
    commit: int
    applied: int
    coordinator: AgentId | None = None


class Enrolled(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What the ledger says of this host, for comparison with its own configuration."""

    address: str
    api_port: int
    peer_port: int
    labels: Labels = {}


class Examination(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Everything that one host sees of itself and of the others. Nothing in it is secret.

    `running`: an agent reports this; else the command looked from outside, and what only agents know is missing.
    `wall_ms`: its clock at the end. `syncs_ms`: how long small writes took to reach the disk below the ledger. `config`
    has all keys of the configuration. `closed`: replicas' ports that it can't connect to, including its own.
    `unchecked`: what couldn't be looked at, and why. `log`: the agent's last lines, if they were asked for. `missing`:
    files without which an agent can't start. `expelled`: its host was, so it hasn't looked at others.
    """

    id: AgentId | None
    name: str
    running: bool = True
    agent_version: str = ""
    uptime_s: float = 0.0
    wall_ms: Millis = 0
    config: dict[str, Any] = {}
    enrolled: Enrolled | None = None
    addresses: tuple[str, ...] = ()
    policy_mode: int = 0
    ports: tuple[PortUse, ...] = ()
    wanted_ports: tuple[WantedPort, ...] = ()
    disks: tuple[DiskUse, ...] = ()
    syncs_ms: tuple[float, ...] = ()
    memory_mib: int = 0
    memory_free_mib: int = 0
    runtimes: tuple[RuntimeInfo, ...] = ()
    docker: DockerUse | None = None
    firewalls: tuple[Firewall, ...] = ()
    units: tuple[Unit, ...] = ()
    peers: tuple[PeerSight, ...] = ()
    closed: tuple[PublishedPort, ...] = ()
    ledger: LedgerSight | None = None
    unchecked: dict[str, str] = {}
    missing: tuple[str, ...] = ()
    log: tuple[str, ...] = ()
    expelled: Expulsion | None = None


class HostAnswer(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A line of `GET /api/v1/doctor`: what one host answered, or `what` and `fix` for why it didn't.

    `offset_ms`: its clock against that of the agent that was asked; time on the network and in queues makes it seem
    behind.
    """

    id: AgentId | None
    host: str
    examination: Examination | None = None
    offset_ms: int = 0
    what: str = ""
    fix: str = ""


class Finding(Struct, frozen=True, kw_only=True):
    """Something that is wrong, or at least unusual, and how to fix it."""

    severity: FindingSeverity
    check: Check
    where: str
    what: str
    fix: str


class DoctorReport(Struct, frozen=True, kw_only=True):
    """`agent doctor --json`. `as_of` is RFC 3339; `answered_by` is the agent that was asked, empty when none could be.

    New fields don't change `version`; a change of meaning does.
    """

    version: int = REPORT_VERSION
    as_of: str
    answered_by: str
    findings: tuple[Finding, ...] = ()
    hosts: tuple[HostAnswer, ...] = ()
