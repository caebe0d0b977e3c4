"""Reads /proc (proc(5)) as far as it takes to recognise a process again.

A pid may be used again. So processes are also recognised by a mark, an entry NAME=value of the environment that they
were started with. During exec the kernel shows no environment yet, though the process exists.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from msgspec import Struct

PROC: Final = Path("/proc")
EXEC_WAIT_S = 1.0  # a program is mapped in milliseconds; one on a file system that hangs may take for ever
EXEC_POLL_S = 0.0005  # the moment is mostly shorter
ENDED: Final = "ZXx"


class Stat(Struct, frozen=True):
    """Of /proc/PID/stat: the state's letter, `start` in clock ticks since boot, whether it has ended or is in exec."""

    state: str
    start: int
    within_exec: bool

    @property
    def ended(self) -> bool:
        """A zombie, or about to be nothing at all."""
        return self.state in ENDED


def stat(pid: int) -> Stat | None:
    """None when there is no such process."""
    try:
        text = (PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The second field is the program's name in parentheses, which may hold anything: count from behind it, from 3.
    fields = text[text.rindex(")") + 1 :].split()
    virtual_bytes, environment_end = int(fields[20]), int(fields[48])
    # There is memory, so it's neither the kernel's nor ended, and not yet where in it the environment is.
    return Stat(fields[0], int(fields[19]), virtual_bytes > 0 and environment_end == 0)


def entries(pid: int, wait_s: float = EXEC_WAIT_S) -> list[bytes]:
    """The environment of a process at its exec; empty when it has none, has ended, or may not be read by us.

    Waits up to `wait_s` for an exec that is under way.
    """
    deadline = time.monotonic() + wait_s
    path = PROC / str(pid) / "environ"
    try:
        while not (environment := path.read_bytes()):
            seen = stat(pid)
            if seen is None or time.monotonic() > deadline:
                return []
            if not seen.within_exec:
                environment = path.read_bytes()  # an exec may have ended between the two looks
                break
            time.sleep(EXEC_POLL_S)
    except OSError:
        return []
    return environment.split(b"\0") if environment else []


def find(marked: Callable[[bytes], bool]) -> list[int]:
    """The pids of processes that have an environment entry with that mark, except this process."""
    pids = [int(entry) for entry in os.listdir(PROC) if entry.isdigit()]
    return [pid for pid in pids if pid != os.getpid() and any(map(marked, entries(pid)))]
