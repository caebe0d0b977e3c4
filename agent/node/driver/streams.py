"""Many streams as one: read ahead by a bounded number of items, delivered in batches."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Iterable
from contextlib import aclosing
from typing import Any, TypeVar

from agent.tasks import cancel_and_wait

T = TypeVar("T")


async def together(
    sources: Iterable[AsyncGenerator[T]] | AsyncGenerator[AsyncGenerator[T]], ahead: int
) -> AsyncGenerator[list[T]]:
    """What the sources give, as it comes: each time all that is there, at most `ahead` items.

    More sources may join as an asynchronous `sources` gives them. A reader that is slower holds the sources back. Ends
    with the last source, when no other can come; the first error of one ends all of them and is raised. Leaving the
    iterator closes every source.
    """
    queue: asyncio.Queue[T] = asyncio.Queue(ahead)
    moved = asyncio.Event()
    tasks: set[asyncio.Task[None]] = set()

    async def pour(source: AsyncGenerator[T]) -> None:
        async with aclosing(source):
            async for item in source:
                await queue.put(item)
                moved.set()

    async def join(coming: AsyncGenerator[AsyncGenerator[T]]) -> None:
        async with aclosing(coming):
            async for source in coming:
                begin(pour(source))

    def begin(pouring: Coroutine[Any, Any, None]) -> None:
        tasks.add(task := asyncio.create_task(pouring))
        task.add_done_callback(lambda _: moved.set())

    begin(join(sources if isinstance(sources, AsyncGenerator) else _each(sources)))
    try:
        while True:
            moved.clear()
            if items := [queue.get_nowait() for _ in range(queue.qsize())]:
                yield items
                continue
            for task in [task for task in tasks if task.done()]:
                tasks.discard(task)
                task.result()
            if not tasks:
                return
            await moved.wait()
    finally:
        await cancel_and_wait(*tasks)


async def _each(items: Iterable[T]) -> AsyncGenerator[T]:
    for item in items:
        yield item
