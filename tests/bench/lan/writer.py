"""An operator's side of a measurement, run at the lab's desk: a write for each line of stdin, an answer for each.

    python -m tests.bench.lan.writer agent HOST        instructions, through the agent on that host
    python -m tests.bench.lan.writer etcd URL          puts, through the member there

The connection is kept, as a person's next command would find another host soon enough, and is made before the loss.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import aiohttp

from agent.client import home_client
from agent.home import find_home, open_home
from agent.model.instruction import Cancel

TARGET = "stack:bench"
PUT_TIMEOUT_S = 0.25  # a put that went to a leader that is gone is never answered: a client has to try again
PUT = {"key": "YmVuY2g=", "value": "YmVuY2g="}

Write = Callable[[], Awaitable[None]]


@asynccontextmanager
async def agent(host: str) -> AsyncIterator[Write]:
    """A signed instruction that changes nothing but its target's revision."""
    async with home_client(open_home(find_home(None, os.environ)), via=host) as client:

        async def write() -> None:
            await client.submit("cancel", TARGET, Cancel())

        yield write


@asynccontextmanager
async def etcd(url: str) -> AsyncIterator[Write]:
    """A put by etcd's JSON gateway, as often as it takes."""
    timeout = aiohttp.ClientTimeout(total=PUT_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:

        async def write() -> None:
            while True:
                try:
                    async with session.post(f"{url}/v3/kv/put", json=PUT) as answer:
                        if answer.status == 200:
                            return
                except (aiohttp.ClientError, TimeoutError):
                    continue

        yield write


async def main(kind: str, where: str) -> None:
    """Until stdin ends."""
    async with {"agent": agent, "etcd": etcd}[kind](where) as write:
        while await asyncio.to_thread(sys.stdin.readline):
            await write()
            print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
