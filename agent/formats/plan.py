"""The deployment plan (docs/seed.md "Deployment plan format") as it is written; `agent.formats.resolve` makes a stack
of it."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Struct, UnsetType

from agent.errors import InputError
from agent.model.decode import decode_json
from agent.model.stack import (
    MAX_COMMAND,
    MAX_ENVIRONMENT,
    MAX_PORTS,
    MAX_REPLICAS,
    MAX_SERVICES,
    MAX_VOLUMES,
    EnvironmentName,
    EnvironmentValue,
    Image,
    PortSpec,
    RestartPolicy,
    Role,
    RuntimeName,
    Text,
)
from agent.model.types import ContainerName, HostAddress, Label, Labels, Port

MAX_PLAN_BYTES = 1_048_576  # the body that is made of it has the same bound

DurationText = Annotated[str, Meta(max_length=32)]
Retries = Annotated[int, Meta(ge=1, le=100)]


class PlanVolume(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`host_path`: `./certs` (in the stack's own directory), `/srv/certs` (policy permitting) or `name` (a volume)."""

    host_path: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=1024,
            pattern=r"\A[^\x00-\x1f:]*\Z",
            description="a path without colons, or a volume's name",
        ),
    ]
    container_path: Annotated[
        str, Meta(max_length=1024, pattern=r"\A/[^\x00-\x1f:]*\Z", description="an absolute path without colons")
    ]
    read_only: bool = False


class PlanHealthCheck(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Run by Docker in the container; durations as "30s"."""

    test: Annotated[tuple[Text, ...], Meta(min_length=1, max_length=MAX_COMMAND)]
    interval: DurationText = "30s"
    timeout: DurationText = "30s"
    retries: Retries = 3
    start_period: DurationText = "0s"


class PlanHttp(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """GET `path` on a container port."""

    port: Port
    path: Annotated[str, Meta(max_length=1024, pattern=r"\A/[!-~]*\Z", description="a path from /")] = "/"
    scheme: Literal["http", "https"] = "http"


class PlanTcp(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A connection to a container port."""

    port: Port


class PlanHealth(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A check by the agent from its host: exactly one of `http` and `tcp`."""

    http: PlanHttp | None = None
    tcp: PlanTcp | None = None
    interval: DurationText = "2s"
    timeout: DurationText = "2s"
    retries: Retries = 3


class PlanResources(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`memory` as "512m" or "2g", `cpus` as 0.5; both are limits and what the scheduler reserves."""

    memory: Annotated[str, Meta(max_length=32)] | None = None
    cpus: Annotated[float, Meta(ge=0.001, le=1024)] | None = None


class Instance(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """SEED's object for main and each worker, and optional keys of our own. Without `host` the scheduler chooses."""

    host: HostAddress | None = None
    user: (
        Annotated[str, Meta(max_length=64, pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", description="a user's name")]
        | None
    ) = None
    ssh_key_path: Annotated[str, Meta(min_length=1, max_length=1024, pattern=r"\A[^\x00-\x1f]*\Z")] | None = None
    docker_image: str | Image | None = None
    container_name: ContainerName | None = None
    ports: Annotated[tuple[PortSpec, ...], Meta(max_length=MAX_PORTS)] = ()
    environment: Annotated[dict[EnvironmentName, EnvironmentValue], Meta(max_length=MAX_ENVIRONMENT)] = {}
    volumes: Annotated[tuple[PlanVolume, ...], Meta(max_length=MAX_VOLUMES)] = ()
    networks: Annotated[tuple[Label, ...], Meta(max_length=16)] = ()
    restart_policy: RestartPolicy = "unless-stopped"
    health_check: PlanHealthCheck | None = None
    replicas: Annotated[int, Meta(ge=0, le=MAX_REPLICAS)] | Literal["global"] = 1
    labels: Labels = {}
    command: Annotated[tuple[Text, ...], Meta(max_length=MAX_COMMAND)] = ()
    runtime: RuntimeName = "docker"
    resources: PlanResources | None = None
    health: PlanHealth | None = None
    stop_grace: DurationText = "10s"
    move_order: Literal["start-first", "stop-first"] = "start-first"
    reschedule_after: Any | UnsetType = UNSET
    singleton: Any | UnsetType = UNSET
    secrets: Any | UnsetType = UNSET


class Plan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`main` and `workers` as SEED has them; `services` are further ones by name, healthy before main starts."""

    stack: Label | None = None
    main: Instance | None = None
    workers: Annotated[tuple[Instance, ...], Meta(max_length=MAX_SERVICES)] = ()
    services: Annotated[dict[Label, Instance], Meta(max_length=MAX_SERVICES)] = {}


class Placed(Struct, frozen=True, kw_only=True):
    """An instance with its place in the plan (`$.workers[0]`), its role, and its default name."""

    where: str
    role: Role
    name: Label
    instance: Instance


_UNSUPPORTED = ("reschedule_after", "singleton", "secrets")


def decode_plan(data: bytes, *, where: str = "$") -> Plan:
    """The plan in `data`. Raises InputError naming the place, TooLarge over MAX_PLAN_BYTES.

    Keys that this version doesn't support are refused: a plan never does less than it says.
    """
    plan = decode_json(data, Plan, where=where, max_bytes=MAX_PLAN_BYTES)
    if plan.main is None and not plan.services:
        raise InputError("missing field `main`", where=where, fix="A plan without main has at least `services`.")
    for placed in instances(plan, where=where):
        for name in _UNSUPPORTED:
            if getattr(placed.instance, name) is not UNSET:
                what = f"`{name}` is not supported by this version"
                raise InputError(what, where=f"{placed.where}.{name}", fix=f"Leave `{name}` out.")
    return plan


def instances(plan: Plan, *, where: str = "$") -> tuple[Placed, ...]:
    """All instances in the order of the rollout: services, main, workers."""
    services = [
        Placed(where=f"{where}.services.{name}", role="service", name=name, instance=instance)
        for name, instance in plan.services.items()
    ]
    main = [Placed(where=f"{where}.main", role="main", name="main", instance=plan.main)] if plan.main else []
    workers = [
        Placed(where=f"{where}.workers[{index}]", role="worker", name=f"worker-{index + 1}", instance=instance)
        for index, instance in enumerate(plan.workers)
    ]
    return (*services, *main, *workers)
