"""Noticing at once that a process ended, ours or an adopted one, without polling: pidfd_open(2) on the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from agent.runtime.proc import start_time


def open_process(pid: int, start: int) -> int:
    """A descriptor of the very process with that start time, -1 when it is gone. Call in a thread, close it."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return -1
    # Between finding the process and opening it, another may have got the number. A zombie is still the same one.
    if start_time(pid, zombie=True) != start:
        os.close(descriptor)
        return -1
    return descriptor


class Watch:
    """Takes over a descriptor of `open_process`. `ended` is set when the process ends, also if it is gone already."""

    def __init__(self, descriptor: int, on_end: Callable[[], None]) -> None:
        self.ended = asyncio.Event()
        self._on_end = on_end
        self._descriptor = descriptor
        self._loop = asyncio.get_running_loop()
        if descriptor < 0:
            self._finish()
        else:
            self._loop.add_reader(descriptor, self._finish)

    def _finish(self) -> None:
        self.close()
        if not self.ended.is_set():
            self.ended.set()
            self._loop.call_soon(self._on_end)

    def close(self) -> None:
        """Stop watching; the process goes on."""
        if self._descriptor >= 0:
            self._loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
