"""Noticing at once that a process ended, ours or an adopted one, without polling: pidfd_open(2) on the event loop."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from agent.runtime.proc import start_time


class Watch:
    """Watches one process until it ends or `close`. `ended` is set when it is gone, also if it was from the start."""

    def __init__(self, pid: int, start: int, on_end: Callable[[], None]) -> None:
        self.ended = asyncio.Event()
        self._on_end = on_end
        self._descriptor = -1
        try:
            self._descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            self._finish()
            return
        # Between finding the process and opening it, another may have got the number.
        if start_time(pid) != start:
            self._finish()
            return
        asyncio.get_running_loop().add_reader(self._descriptor, self._finish)

    def _finish(self) -> None:
        self.close()
        if not self.ended.is_set():
            self.ended.set()
            asyncio.get_running_loop().call_soon(self._on_end)

    def close(self) -> None:
        """Stop watching; the process goes on."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
