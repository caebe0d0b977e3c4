"""Looks at the host itself, for `agent doctor`: disks, memory, firewalls, Docker, units. Shell; call it in threads.

Works with and without an agent. Every command is bounded, changes nothing, and may be missing on some hosts.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import psutil

from agent.errors import MusterError
from agent.formats.firewalls import firewalls
from agent.model.doctor import DiskUse, DockerUse, Firewall, Unit

COMMAND_TIMEOUT_S: Final = 2.0  # they answer at once, unless the machine is stuck
DOCKER_TIMEOUT_S: Final = 2  # likewise; a person waits
SYNCS: Final = 5  # the middle one counts: another program's write may hold up one
SYNC_BYTES: Final = 4096  # a transaction of the ledger's
MAX_LOG_LINE_CHARACTERS: Final = 500
JOURNAL_LINES: Final = 50

_MIB: Final = 1024 * 1024
_PATH: Final = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def ask(argv: Sequence[str]) -> tuple[int, str] | None:
    """Exit code and output; None where there is no such command, or it didn't end in time."""
    program = shutil.which(argv[0], path=_PATH)
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *argv[1:]],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=COMMAND_TIMEOUT_S,
            env={"PATH": _PATH, "LC_ALL": "C.UTF-8"},
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.returncode, done.stdout.decode("utf-8", "replace")


def disks(paths: Sequence[str]) -> tuple[DiskUse, ...]:
    """The file systems below these paths, each once; a path that isn't there stands for its nearest parent."""
    found: dict[int, DiskUse] = {}
    for path in paths:
        place = Path(path)
        while not place.exists() and place != place.parent:
            place = place.parent
        try:
            state, device = os.statvfs(place), place.stat().st_dev
        except OSError:
            continue
        found.setdefault(
            device,
            DiskUse(
                path=path,
                size_mib=state.f_blocks * state.f_frsize // _MIB,
                free_mib=state.f_bavail * state.f_frsize // _MIB,
                inodes=state.f_files,
                inodes_free=state.f_favail,
                read_only=bool(state.f_flag & os.ST_RDONLY),
            ),
        )
    return tuple(found.values())


def syncs_ms(directory: Path) -> tuple[float, ...]:
    """How long SYNCS small writes take to reach the disk there. Leaves nothing behind. Raises OSError."""
    taken = []
    with tempfile.TemporaryFile(dir=directory) as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(os.urandom(SYNC_BYTES))
            file.flush()
            os.fdatasync(file.fileno())
            taken.append(round(1000 * (time.perf_counter() - began), 3))
    return tuple(taken)


def memory_mib() -> tuple[int, int]:
    """All of it, and what programs could have without swapping."""
    memory = psutil.virtual_memory()
    return memory.total // _MIB, memory.available // _MIB


def closed_firewalls(open_ports: Sequence[tuple[int, str]]) -> tuple[Firewall, ...]:
    """Active firewalls that don't let these ports through."""
    return tuple(
        Firewall(
            name=found["name"],
            commands=tuple(" ".join(command) for command in found["commands"]),
            lasting=found["lasting"],
        )
        for found in firewalls([[port, kind] for port, kind in open_ports], ask)
    )


def under_systemd() -> bool:
    """Whether systemd is PID 1 here (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def units(names: Sequence[str]) -> tuple[Unit, ...]:
    """Those of these that systemd knows; none where it doesn't run."""
    if not under_systemd():
        return ()
    found = []
    for name in names:
        values = _shown(name, "LoadState,ActiveState,UnitFileState,Result,NRestarts,StatusText")
        if values.get("LoadState") in (None, "not-found"):
            continue
        restarts = values.get("NRestarts", "0")
        found.append(
            Unit(
                name=name,
                active=values.get("ActiveState", ""),
                enabled=values.get("UnitFileState", ""),
                result=values.get("Result", ""),
                restarts=int(restarts) if restarts.isdecimal() else 0,
                said=values.get("StatusText", ""),
            )
        )
    return tuple(found)


def last_status(unit: str) -> tuple[str, str]:
    """How a unit is (systemd's ActiveState), and what it last told systemd (sd_notify(3), STATUS). Needs no root."""
    values = _shown(unit, "ActiveState,StatusText") if under_systemd() else {}
    return values.get("ActiveState", ""), values.get("StatusText", "")


def _shown(unit: str, properties: str) -> dict[str, str]:
    answer = ask(["systemctl", "show", f"--property={properties}", unit])
    return dict(line.partition("=")[::2] for line in (answer[1] if answer else "").splitlines())


def last_words(unit: str) -> tuple[str, ...]:
    """What a failed unit last told systemd; else the newest error lines of its journal, or its newest lines."""
    active, said = last_status(unit)
    if said and active == "failed":
        return (said,)
    answer = ask(["journalctl", "-u", unit, "-n", str(JOURNAL_LINES), "-o", "cat", "--no-pager"])
    lines = [line[:MAX_LOG_LINE_CHARACTERS] for line in (answer[1] if answer else "").splitlines() if line.strip()]
    wrong = [line for line in lines if line.startswith(("ERROR", "CRITICAL", "error:")) or "Error: " in line]
    return tuple((wrong or lines)[-5:])


def docker() -> DockerUse | None:
    """The engine now, with its storage; None where there is none. Not in a thread that has an event loop."""
    from agent.runtime.engine import DEFAULT_URL

    url, socket = os.environ.get("DOCKER_HOST") or None, DEFAULT_URL.removeprefix("unix://")
    if url is None and not os.path.exists(socket) and shutil.which("dockerd", path=_PATH) is None:
        return None
    return asyncio.run(_docker(url))


async def _docker(url: str | None) -> DockerUse:
    from agent.runtime.engine import Engine

    engine = Engine(url, timeout_s=DOCKER_TIMEOUT_S)
    try:
        info = await engine.info()
    except MusterError as error:
        return DockerUse(answers=False, reason=_reason(error.__cause__ or error))
    finally:
        await engine.close()
    return DockerUse(
        answers=True,
        version=str(info.get("ServerVersion", ""))[:64],
        driver=str(info.get("Driver", ""))[:64],
        root=str(info.get("DockerRootDir", ""))[:1024],
    )


def _reason(error: BaseException) -> str:
    """In words; aiohttp packs what happened into its own exception."""
    match getattr(error, "os_error", error):
        case FileNotFoundError():
            return "its socket isn't there"
        case ConnectionRefusedError():
            return "nobody listens on its socket"
        case PermissionError():
            return "its socket may not be opened"
        case TimeoutError():
            return f"no answer within {DOCKER_TIMEOUT_S:g} s"
    return type(error).__name__
