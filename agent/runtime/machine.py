"""What the machine has: memory, processors, disk, load. Shell (reads /proc through psutil); call it in a thread."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

from agent.model.report import HostResources

_MIB = 1024 * 1024


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
