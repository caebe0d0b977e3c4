"""The docker-compose.yml of a stack's share of one host (docs/seed.md "Generated docker-compose.yml"). Pure.

It is a view, for `docker-compose ps` and `logs`: the agent makes the containers itself, with compose's labels. It shows
the plan's environment; what the agent adds (`MUSTER_HOST`, `MAIN_HOST`, …) differs by replica and isn't in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from agent.formats.durations import duration_text
from agent.model.spec import ReplicaSpec
from agent.model.stack import HealthCommand, Resources
from agent.model.types import Label

COMPOSE_VERSION = "3.8"  # SEED's; docker-compose 1.25.5 and later read it, and compose v2 ignores the number
GRACE_MS = 10_000  # Docker's and compose's own, so it isn't written

_HEADER = "# Written by Muster: what this host runs of the stack. Change the plan and deploy it, not this.\n"
_ANYWHERE = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, nothing listens here


class _Quoted(str):
    """Always in double quotes, so that no reader takes a port mapping for a number in base 60 (YAML 1.1)."""


class _Inline(list[str]):
    """In one line, as SEED writes a check's command."""


class _Dumper(yaml.SafeDumper):
    """SEED's looks: lists are indented below their key, null is empty."""

    def increase_indent(self, flow: bool = False, indentless: bool = False) -> None:
        super().increase_indent(flow, False)

    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(_Quoted, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"'))
_Dumper.add_representer(
    _Inline,
    lambda dumper, items: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", [_Quoted(item) for item in items], flow_style=True
    ),
)


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    """YAML 1.1 takes NEL, LS and PS for line breaks and folds them away unless they are escaped (§5.4)."""
    breaks = any(character in text for character in "\x85\u2028\u2029")
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style='"' if breaks else None)


_Dumper.add_representer(str, _text)
_Dumper.add_representer(type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", ""))


def compose_files(specs: Iterable[ReplicaSpec], *, publish_address: str) -> dict[Label, str]:
    """By stack, the file's text for the replicas that run as containers; a stack of plain processes has none."""
    by_stack: dict[Label, list[ReplicaSpec]] = defaultdict(list)
    for spec in specs:
        if spec.runtime == "docker" and spec.image is not None:
            by_stack[spec.key.stack].append(spec)
    return {name: compose_file(found, publish_address=publish_address) for name, found in sorted(by_stack.items())}


def compose_file(specs: Iterable[ReplicaSpec], *, publish_address: str) -> str:
    """The file of one stack's containers on one host. A service's replicas here share an entry, with all ports."""
    by_service: dict[Label, list[ReplicaSpec]] = defaultdict(list)
    for spec in sorted(specs, key=lambda spec: spec.key):
        by_service[spec.key.service].append(spec)
    document: dict[str, Any] = {
        "version": COMPOSE_VERSION,
        "services": {name: _service(found, publish_address) for name, found in by_service.items()},
    }
    everything = [spec for found in by_service.values() for spec in found]
    if networks := sorted({name for spec in everything for name in spec.networks}):
        document["networks"] = {name: {"driver": "bridge"} for name in networks}
    if volumes := sorted({each.source for spec in everything for each in spec.volumes if _is_name(each.source)}):
        document["volumes"] = dict.fromkeys(volumes)
    parts = [_dumped({name: value}) for name, value in document.items()]
    return _HEADER + parts[0] + "\n".join(parts[1:])


def _service(specs: list[ReplicaSpec], publish_address: str) -> dict[str, Any]:
    spec = specs[0]
    assert spec.image is not None
    entry: dict[str, Any] = {"image": _literal(spec.image.ref)}
    if len(specs) == 1:
        entry["container_name"] = spec.container_name
    if spec.command:
        entry["command"] = _Inline(_literal(argument) for argument in spec.command)
    if ports := [_port(publish_address, port) for each in specs for port in each.ports]:
        entry["ports"] = ports
    if spec.environment:
        entry["environment"] = [f"{name}={_literal(value)}" for name, value in spec.environment.items()]
    if spec.volumes:
        entry["volumes"] = [
            _literal(f"{each.source}:{each.container_path}{':ro' if each.read_only else ''}") for each in spec.volumes
        ]
    if spec.networks:
        entry["networks"] = list(spec.networks)
    else:
        entry["network_mode"] = "bridge"  # else compose would have a network of its own here
    entry["restart"] = _Quoted("no") if spec.restart_policy == "no" else spec.restart_policy
    if spec.stop_grace_ms != GRACE_MS:
        entry["stop_grace_period"] = duration_text(spec.stop_grace_ms)
    if spec.health_check is not None:
        entry["healthcheck"] = _health_check(spec.health_check)
    if deploy := _deploy(spec.resources, len(specs)):
        entry["deploy"] = deploy
    return entry


def _port(publish_address: str, port: Any) -> _Quoted:
    host = f"[{publish_address}]" if ":" in publish_address else publish_address
    published = f"{port.host_port}" if publish_address in _ANYWHERE else f"{host}:{port.host_port}"
    suffix = "" if port.protocol == "tcp" else f"/{port.protocol}"
    return _Quoted(f"{published}:{port.container_port}{suffix}")


def _health_check(check: HealthCommand) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "test": _Inline(_literal(argument) for argument in check.test),
        "interval": duration_text(check.interval_ms),
        "timeout": duration_text(check.timeout_ms),
        "retries": check.retries,
    }
    if check.start_period_ms:
        entry["start_period"] = duration_text(check.start_period_ms)
    return entry


def _deploy(resources: Resources, replicas: int) -> dict[str, Any]:
    limits: dict[str, str] = {}
    if resources.cpu_millis:
        limits["cpus"] = f"{resources.cpu_millis / 1000:g}"
    if resources.memory_mib:
        limits["memory"] = f"{resources.memory_mib}M"
    entry: dict[str, Any] = {"replicas": replicas} if replicas > 1 else {}
    return entry | ({"resources": {"limits": limits}} if limits else {})


def _literal(text: str) -> str:
    """Compose replaces `$NAME` from its own environment; `$$` is a dollar sign."""
    return text.replace("$", "$$")


def _is_name(source: str) -> bool:
    """Whether a volume's source is a named volume, not a path."""
    return "/" not in source and not source.startswith(".")


def _dumped(document: Mapping[str, Any]) -> str:
    return yaml.dump(
        dict(document), Dumper=_Dumper, sort_keys=False, default_flow_style=False, allow_unicode=True, width=10_000
    )
