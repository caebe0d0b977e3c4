"""Processes that outlive the command that started them, each recognised by a mark in its environment.

A pid identifies nothing for long; a mark does (`agent.procfs`). So a process is found even after its pid file was lost,
and nothing else is ever signalled. Linux only, like the agent.
"""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from agent.procfs import entries, find

KILL_WAIT_S = 5.0  # SIGKILL works at once unless the process hangs in the kernel
KILL_ROUNDS = 5  # what forks while it is killed shows up in the next round; a fork bomb isn't won against here


def spawn(argv: Sequence[str], *, environ: Mapping[str, str], output: Path) -> int:
    """Start `argv` (its program by absolute path) in a session of its own, its output appended to a file; its pid.

    When this returns it carries the marks in `environ`. Raises OSError when it can't be executed.
    """
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        argv[0],
        list(argv),
        dict(environ),
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(output), append, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ],
        setsid=True,
    )
    entries(pid, wait_s=math.inf)  # within exec the kernel lets go of the parent, a moment before there are any
    return pid


def has(pid: int, mark: bytes) -> bool:
    """Whether the process runs and carries the mark."""
    return mark in entries(pid)


def end(pid: int, mark: bytes, number: signal.Signals, timeout_s: float) -> bool:
    """Signal the process if it is the one with that mark, and wait for its end; False when it is still there."""
    return not _wait(_send(pid, frozenset({mark}), number), timeout_s)


def reap(pid: int) -> None:
    """Reap a child of this process that has ended; any other is reaped by its own parent."""
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)


def end_all(marks: Iterable[bytes], *, grace_s: float) -> list[int]:
    """End everything that carries one of these marks: SIGTERM, then SIGKILL. The pids that wouldn't end."""
    wanted = frozenset(marks)
    if not wanted:
        return []
    _signal(wanted, signal.SIGTERM, grace_s)
    for _ in range(KILL_ROUNDS):
        # Looked for anew: what forked meanwhile carries the mark as well.
        if not _signal(wanted, signal.SIGKILL, KILL_WAIT_S / KILL_ROUNDS):
            break
    return find(wanted.__contains__)


def _signal(marks: frozenset[bytes], number: signal.Signals, timeout_s: float) -> bool:
    """Signal all with a mark at once, wait for them; whether there were any."""
    held: dict[int, int] = {}
    for pid in find(marks.__contains__):
        held |= _send(pid, marks, number)
    _wait(held, timeout_s)
    return bool(held)


def _send(pid: int, marks: frozenset[bytes], number: signal.Signals) -> dict[int, int]:
    """{descriptor: pid} of the process that was signalled, {} when it is gone or another one.

    With the descriptor open, the number can't become another process's between look and signal (pidfd_open(2)).
    """
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return {}
    try:
        if not marks.isdisjoint(entries(pid)):
            signal.pidfd_send_signal(descriptor, number)
            return {descriptor: pid}
    except ProcessLookupError:  # it has just ended by itself; its end is waited for all the same
        return {descriptor: pid}
    except BaseException:
        os.close(descriptor)
        raise
    os.close(descriptor)
    return {}


def _wait(held: dict[int, int], timeout_s: float) -> list[int]:
    """Wait for them to end, which is after their files and ports are closed; the pids that are still there."""
    deadline = time.monotonic() + timeout_s
    left = dict(held)
    poll = select.poll()
    for descriptor in left:
        poll.register(descriptor, select.POLLIN)
    try:
        while left and (ended := poll.poll(max(deadline - time.monotonic(), 0) * 1000)):
            for descriptor, _ in ended:
                poll.unregister(descriptor)
                reap(left.pop(descriptor))
    finally:
        for descriptor in held:
            os.close(descriptor)
    return list(left.values())
