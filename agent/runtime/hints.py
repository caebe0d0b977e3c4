"""Hints that something may have changed, coalesced: one is kept for each replica, however often it changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from agent.model.spec import ReplicaKey


class Hints:
    """Filled on the event loop, read by one reader."""

    def __init__(self) -> None:
        self._waiting: dict[ReplicaKey | None, None] = {}
        self._event = asyncio.Event()
        self._closed = False

    def give(self, key: ReplicaKey | None) -> None:
        """Something about `key` may have changed; None: about anything."""
        self._waiting[key] = None
        self._event.set()

    def close(self) -> None:
        """End the reader's iteration."""
        self._closed = True
        self._event.set()

    async def take(self) -> AsyncIterator[ReplicaKey | None]:
        """Hints as they come, until `close`."""
        while True:
            await self._event.wait()
            self._event.clear()
            taken, self._waiting = list(self._waiting), {}
            for key in taken:
                yield key
            if self._closed:
                return
