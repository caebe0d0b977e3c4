"""A stack → the plan that describes it, in SEED's JSON: `agent.formats.resolve` backwards. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from msgspec import UNSET, Struct
from msgspec.structs import replace

from agent.formats.durations import duration_text
from agent.formats.plan import (
    Instance,
    Plan,
    PlanHealth,
    PlanHealthCheck,
    PlanHttp,
    PlanResources,
    PlanTcp,
    PlanVolume,
)
from agent.model.ledger import AssignedPort
from agent.model.stack import HealthCommand, HealthProbe, Resources, Service, Stack
from agent.model.types import Label


class Placement(Struct, frozen=True, kw_only=True):
    """Where one replica of a service is, and the host ports it was given."""

    host: str
    ports: tuple[AssignedPort, ...] = ()


def plan_of(stack: Stack, placed: Mapping[Label, Sequence[Placement]] | None = None) -> Plan:
    """The plan of a stack. With `placed` (by service, the first slot first) a single replica names the host that it is
    on, and ports are the first replica's.

    `user` and `ssh_key_path` aren't in a stack, so they aren't in the plan.
    """
    main: Instance | None = None
    workers: list[Instance] = []
    services: dict[Label, Instance] = {}
    for name, service in stack.services.items():
        instance = _instance(service)
        if placed is not None:
            instance = _placed(instance, placed.get(name, ()))
        if service.role == "main" and main is None:
            main = instance
        elif service.role == "worker":
            workers.append(instance)
        else:
            services[name] = instance
    return Plan(stack=stack.name, main=main, workers=tuple(workers), services=services)


def _placed(instance: Instance, placements: Sequence[Placement]) -> Instance:
    if not placements:
        return instance
    given = {(port.container_port, port.protocol): port.host_port for port in placements[0].ports}
    ports = tuple(
        replace(port, host_port=given.get((port.container_port, port.protocol), port.host_port))
        for port in instance.ports
    )
    alone = instance.replicas == 1 and len(placements) == 1
    return replace(instance, ports=ports, host=placements[0].host if alone else instance.host)


def _instance(service: Service) -> Instance:
    image: Any = service.image
    if service.image is not None and service.image.digest is None:
        image = service.image.ref
    return Instance(
        host=service.host,
        docker_image=image,
        container_name=service.container_name,
        ports=service.ports,
        environment=service.environment,
        volumes=tuple(
            PlanVolume(host_path=each.source, container_path=each.container_path, read_only=each.read_only)
            for each in service.volumes
        ),
        networks=service.networks,
        restart_policy=service.restart_policy,
        health_check=_health_check(service.health_check),
        replicas=service.replicas,
        labels=service.labels,
        command=service.command,
        runtime=service.runtime,
        resources=_resources(service.resources),
        health=_health(service.health),
        stop_grace=duration_text(service.stop_grace_ms),
        move_order="start-first" if service.move_order is UNSET else service.move_order,
    )


def _health_check(check: HealthCommand | None) -> PlanHealthCheck | None:
    if check is None:
        return None
    return PlanHealthCheck(
        test=check.test,
        interval=duration_text(check.interval_ms),
        timeout=duration_text(check.timeout_ms),
        retries=check.retries,
        start_period=duration_text(check.start_period_ms),
    )


def _health(probe: HealthProbe | None) -> PlanHealth | None:
    if probe is None:
        return None
    http = PlanHttp(port=probe.container_port, path=probe.path, scheme=probe.scheme) if probe.kind == "http" else None
    return PlanHealth(
        http=http,
        tcp=PlanTcp(port=probe.container_port) if probe.kind == "tcp" else None,
        interval=duration_text(probe.interval_ms),
        timeout=duration_text(probe.timeout_ms),
        retries=probe.retries,
    )


def _resources(resources: Resources) -> PlanResources | None:
    if resources == Resources():
        return None
    return PlanResources(
        memory=f"{resources.memory_mib}m" if resources.memory_mib else None,
        cpus=resources.cpu_millis / 1000 if resources.cpu_millis else None,
    )
