"""A blocking stream as an async iterator: one thread reads it, with a bound on how far it is ahead. Shell (threads)."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Protocol, TypeVar

MAX_AHEAD_ITEMS = 1000  # a slow reader makes the engine wait, not our memory grow
JOIN_TIMEOUT_S = 5.0  # a closed stream ends its thread at once

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Readable(Protocol[T_co]):
    """What is read: iterated and closed in the thread, cancelled from the loop's side, which must end the iteration."""

    def __iter__(self) -> Iterator[T_co]: ...

    def cancel(self) -> None: ...

    def close(self) -> None: ...


class _End:
    """The stream's end, with the error if there was one."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error


async def iterate(open_stream: Callable[[], Readable[T]], name: str) -> AsyncGenerator[T, None]:
    """Items of the stream that `open_stream` opens; the thread opens and closes it. Its errors are raised here."""
    loop = asyncio.get_running_loop()
    items: asyncio.Queue[T | _End] = asyncio.Queue()  # bounded by `room`
    room = threading.Semaphore(MAX_AHEAD_ITEMS)
    closing = threading.Event()
    opened: list[Readable[T]] = []

    def give(item: T | _End) -> None:
        if not loop.is_closed():
            loop.call_soon_threadsafe(items.put_nowait, item)

    def read() -> None:
        error: Exception | None = None
        try:
            # Closed here and nowhere else: only this thread knows that nobody reads from it any more.
            with contextlib.closing(open_stream()) as stream:
                opened.append(stream)
                if not closing.is_set():  # else it was too late to be cancelled
                    for item in stream:
                        room.acquire()
                        if closing.is_set():
                            break
                        give(item)
        except Exception as caught:  # noqa: BLE001  # not gone over: raised again on the reader's side
            error = caught
        give(_End(error))

    thread = threading.Thread(target=read, name=name, daemon=True)
    thread.start()
    try:
        while not isinstance(item := await items.get(), _End):
            room.release()
            yield item
        if item.error is not None:
            raise item.error
    finally:
        closing.set()
        room.release()
        for stream in opened:
            stream.cancel()
        await asyncio.shield(loop.run_in_executor(None, thread.join, JOIN_TIMEOUT_S))
