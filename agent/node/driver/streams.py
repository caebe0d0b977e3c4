"""Many streams as one: read ahead by a bounded number of items, told in batches of what has come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterable
from contextlib import aclosing
from typing import TypeVar

T = TypeVar("T")


async def together(sources: Iterable[AsyncGenerator[T]], ahead: int) -> AsyncGenerator[list[T]]:
    """What the sources give, as it comes: each time all that is there, at most `ahead` items.

    A reader that is slower holds the sources back. Ends with the last source; the first error of one ends all of them
    and is raised. Leaving the iterator closes every source.
    """
    queue: asyncio.Queue[T] = asyncio.Queue(ahead)
    moved = asyncio.Event()

    async def pour(source: AsyncGenerator[T]) -> None:
        async with aclosing(source):
            async for item in source:
                await queue.put(item)
                moved.set()

    tasks = [asyncio.create_task(pour(source)) for source in sources]
    for task in tasks:
        task.add_done_callback(lambda _: moved.set())
    try:
        while True:
            moved.clear()
            if items := [queue.get_nowait() for _ in range(queue.qsize())]:
                yield items
                continue
            for task in tasks:
                if task.done():
                    task.result()
            if all(task.done() for task in tasks):
                return
            await moved.wait()
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
