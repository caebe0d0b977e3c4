"""Processes by identity, not by number alone: a pid is used again, (boot, pid, start time) isn't. Shell (reads /proc).

proc(5): `stat` field 22 is the start time in clock ticks since boot; `environ` is the environment at exec.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

PROC = Path("/proc")


def boot_id() -> str:
    """Drawn by the kernel at each boot."""
    return (PROC / "sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int, *, zombie: bool = False) -> int | None:
    """When the process was started, in clock ticks since boot; None when it is gone, or (unless `zombie`) ended."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses, which may hold anything: count from behind it.
    fields = text[text.rindex(")") + 1 :].split()
    return None if fields[0] in "ZXx" and not zombie else int(fields[19])


def marked_processes(mark: str) -> list[int]:
    """The pids of processes with the environment entry `mark` (NAME=value), this process excepted."""
    wanted = mark.encode()
    found = []
    for entry in os.listdir(PROC):
        if not entry.isdigit() or int(entry) == os.getpid():
            continue
        try:
            environment = (PROC / entry / "environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if wanted in environment.split(b"\0"):
            found.append(int(entry))
    return found


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal the process group that `pid` leads; none left: fine."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def kill_marked(mark: str) -> None:
    """SIGKILL everything that carries `mark`, also what left the group; again until nothing new appears."""
    for _ in range(5):  # a fork bomb isn't won against here; a handful of rounds catches everything that isn't one
        pids = [pid for pid in marked_processes(mark) if start_time(pid) is not None]
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
