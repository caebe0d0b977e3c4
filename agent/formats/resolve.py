"""Resolves a plan to a stack: names, pins, durations and sizes; what must not enter the ledger is left out."""

from __future__ import annotations

import re
import shlex
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from agent.errors import InputError
from agent.formats.durations import parse_duration_ms, parse_memory_mib
from agent.formats.plan import Instance, Placed, Plan, PlanHealth, PlanHealthCheck, PlanVolume, instances
from agent.model.decode import convert
from agent.model.explain import shown
from agent.model.stack import HealthCommand, HealthProbe, Image, Resources, Role, Service, Stack, Volume
from agent.model.types import Label, is_label

Pin = Callable[[str], Label | None]
"""The name of the member that a plan's `host` means, None for no member."""

MAX_DURATION_MS = 86_400_000  # as `agent.model.stack.DurationMs`
_VOLUME_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}")  # Docker's own rule
_NO_LABEL = re.compile(r"[^a-z0-9]+")


def resolve(plan: Plan, *, stack_name: str, pin: Pin, where: str = "$") -> Stack:
    """The stack that a plan describes: the body to sign. It doesn't include how hosts are reached by SSH.

    `stack_name` is for a plan that names none (`stack_name_of` its file's name). Raises InputError naming the place in
    the plan.
    """
    name = plan.stack or stack_name
    if not is_label(name):
        raise InputError(f"{shown(name)} is no stack name: 1 to 63 of a-z 0-9 -", where=f"{where}.stack")
    services: dict[Label, Service] = {}
    for placed, service_name in _named(plan, where):
        services[service_name] = _service(placed.instance, placed.role, pin, placed.where)
        _check_container_name(services, service_name, placed.where)
    return convert({"name": name, "services": services}, Stack, where)


def stack_name_of(file_name: str) -> Label:
    """A stack's name from a plan's file name: "My Plan.json" is "my-plan"; "stack" when nothing is left of it."""
    stem = file_name.replace("\\", "/").rpartition("/")[2].lower().removesuffix(".json")
    return _NO_LABEL.sub("-", stem)[:63].strip("-") or "stack"


def pin_among(members: Mapping[Label, str]) -> Pin:
    """Pins by the members' names → addresses: a name, an address, or a FQDN whose first label is a name."""
    by_address = {address.lower(): name for name, address in members.items()}

    def pin(host: str) -> Label | None:
        wanted = host.lower().rstrip(".")
        if wanted in members:
            return wanted
        if wanted in by_address:
            return by_address[wanted]
        first, _, rest = wanted.partition(".")
        # "10.0.0.5" isn't a FQDN with the first label "10".
        return first if rest and first in members and not wanted.replace(".", "").isdigit() else None

    return pin


def _named(plan: Plan, where: str) -> Iterator[tuple[Placed, Label]]:
    """Every instance with its service's name: its container's name if that is a label. Raises InputError when a name
    comes twice.
    """
    every = instances(plan, where=where)
    container_names = Counter(placed.instance.container_name for placed in every if placed.role != "service")
    taken: set[Label] = set()
    for placed in every:
        name = placed.name
        wanted = placed.instance.container_name
        # SEED's hosts may all have a container of one name; their services still need names of their own.
        if placed.role != "service" and wanted is not None and container_names[wanted] == 1 and is_label(wanted):
            name = wanted
        if name in taken:
            raise InputError(
                f"the service name `{name}` is taken", where=placed.where, fix="Give it its own `container_name`."
            )
        taken.add(name)
        yield placed, name


def _check_container_name(services: Mapping[Label, Service], name: Label, where: str) -> None:
    """Two services share a container name only where they can't meet: pinned to different hosts."""
    service = services[name]
    for other_name, other in services.items():
        if other_name == name or service.container_name is None or other.container_name != service.container_name:
            continue
        if service.host is None or other.host is None or service.host == other.host:
            raise InputError(
                f"the service {other_name} has it too, and can be on the same host", where=f"{where}.container_name"
            )


def _service(instance: Instance, role: Role, pin: Pin, where: str) -> Service:
    _check_ports(instance, where)
    if instance.runtime == "process":
        _check_process(instance, where)
    fields: dict[str, Any] = {
        "runtime": instance.runtime,
        "role": role,
        "image": _image(instance, where),
        "command": instance.command,
        "container_name": instance.container_name,
        "replicas": instance.replicas,
        "host": _pinned(instance, pin, where),
        "labels": instance.labels,
        "environment": instance.environment,
        "ports": instance.ports,
        "volumes": tuple(_volume(v, f"{where}.volumes[{n}]") for n, v in enumerate(instance.volumes)),
        "networks": instance.networks,
        "restart_policy": instance.restart_policy,
        "health_check": _health_check(instance.health_check, f"{where}.health_check"),
        "health": _health(instance, f"{where}.health"),
        "resources": _resources(instance, f"{where}.resources"),
        "stop_grace_ms": _duration(instance, "stop_grace", where),
    }
    if instance.move_order != "start-first":
        fields["move_order"] = instance.move_order
    return convert(fields, Service, where)


def _check_ports(instance: Instance, where: str) -> None:
    """One container port has one host port (MUSTER_PORT_<container port> names it), and checks go through it."""
    seen: set[tuple[int, str]] = set()
    for index, port in enumerate(instance.ports):
        if (port.container_port, port.protocol) in seen:
            place = f"{where}.ports[{index}].container_port"
            raise InputError(f"{port.container_port}/{port.protocol} stands twice", where=place)
        if port.protocol == "udp" and port.validation != "all":
            fix = "Leave `validation` out."
            raise InputError("UDP ports aren't asked by anybody", where=f"{where}.ports[{index}].validation", fix=fix)
        seen.add((port.container_port, port.protocol))
    if instance.health is not None:
        for kind, probe in (("http", instance.health.http), ("tcp", instance.health.tcp)):
            if probe is not None and (probe.port, "tcp") not in seen:
                place = f"{where}.health.{kind}.port"
                raise InputError(f"{probe.port} is none of the container ports in `ports`", where=place)


def _check_process(instance: Instance, where: str) -> None:
    """What only a container has is refused, not dropped."""
    for name in ("docker_image", "volumes", "networks", "health_check"):
        if getattr(instance, name):
            raise InputError('only for a container; this is `"runtime": "process"`', where=f"{where}.{name}")
    if not instance.command:
        raise InputError("missing field `command`", where=where)


def _image(instance: Instance, where: str) -> Image | None:
    if instance.runtime == "process":
        return None
    if instance.docker_image is None:
        raise InputError("missing field `docker_image`", where=where)
    if isinstance(instance.docker_image, Image):
        return instance.docker_image
    place = f"{where}.docker_image"
    try:
        return convert({"ref": instance.docker_image}, Image, place)
    except InputError as error:
        raise InputError(error.what, where=place) from None


def _pinned(instance: Instance, pin: Pin, where: str) -> Label | None:
    if instance.host is None:
        return None
    if instance.replicas == "global":
        raise InputError("`global` means every host, so it can't be pinned", where=f"{where}.host")
    name = pin(instance.host)
    if name is None:
        raise InputError(
            f"{instance.host} is no member of the cluster",
            where=f"{where}.host",
            fix=f"`agent members` lists them. To enrol it: {_enrol(instance)}",
        )
    return name


def _enrol(instance: Instance) -> str:
    """The command line that makes the instance's host a member (the inventory's own keys)."""
    user = f"{instance.user}@" if instance.user else ""
    key = f" key={instance.ssh_key_path}" if instance.ssh_key_path else ""
    return f"{shlex.join(['echo', f'{user}{instance.host}{key}'])} >> hosts.txt && bootstrap install hosts.txt"


def _volume(volume: PlanVolume, where: str) -> Volume:
    path = volume.host_path
    if ".." in path.split("/"):
        raise InputError("`..` may not be in a path", where=f"{where}.host_path")
    if not path.startswith(("/", "./")) and path != "." and _VOLUME_NAME.fullmatch(path) is None:
        raise InputError(
            "neither a path nor a volume's name",
            where=f"{where}.host_path",
            fix=f"Write ./{path} for a path inside the stack's directory." if not path.startswith("~") else "",
        )
    fields = {"source": path, "container_path": volume.container_path, "read_only": volume.read_only}
    return convert(fields, Volume, where)


def _health_check(check: PlanHealthCheck | None, where: str) -> HealthCommand | None:
    if check is None:
        return None
    if check.test[0] not in ("CMD", "CMD-SHELL", "NONE"):
        raise InputError('expected "CMD", "CMD-SHELL" or "NONE" first', where=f"{where}.test")
    if len(check.test) == 1 and check.test[0] != "NONE":
        raise InputError(f"{check.test[0]} without a command", where=f"{where}.test")
    fields = {
        "test": check.test,
        "interval_ms": _duration(check, "interval", where),
        "timeout_ms": _duration(check, "timeout", where),
        "retries": check.retries,
        "start_period_ms": _duration(check, "start_period", where, least=0),
    }
    return convert(fields, HealthCommand, where)


def _health(instance: Instance, where: str) -> HealthProbe | None:
    health = instance.health
    if health is None:
        return None
    if (health.http is None) == (health.tcp is None):
        raise InputError("expected exactly one of `http` and `tcp`", where=where)
    fields: dict[str, Any] = {
        "interval_ms": _duration(health, "interval", where),
        "timeout_ms": _duration(health, "timeout", where),
        "retries": health.retries,
    }
    if health.http is not None:
        http = health.http
        fields |= {"kind": "http", "container_port": http.port, "path": http.path, "scheme": http.scheme}
    elif health.tcp is not None:
        fields |= {"kind": "tcp", "container_port": health.tcp.port}
    return convert(fields, HealthProbe, where)


def _duration(owner: PlanHealth | PlanHealthCheck | Instance, name: str, where: str, *, least: int = 1) -> int:
    place = f"{where}.{name}"
    ms = parse_duration_ms(getattr(owner, name), where=place)
    if not least <= ms <= MAX_DURATION_MS:
        raise InputError(f"expected {least}ms to 24h, got {getattr(owner, name)}", where=place)
    return ms


def _resources(instance: Instance, where: str) -> Resources:
    resources = instance.resources
    if resources is None:
        return Resources()
    memory = parse_memory_mib(resources.memory, where=f"{where}.memory") if resources.memory is not None else 0
    cpus = round(resources.cpus * 1000) if resources.cpus is not None else 0
    return convert({"memory_mib": memory, "cpu_millis": cpus}, Resources, where)
