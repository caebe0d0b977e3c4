"""A stack: the signed body of a `deploy` instruction, resolved from a plan (docs/seed.md "Deployment plan format").

What the ledger keeps of a plan. `user` and `ssh_key_path` never come here.
"""

from typing import Annotated, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from agent.model.types import ContainerName, Digest, Label, LabelKey, Labels, LabelValue, Port

MAX_SERVICES = 200  # a plan of 200 workers is SEED's format at the largest cluster that one operator still reads
MAX_REPLICAS = 10_000  # the frozen state's digest stays in single milliseconds up to here
MAX_PORTS = 64  # per service; more is a host-network workload
MAX_VOLUMES = 64  # per service
MAX_ENVIRONMENT = 256  # variables per service; a larger set belongs in a file
MAX_COMMAND = 256  # arguments
MAX_FILES = 1000  # with their digests they take a quarter of the body's bound
MAX_FILES_BYTES = 67_108_864  # of one stack: configuration and certificates; data belongs in volumes or images

Text = Annotated[str, Meta(max_length=4096, pattern=r"\A[^\x00]*\Z", description="text without NUL")]
EnvironmentName = Annotated[
    str, Meta(pattern=r"\A[A-Za-z_][A-Za-z0-9_]{0,255}\Z", description="a variable's name: A-Z a-z 0-9 _")
]
EnvironmentValue = Annotated[
    str, Meta(max_length=32768, pattern=r"\A[^\x00\n\r]*\Z", description="text without NUL and line breaks")
]
"""Docker keeps a line break in a value, and its env files split there: refused."""
_PART = r"(?!\.\.?(?:/|\Z))[^\x00-\x1f\x7f/:\\]{1,255}"
FilePath = Annotated[
    str,
    Meta(max_length=1024, pattern=rf"\A{_PART}(?:/{_PART})*\Z", description="a relative path without . and .."),
]
"""Of a file in the stack's directory, in its one spelling."""
DurationMs = Annotated[int, Meta(ge=1, le=86_400_000)]
Role = Literal["service", "main", "worker"]
"""Where a service stands in the rollout's order: services, then main, then workers (ARCHITECTURE.md "The way of an
instruction")."""
Validation = Literal["all", "host", "none"]
RuntimeName = Literal["docker", "process"]
RestartPolicy = Literal["no", "on-failure", "always", "unless-stopped"]


class Image(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`ref` as Docker takes it (`name[:tag]`), pinned by the config `digest` when given."""

    ref: Annotated[
        str,
        Meta(min_length=1, max_length=512, pattern=r"\A[A-Za-z0-9][A-Za-z0-9._:/@-]*\Z", description="name[:tag]"),
    ]
    digest: Annotated[str, Meta(pattern=r"\Asha256:[0-9a-f]{64}\Z")] | None = None


class PortSpec(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`host_port` is the preferred one; the host takes the first free of preferred … preferred + 99.

    `validation`: who asks a TCP port before a rollout is healthy: `all` hosts, only the `host` it is on (a firewall
    closes it to others on purpose), or `none`.
    """

    host_port: Port
    container_port: Port
    protocol: Literal["tcp", "udp"] = "tcp"
    validation: Validation = "all"


class Volume(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`source`: a named volume, a path relative to the stack's directory (`./certs`), or an absolute host path."""

    source: Annotated[str, Meta(min_length=1, max_length=1024, pattern=r"\A[^\x00-\x1f:]*\Z")]
    container_path: Annotated[
        str, Meta(max_length=1024, pattern=r"\A/[^\x00-\x1f:]*\Z", description="an absolute path without colons")
    ]
    read_only: bool = False


class HealthCommand(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """SEED's `health_check`, run by Docker inside the container. `test` begins with CMD, CMD-SHELL or NONE."""

    test: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=MAX_COMMAND)]
    interval_ms: DurationMs = 30_000
    timeout_ms: DurationMs = 30_000
    retries: Annotated[int, Meta(ge=1, le=100)] = 3
    start_period_ms: Annotated[int, Meta(ge=0, le=86_400_000)] = 0


class HealthProbe(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A check that the agent makes from its host: an HTTP GET answered 200 … 399, or a TCP connect."""

    kind: Literal["http", "tcp"]
    container_port: Port
    path: Annotated[str, Meta(max_length=1024, pattern=r"\A/[!-~]*\Z")] = "/"
    scheme: Literal["http", "https"] = "http"
    interval_ms: DurationMs = 2_000
    timeout_ms: DurationMs = 2_000
    retries: Annotated[int, Meta(ge=1, le=100)] = 3


class Resources(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Limits, which are also what the scheduler reserves. 0: no limit, nothing reserved."""

    memory_mib: Annotated[int, Meta(ge=0, le=16_777_216)] = 0
    cpu_millis: Annotated[int, Meta(ge=0, le=1_024_000)] = 0


class Service(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A workload with replicas. `replicas` slots, or `global`: one on every host that fits.

    `host` pins (a member's name); `labels` are constraints that a host's labels must have. A single replica without
    pin keeps `container_name` as it is; further slots get `-2`, `-3`, … behind it. `move_order`: a replica that moves
    to another host ends before its successor starts; unset: afterwards (never written out: see `Stack.level`).
    """

    runtime: RuntimeName = "docker"
    role: Role = "service"
    image: Image | None = None
    command: Annotated[tuple[Text, ...], Meta(max_length=MAX_COMMAND)] = ()
    container_name: ContainerName | None = None
    replicas: Annotated[int, Meta(ge=0, le=MAX_REPLICAS)] | Literal["global"] = 1
    host: Label | None = None
    labels: Labels = {}
    environment: Annotated[dict[EnvironmentName, EnvironmentValue], Meta(max_length=MAX_ENVIRONMENT)] = {}
    ports: Annotated[tuple[PortSpec, ...], Meta(max_length=MAX_PORTS)] = ()
    volumes: Annotated[tuple[Volume, ...], Meta(max_length=MAX_VOLUMES)] = ()
    networks: Annotated[tuple[Label, ...], Meta(max_length=16)] = ()
    restart_policy: RestartPolicy = "unless-stopped"
    health_check: HealthCommand | None = None
    health: HealthProbe | None = None
    resources: Resources = Resources()
    stop_grace_ms: DurationMs = 10_000
    move_order: Literal["stop-first"] | UnsetType = UNSET


class StackFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A file that the plan brings along, by its content's sha256; the content itself never enters the ledger."""

    digest: Digest
    size: Annotated[int, Meta(ge=0, le=MAX_FILES_BYTES)]
    mode: Annotated[int, Meta(ge=0, le=0o777)] = 0o644


class Stack(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A named set of services deployed together: the body of `deploy` on `stack:<name>`.

    `files` lie in the stack's directory before a replica that mounts them starts.
    """

    version: Literal[1] = 1
    name: Label
    services: Annotated[dict[Label, Service], Meta(min_length=1, max_length=MAX_SERVICES)]
    files: Annotated[dict[FilePath, StackFile], Meta(max_length=MAX_FILES)] = {}

    @property
    def level(self) -> int:
        """Of the ledger, from which on every member can read it. Who doesn't know a field refuses the whole body."""
        return 2 if any(service.move_order is not UNSET for service in self.services.values()) else 1

    def __post_init__(self) -> None:
        total = sum(file.size for file in self.files.values())
        if total > MAX_FILES_BYTES:
            raise ValueError(f"its files have {total} bytes; at most {MAX_FILES_BYTES} go along")
        for path in self.files:
            parent = path.rpartition("/")[0]
            while parent:
                if parent in self.files:
                    raise ValueError(f"the file {parent!r} is a directory of {path!r}")
                parent = parent.rpartition("/")[0]


class InstructionRef(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which signed instruction says so: the target's revision and the body's digest."""

    revision: int
    digest: Digest


__all__ = [
    "HealthCommand",
    "HealthProbe",
    "Image",
    "InstructionRef",
    "LabelKey",
    "LabelValue",
    "PortSpec",
    "Resources",
    "RestartPolicy",
    "Role",
    "RuntimeName",
    "Service",
    "Stack",
    "StackFile",
    "Volume",
]
