"""Blocking streams as async iterators: the thread that reads one frees it, however the reading ends."""

from __future__ import annotations

import asyncio
import gc
import json
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from agent.runtime.answers import StreamedAnswer
from agent.runtime.engine import Engine
from agent.runtime.streams import MAX_AHEAD_ITEMS, iterate
from tests.support.leaks import snapshot
from tests.support.waiting import wait_for


class Numbers:
    """0, 1, ... until it is cancelled, `end` is reached or `fault` raised. Tells which thread closed it."""

    def __init__(self, end: int | None = None, fault: Exception | None = None) -> None:
        self.end, self.fault = end, fault
        self.cancelled = threading.Event()
        self.closed_by: list[str] = []

    def __iter__(self) -> Iterator[int]:
        number = 0
        while not self.cancelled.is_set() and number != self.end:
            yield number
            number += 1
        if self.fault is not None:
            raise self.fault

    def cancel(self) -> None:
        self.cancelled.set()

    def close(self) -> None:
        self.closed_by.append(threading.current_thread().name)


async def test_a_stream_read_to_its_end_is_closed_by_its_thread() -> None:
    numbers = Numbers(end=3)
    assert [item async for item in iterate(lambda: numbers, "reader")] == [0, 1, 2]
    assert numbers.closed_by == ["reader"]


async def test_a_stream_left_while_more_is_there_is_closed_by_its_thread() -> None:
    numbers = Numbers()
    async with aclosing(iterate(lambda: numbers, "reader")) as items:
        assert await anext(items) == 0
    assert numbers.closed_by == ["reader"]


async def test_a_stream_that_fails_is_closed_and_its_error_raised() -> None:
    numbers = Numbers(end=1, fault=ValueError("not a number"))
    with pytest.raises(ValueError, match="not a number"):
        assert [item async for item in iterate(lambda: numbers, "reader")]
    assert numbers.closed_by == ["reader"]


async def test_a_stream_that_opens_after_nobody_wants_it_is_closed_unread() -> None:
    numbers, opening, may_open = Numbers(), threading.Event(), threading.Event()

    def open_late() -> Numbers:
        opening.set()
        assert may_open.wait(5)
        return numbers

    async def first() -> int:
        async with aclosing(iterate(open_late, "reader")) as items:
            return await anext(items)

    reading = asyncio.create_task(first())
    await wait_for(opening.is_set)
    reading.cancel()
    asyncio.get_running_loop().call_soon(lambda: asyncio.get_running_loop().call_soon(may_open.set))
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert (numbers.closed_by, numbers.cancelled.is_set()) == (["reader"], False)


VERSION = {"Version": "20.10.24", "ApiVersion": "1.41"}
CONTAINER = "c" * 64


def log_frame(line: bytes) -> bytes:
    return b"\x01\0\0\0" + len(line).to_bytes(4, "big") + line


@asynccontextmanager
async def engine_with_streams(count: int) -> AsyncIterator[Engine]:
    """An engine whose events and logs give so many items and then wait for the client to go."""
    streams = {
        b"events": [b'{"n": %d}\n' % n for n in range(count)],
        b"logs": [log_frame(b"2026-01-01T00:00:00Z %d\n" % n) for n in range(count)],
    }

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                name = request.split(b" ")[1].partition(b"?")[0].rpartition(b"/")[2]
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
                body = streams.get(name, [json.dumps(VERSION).encode()])
                writer.writelines(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in body)
                if name not in streams:
                    writer.write(b"0\r\n\r\n")
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    with tempfile.TemporaryDirectory(prefix="muster-engine-") as directory:  # a socket's path is short
        path = Path(directory) / "docker.sock"
        server = await asyncio.start_unix_server(answer, path)
        engine = Engine(f"unix://{path}")
        try:
            await asyncio.to_thread(engine.ping)
            yield engine
        finally:
            await asyncio.to_thread(engine.close)
            server.close()
            await server.wait_closed()


def sockets() -> set[tuple[int, int]]:
    """Of this process, the server's too; its threads don't count, for asyncio's pool may add one at any time."""
    return set(snapshot().sockets)


def open_events(engine: Engine) -> StreamedAnswer[Any]:
    return engine.open_events({})


def open_logs(engine: Engine) -> StreamedAnswer[Any]:
    return engine.open_logs(CONTAINER, tail=None, since=None, follow=True)


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("open_stream", [open_events, open_logs])
@pytest.mark.parametrize(("taken", "count"), [(1, 2 * MAX_AHEAD_ITEMS), (5, 5)])
async def test_an_answer_that_is_left_frees_its_connection_at_once(
    open_stream: Callable[[Engine], StreamedAnswer[Any]], taken: int, count: int
) -> None:
    """While the thread holds an item that nobody takes, or waits for one; and though something keeps the answer."""
    kept: list[StreamedAnswer[Any]] = []

    def opened(engine: Engine) -> StreamedAnswer[Any]:
        kept.append(open_stream(engine))
        return kept[0]

    async with engine_with_streams(count) as engine:
        before = sockets()
        async with aclosing(iterate(partial(opened, engine), "reader")) as items:
            assert len([await anext(items) for _ in range(taken)]) == taken
            assert not sockets() <= before
        await wait_for(lambda: sockets() <= before)
    assert kept


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("open_stream", [open_events, open_logs])
async def test_an_answer_that_is_closed_unread_frees_its_connection_and_cancelling_it_then_is_fine(
    open_stream: Callable[[Engine], StreamedAnswer[Any]],
) -> None:
    async with engine_with_streams(1) as engine:
        before = sockets()
        answer = await asyncio.to_thread(open_stream, engine)
        await asyncio.to_thread(answer.close)
        answer.cancel()
        await wait_for(lambda: sockets() <= before)
