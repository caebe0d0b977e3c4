"""Looks at this host from outside, for `agent doctor` when no agent answers on it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agent.config import DEFAULT_FILE, ENVIRONMENT, Config, read_config
from agent.doctor.host import CONFIGURATION
from agent.errors import MusterError
from agent.model.doctor import Examination, HostAnswer, Protocol

T = TypeVar("T")

ENVIRONMENT_FILE = "/etc/muster/agent.env"
UNIT = "muster-agent"
IDENTITY_FILES = ("tls.pem", "signing.pem", "sealing.pem", "certificate.pem", "grant.json")
MAX_ENVIRONMENT_BYTES = 65_536  # a handful of lines


def is_host() -> bool:
    """Whether bootstrap has installed an agent on this machine, or begun to."""
    return any(Path(path).exists() for path in (DEFAULT_FILE, f"/etc/systemd/system/{UNIT}.service"))


def last_status() -> tuple[str, str]:
    """How this host's agent is, in systemd's word, and what it last told systemd; one that serves has said nothing."""
    from agent.runtime.look import last_status

    return last_status(UNIT) if is_host() else ("", "")


def look_here() -> HostAnswer:
    """What can be seen of a host whose agent doesn't run: its unit, its last log lines, files, ports, disks."""
    from agent.runtime import holders, look

    name, unchecked = socket.gethostname().partition(".")[0], dict[str, str]()
    try:
        config = read_config(None, _unit_environment())
    except MusterError as error:
        config = Config()
        unchecked[CONFIGURATION] = f"{error.where}: {error.what}" if error.where else error.what

    def part(what: str, work: Callable[..., T], *arguments: Any, default: T, **options: Any) -> T:
        try:
            return work(*arguments, **options)
        except PermissionError:
            unchecked[what] = "not allowed; look as root: `sudo agent doctor`"
        except OSError as error:
            unchecked[what] = (error.strerror or "input/output error").lower()
        return default

    ports: tuple[tuple[int, Protocol], ...] = (
        (config.api_port, "tcp"),
        (config.peer_port, "tcp"),
        (config.peer_port, "udp"),
    )
    memory = part("memory", look.memory_mib, default=(0, 0))
    found = Examination(
        id=None,
        name=name,
        running=False,
        wall_ms=time.time_ns() // 1_000_000,
        config=msgspec.to_builtins(config),
        ports=part("ports", holders.port_uses, ports, agent=None, address=config.listen, default=()),
        disks=part("disks", look.disks, (config.data_dir, config.log_dir, "/var/lib/docker", "/"), default=()),
        syncs_ms=part("writes", look.syncs_ms, Path(config.data_dir), default=()),
        memory_mib=memory[0],
        memory_free_mib=memory[1],
        docker=part("docker", look.docker, default=None) if "docker" in config.runtimes else None,
        firewalls=part("firewalls", look.closed_firewalls, ports, default=()),
        units=part("units", look.units, (UNIT, "docker"), default=()),
        missing=part("identity", _missing, Path(config.data_dir), default=()),
        log=part("journal", look.last_words, UNIT, default=()),
        unchecked=unchecked,
    )
    return HostAnswer(id=None, host=name, examination=found)


def _missing(data_dir: Path) -> tuple[str, ...]:
    """The identity's files that aren't there. Raises PermissionError when only root may know."""
    directory = data_dir / "identity"
    if not directory.exists():
        os.stat(data_dir)  # tells whether we may look at all
        return (str(directory),)
    there = set(os.listdir(directory))
    return tuple(str(directory / name) for name in IDENTITY_FILES if name not in there)


def _unit_environment() -> dict[str, str]:
    """The agent's variables from the unit's EnvironmentFile (systemd.exec(5)); other lines are ignored."""
    try:
        with Path(ENVIRONMENT_FILE).open(encoding="utf-8", errors="replace") as file:
            text = file.read(MAX_ENVIRONMENT_BYTES)
    except OSError:
        return {}
    pairs = (line.strip().partition("=") for line in text.splitlines() if not line.lstrip().startswith(("#", ";")))
    known = set(ENVIRONMENT.values())
    return {
        name.strip(): value.strip().strip("\"'") for name, equals, value in pairs if equals and name.strip() in known
    }
