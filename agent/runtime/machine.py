"""What the machine has: memory, processors, disk, load. Shell (reads /proc through psutil); call it in a thread."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from agent.model.report import HostResources
from agent.procfs import PROC
from agent.runtime import proc
from agent.runtime.protocol import Counters

_MIB = 1024 * 1024


def session_counters(processes: Sequence[str]) -> dict[str, Counters]:
    """For the sessions that these processes lead (`<pid>:<start time>`): all their processes together.

    Memory shared between them counts for each. A process that left the session isn't seen.
    """
    leaders = {int(pid): each for each in processes for pid, _, start in [each.partition(":")] if _started(pid, start)}
    used: dict[str, tuple[float, int]] = {}
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            leader = leaders.get(os.getsid(process.pid))
            if leader is not None:
                cpu_s, memory = used.get(leader, (0.0, 0))
                used[leader] = (cpu_s + sum(process.cpu_times()[:4]), memory + process.memory_info().rss)
    now = time.monotonic()
    return {
        each: Counters(at_s=now, cpu_s=cpu_s, memory_bytes=memory, memory_limit_bytes=_limit(each))
        for each, (cpu_s, memory) in used.items()
    }


def _started(pid: str, start: str) -> bool:
    return pid.isdigit() and str(proc.start_time(int(pid))) == start


def _limit(process: str) -> int:
    """What its scope may use (cgroups v2); 0: no limit of its own."""
    try:
        group = (PROC / process.partition(":")[0] / "cgroup").read_text().partition("0::/")[2].strip()
        return int((Path("/sys/fs/cgroup") / group / "memory.max").read_text()) if group else 0
    except (OSError, ValueError):  # "max" isn't a limit
        return 0


def host_resources(data_dir: Path) -> HostResources:
    """The host's resources now; `disk_free_mib` is of the file system that `data_dir` is on. Blocks for a moment."""
    try:
        free = psutil.disk_usage(str(data_dir)).free
    except FileNotFoundError:
        free = 0
    return HostResources(
        memory_mib=psutil.virtual_memory().total // _MIB,
        cpu_millis=(psutil.cpu_count() or 1) * 1000,
        disk_free_mib=free // _MIB,
        load_1m=round(os.getloadavg()[0], 2),
    )
