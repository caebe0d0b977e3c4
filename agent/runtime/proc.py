"""Processes by identity, not by number alone: a pid is used again, (boot, pid, start time) isn't. Shell."""

from __future__ import annotations

import contextlib
import os
import signal

from agent import procfs


def boot_id() -> str:
    """Drawn by the kernel at each boot."""
    return (procfs.PROC / "sys/kernel/random/boot_id").read_text().strip()


def start_time(pid: int, *, zombie: bool = False) -> int | None:
    """When the process was started, in clock ticks since boot; None when it is gone, or (unless `zombie`) ended."""
    seen = procfs.stat(pid)
    return None if seen is None or (seen.ended and not zombie) else seen.start


def marked_processes(mark: str) -> list[int]:
    """The pids of processes with the environment entry `mark` (NAME=value), this process excepted."""
    return procfs.find(mark.encode().__eq__)


def signal_group(pid: int, number: signal.Signals) -> None:
    """Signal the process group that `pid` leads; no error if it is gone."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, number)


def kill_marked(mark: str) -> None:
    """SIGKILL everything that carries `mark`, even if it left the group; repeated until nothing new appears."""
    for _ in range(5):  # a fork bomb isn't won against here; a handful of rounds catches everything that isn't one
        pids = [pid for pid in marked_processes(mark) if start_time(pid) is not None]
        if not pids:
            return
        for pid in pids:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
