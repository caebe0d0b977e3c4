"""Host names of members as IP addresses for datagrams, looked up beside the event loop: `sendto` would block it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Final

from agent.model.addresses import is_ip
from agent.tasks import cancel_and_wait

# An address is asked for again after this long; until the answer is in, the one before goes on being used.
FRESH_S: Final = 60.0

# Lookups under way: each holds a thread of the pool that everything shares, for as long as a resolver is silent.
MAX_LOOKUPS: Final = 2

# Every member of the largest cluster; only names from the ledger are asked for, so no stranger fills this.
MAX_NAMES: Final = 1024


class Names:
    """`ip_of` answers at once with what is known by now. `dialable(ip, port)` says which answers may be used."""

    def __init__(self, dialable: Callable[[str, int], bool]) -> None:
        self._dialable = dialable
        self._loop = asyncio.get_running_loop()
        self._known: dict[str, tuple[str | None, float]] = {}
        self._lookups: dict[str, asyncio.Task[None]] = {}

    def ip_of(self, host: str, port: int) -> str | None:
        """The IP address of `host`, or None while it isn't known; then it is being asked for."""
        if is_ip(host):
            return host
        ip, until = self._known.get(host, (None, 0.0))
        if self._loop.time() >= until and host not in self._lookups and len(self._lookups) < MAX_LOOKUPS:
            task = self._loop.create_task(self._look_up(host, port), name=f"address of {host}")
            self._lookups[host] = task
            task.add_done_callback(lambda _: self._lookups.pop(host, None))
        return ip

    async def close(self) -> None:
        """Wait for nothing more."""
        tasks = list(self._lookups.values())
        await cancel_and_wait(*tasks)

    async def _look_up(self, host: str, port: int) -> None:
        before, _ = self._known.pop(host, (None, 0.0))
        if len(self._known) >= MAX_NAMES:
            del self._known[next(iter(self._known))]
        self._known[host] = (before, 0.0)
        try:
            found = await self._loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        except (OSError, UnicodeError):  # UnicodeError: a label that IDNA can't encode
            found = []
        ips = [str(entry[4][0]) for entry in found]
        ip = next((ip for ip in ips if self._dialable(ip, port)), before)
        self._known[host] = (ip, self._loop.time() + FRESH_S)
