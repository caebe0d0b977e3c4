"""Between our words and Docker's: a spec as a container's configuration, an inspected container as a Workload. Pure.

The labels are the record of what runs (`muster.*`); compose's labels make `docker-compose ps` and `logs` work on it.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from pathlib import PurePath, PurePosixPath
from typing import Any

import msgspec

from agent.host.facts import replica_environment
from agent.host.policy import volume_kind
from agent.model.ledger import AssignedPort
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.types import AgentId, ClusterId, is_label
from agent.model.workload import RunState, RuntimeHealth, Workload
from agent.runtime.protocol import Counters

LOG_MAX_SIZE = "10m"  # docs/seed.md "Container management"; with LOG_MAX_FILES 30 MB for each container at most
LOG_MAX_FILES = "3"
DEFAULT_STOP_TIMEOUT_S = 10  # Docker's own, for a container that names none
MAX_REASON_CHARACTERS = 200  # of a health check's output

STACK_DIRECTORY = "com.docker.compose.project.working_dir"
OF_ANY_AGENT = {"muster.agent": ""}
"""What every agent's containers have, as the engine's filter of labels takes it: with any value."""

CONTAINER_ID = re.compile(r"[0-9a-f]{64}")

_STATES: dict[str, RunState] = {
    "created": "created",
    "running": "running",
    "paused": "running",
    "restarting": "restarting",
    "removing": "exited",
    "exited": "exited",
    "dead": "exited",
}


def owner_labels(cluster: ClusterId, agent: AgentId) -> dict[str, str]:
    """Whose something is."""
    return {"muster.cluster": cluster, "muster.agent": agent}


def is_own(labels: Mapping[str, str], owner: Mapping[str, str], stacks: PurePath) -> bool:
    """Whether a container with these labels is the agent's whose `owner_labels` and directory of stacks these are.

    Others on the engine have another directory. One that names this directory and another agent was made by this
    host under an earlier identity, and no container can be labelled anew.
    """
    key = key_of(labels)
    if key is None:
        return False
    return owner.items() <= labels.items() or labels.get(STACK_DIRECTORY) == str(stacks / key.stack)


def key_labels(key: ReplicaKey) -> dict[str, str]:
    """Which replica something is."""
    return {"muster.stack": key.stack, "muster.service": key.service, "muster.slot": str(key.slot)}


def container_labels(spec: ReplicaSpec, stack_dir: PurePosixPath) -> dict[str, str]:
    """All labels of a replica's container."""
    return {
        **owner_labels(spec.cluster, spec.agent),
        **key_labels(spec.key),
        "muster.revision": str(spec.revision),
        "muster.generation": str(spec.generation),
        "muster.spec": spec.hash,
        "muster.image": spec.image.ref if spec.image else "",
        "muster.facts": facts_hash(spec),
        "com.docker.compose.project": spec.key.stack,
        "com.docker.compose.service": spec.key.service,
        "com.docker.compose.container-number": str(spec.key.slot),
        "com.docker.compose.oneoff": "False",
        STACK_DIRECTORY: str(stack_dir),
        "com.docker.compose.project.config_files": str(stack_dir / "docker-compose.yml"),
    }


def facts_hash(spec: ReplicaSpec) -> str:
    """Identifies the facts that a container was created with: an ended one is only started again with the same."""
    return hashlib.sha256(msgspec.json.encode(sorted(spec.facts.items()))).hexdigest()[:16]


def scoped_name(stack: str, name: str) -> str:
    """A network's or named volume's name in the engine, as compose makes it: two stacks don't share by accident."""
    return f"{stack}_{name}"


def bind(source: str, container_path: str, *, read_only: bool) -> str:
    """A mount as Docker's API takes it. None of the parts may have a colon."""
    parts = (source, container_path)
    if any(":" in part for part in parts):
        raise ValueError("a colon in a mount")
    return ":".join((*parts, "ro" if read_only else "rw"))


def named_volumes(spec: ReplicaSpec) -> list[str]:
    """The engine's names of the spec's named volumes."""
    return [scoped_name(spec.key.stack, each.source) for each in spec.volumes if volume_kind(each) == "named"]


def network_names(spec: ReplicaSpec) -> list[str]:
    """The engine's names of the spec's networks; none: the engine's default bridge."""
    return [scoped_name(spec.key.stack, name) for name in spec.networks]


def port_bindings(spec: ReplicaSpec, publish_address: str) -> dict[str, list[dict[str, str]]]:
    """HostConfig.PortBindings: each port on the publish address alone."""
    bindings: dict[str, list[dict[str, str]]] = {}
    for port in spec.ports:
        binding = {"HostIp": publish_address, "HostPort": str(port.host_port)}
        bindings.setdefault(f"{port.container_port}/{port.protocol}", []).append(binding)
    return bindings


def health_check(spec: ReplicaSpec) -> dict[str, Any] | None:
    """Config.Healthcheck; durations in nanoseconds."""
    check = spec.health_check
    if check is None:
        return None
    return {
        "Test": list(check.test),
        "Interval": check.interval_ms * 1_000_000,
        "Timeout": check.timeout_ms * 1_000_000,
        "Retries": check.retries,
        "StartPeriod": check.start_period_ms * 1_000_000,
    }


def configuration(
    spec: ReplicaSpec, *, image: str, binds: list[str], publish_address: str, stack_dir: PurePosixPath
) -> dict[str, Any]:
    """The body of POST /containers/create. `image` is the id of what was found, so a moved tag changes nothing."""
    environment = replica_environment(spec.environment, spec.facts)
    host_config: dict[str, Any] = {
        "Binds": binds,
        "PortBindings": port_bindings(spec, publish_address),
        "RestartPolicy": {"Name": spec.restart_policy, "MaximumRetryCount": 0},
        "LogConfig": {"Type": "json-file", "Config": {"max-size": LOG_MAX_SIZE, "max-file": LOG_MAX_FILES}},
        "Memory": spec.resources.memory_mib * 1024 * 1024,
        "NanoCpus": spec.resources.cpu_millis * 1_000_000,
    }
    body: dict[str, Any] = {
        "Image": image,
        "Env": [f"{name}={value}" for name, value in sorted(environment.items())],
        "Labels": container_labels(spec, stack_dir),
        "ExposedPorts": {name: {} for name in host_config["PortBindings"]},
        "StopTimeout": -(-spec.stop_grace_ms // 1000),
        "HostConfig": host_config,
    }
    if spec.command:
        body["Cmd"] = list(spec.command)
    if (check := health_check(spec)) is not None:
        body["Healthcheck"] = check
    if networks := network_names(spec):
        host_config["NetworkMode"] = networks[0]
        body["NetworkingConfig"] = {"EndpointsConfig": {networks[0]: {"Aliases": [spec.key.service]}}}
    return body


def key_of(labels: Mapping[str, str]) -> ReplicaKey | None:
    """The replica that labels name; None when they don't."""
    stack, service, slot = (labels.get(f"muster.{part}", "") for part in ("stack", "service", "slot"))
    if not (is_label(stack) and is_label(service) and slot.isdecimal() and len(slot) <= 6):
        return None
    return ReplicaKey(stack=stack, service=service, slot=int(slot))


def workload_of(inspected: Mapping[str, Any]) -> Workload | None:
    """An inspected container (GET /containers/<id>/json); None when its labels aren't ours."""
    config, state = inspected["Config"], inspected["State"]
    labels: dict[str, str] = config.get("Labels") or {}
    key = key_of(labels)
    if key is None:
        return None
    run_state = _STATES.get(state["Status"], "exited")
    health = _health(state)
    ended = run_state == "exited"
    return Workload(
        id=inspected["Id"],
        key=key,
        name=inspected["Name"].removeprefix("/"),
        runtime="docker",
        revision=_number(labels, "muster.revision"),
        spec_hash=labels.get("muster.spec", ""),
        state=run_state,
        health=health,
        exit_code=state["ExitCode"] if ended else None,
        reason=_ended(state) if ended else _sick(state) if health == "unhealthy" else "",
        image_ref=labels.get("muster.image", config["Image"]),
        image_id=inspected["Image"],
        ports=_ports(inspected["HostConfig"].get("PortBindings") or {}),
        restarts=inspected.get("RestartCount", 0),
        started_at=milliseconds(state["StartedAt"]),
    )


def _number(labels: Mapping[str, str], name: str) -> int:
    text = labels.get(name, "")
    return int(text) if text.isdecimal() and len(text) <= 15 else 0


def _health(state: Mapping[str, Any]) -> RuntimeHealth:
    status = (state.get("Health") or {}).get("Status", "none")
    return status if status in ("starting", "healthy", "unhealthy") else "none"


def _ended(state: Mapping[str, Any]) -> str:
    if error := state.get("Error"):
        return str(error)[:MAX_REASON_CHARACTERS]
    suffix = " (out of memory)" if state.get("OOMKilled") else ""
    return f"ended with code {state['ExitCode']}{suffix}"


def _sick(state: Mapping[str, Any]) -> str:
    log = (state.get("Health") or {}).get("Log") or [{}]
    output = str(log[-1].get("Output", "")).strip().splitlines()
    said = f": {output[0][:MAX_REASON_CHARACTERS]}" if output else ""
    return f"its health check fails{said}"


def _ports(bindings: Mapping[str, list[dict[str, str]] | None]) -> tuple[AssignedPort, ...]:
    found = []
    for name, bound in bindings.items():
        container_port, _, protocol = name.partition("/")
        for each in bound or []:
            if each.get("HostPort", "").isdecimal() and protocol in ("tcp", "udp"):
                found.append(
                    AssignedPort(
                        container_port=int(container_port),
                        host_port=int(each["HostPort"]),
                        protocol="udp" if protocol == "udp" else "tcp",
                    )
                )
    return tuple(sorted(found, key=lambda port: (port.container_port, port.protocol, port.host_port)))


def milliseconds(text: str) -> int:
    """Docker's RFC 3339 time with nanoseconds as epoch milliseconds; 0 for its zero time."""
    if text.startswith("0001-"):
        return 0
    cut = re.sub(r"(\.\d{1,6})\d*", r"\1", text.replace("Z", "+00:00"))
    return int(datetime.fromisoformat(cut).timestamp() * 1000)


def counters_of(stats: Any, at_s: float) -> Counters | None:
    """From the engine's stats of a container; None when it doesn't run.

    Memory as `docker stats` shows it: without the part of the page cache that can be given back (`inactive_file` with
    cgroups v2).
    """
    cpu, memory = stats.get("cpu_stats") or {}, stats.get("memory_stats") or {}
    if "usage" not in memory:
        return None
    parts = memory.get("stats") or {}
    cache = parts.get("total_inactive_file", parts.get("inactive_file", 0))
    return Counters(
        at_s=at_s,
        cpu_s=cpu["cpu_usage"]["total_usage"] / 1e9,
        memory_bytes=max(memory["usage"] - cache, 0),
        memory_limit_bytes=memory.get("limit", 0),
    )
