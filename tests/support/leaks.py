"""What a test may leave behind: nothing. Snapshots of this process's threads, sockets and children, and its tasks.

Sockets are read from /proc (Linux); elsewhere that part finds nothing.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.support.waiting import INTERVAL_S, wait_for, wait_for_sync

GRACE_S = 1.0  # what was told to stop may take a moment on a loaded machine

# Threads that outlive a test by design, by a prefix of their name, each with its reason.
LASTING_THREADS = {
    "pytest_timeout": "pytest-timeout's own timer, where it can't use a signal",
}


@dataclass(frozen=True)
class Snapshot:
    """The resources of this process at one moment, each with a printable name."""

    threads: dict[int, str]
    sockets: dict[tuple[int, int], str]  # by (descriptor, inode)
    children: dict[tuple[int, float], str]  # by (pid, start time)

    def beyond(self, before: Snapshot) -> list[str]:
        """Return the names of what is here and was not there ``before``."""
        return [
            *(name for key, name in self.threads.items() if key not in before.threads),
            *(name for key, name in self.sockets.items() if key not in before.sockets),
            *(name for key, name in self.children.items() if key not in before.children),
        ]


def snapshot() -> Snapshot:
    """Look at this process now."""
    return Snapshot(_threads(), _sockets(), _children())


def _threads() -> dict[int, str]:
    return {
        id(thread): f"thread {thread.name!r}{' (daemon)' if thread.daemon else ''}"
        for thread in threading.enumerate()
        if not thread.name.startswith(tuple(LASTING_THREADS))
    }


def _sockets() -> dict[tuple[int, int], str]:
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        return {}
    found = {}
    for name in os.listdir(descriptors):
        try:
            target = os.readlink(descriptors / name)
        except FileNotFoundError:
            continue  # the descriptor of the listing itself
        if target.startswith("socket:["):
            found[int(name), int(target[8:-1])] = f"socket, descriptor {name}"
    return found


def _children() -> dict[tuple[int, float], str]:
    tasks = Path("/proc/self/task")
    listed = Path(f"/proc/self/task/{os.getpid()}/children")
    if not listed.exists():  # a kernel without CONFIG_PROC_CHILDREN, or not Linux
        return dict(map(_child, psutil.Process().children()))
    pids = []
    for task in tasks.iterdir():
        try:
            pids += [int(pid) for pid in (task / "children").read_text().split()]
        except FileNotFoundError:
            continue  # the thread ended meanwhile
    found = {}
    for pid in pids:
        try:
            key, name = _child(psutil.Process(pid))
        except psutil.NoSuchProcess:
            continue
        found[key] = name
    return found


def _child(process: psutil.Process) -> tuple[tuple[int, float], str]:
    try:
        command = " ".join(process.cmdline())
    except psutil.Error:
        command = ""  # a zombie has none
    state = f"{command or process.name()}"
    if process.status() == psutil.STATUS_ZOMBIE:
        state += ", ended but never waited for"
    return (process.pid, process.create_time()), f"child process {process.pid} ({state})"


def leaked_since(before: Snapshot, grace_s: float = GRACE_S) -> list[str]:
    """Return the names of what appeared since ``before`` and does not go away within ``grace_s`` seconds."""
    if not snapshot().beyond(before):
        return []
    gc.collect()  # what only a reference cycle keeps open is reported by Python itself, as a ResourceWarning
    try:
        wait_for_sync(lambda: not snapshot().beyond(before), grace_s)
    except AssertionError:
        return _described(snapshot().beyond(before))
    return []


def _described(names: Iterable[str]) -> list[str]:
    """Add to each socket its addresses; done only for a leak, since it costs a look at all sockets of the system."""
    connections = {f"socket, descriptor {c.fd}": c for c in psutil.Process().net_connections(kind="all")}
    result = []
    for name in names:
        if (connection := connections.get(name)) is not None:
            ends = [_address(end) for end in (connection.laddr, connection.raddr) if end]
            name = f"{name}: {connection.type.name} {' -> '.join(ends) or 'unbound'} {connection.status}"
        result.append(name)
    return result


def _address(end: object) -> str:
    return f"{end[0]}:{end[1]}" if isinstance(end, tuple) else str(end)


def _describe_task(task: asyncio.Task[object]) -> str:
    where = ""
    if frames := task.get_stack(limit=1):
        where = f" at {frames[-1].f_code.co_filename}:{frames[-1].f_lineno}"
    name = getattr(task.get_coro(), "__qualname__", repr(task.get_coro()))
    return f"task {task.get_name()!r} running {name}{where}"


async def leaked_tasks(before: set[asyncio.Task[object]], grace_s: float = GRACE_S) -> list[str]:
    """Return the names of tasks of this loop that are not in ``before`` and don't end within ``grace_s`` seconds.

    They are cancelled then, so that one leak doesn't disturb the tests after it.
    """

    def left() -> set[asyncio.Task[object]]:
        return asyncio.all_tasks() - before - {asyncio.current_task()}

    try:
        await wait_for(lambda: not left(), grace_s, interval_s=INTERVAL_S)
    except AssertionError:
        remaining = left()
        names = sorted(map(_describe_task, remaining))
        for task in remaining:
            task.cancel()
        await asyncio.wait(remaining, timeout=grace_s)
        return names
    return []
