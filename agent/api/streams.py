"""Answers that go on: server-sent events (WHATWG HTML §9.2) and lines of JSON, cancelled when the client leaves."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing
from typing import TypeVar

import msgspec
from aiohttp import web
from msgspec import Struct

from agent.api.limits import KEPT_PAUSE_S, MAX_STREAMS, STREAM_KEEPALIVE_S, WRITE_TIMEOUT_S
from agent.errors import MusterError, TooMany
from agent.model.events import Event
from agent.model.types import AgentId
from agent.tasks import cancel_and_wait

T = TypeVar("T")
L = TypeVar("L", bound=msgspec.Struct)

FIRST_ITEM_S = 0.5  # an error before the first item is still a problem with its status; a silent stream starts then

SENT_BYTES = web.ResponseKey("sent_bytes", int)  # on a streamed response, for the API log


class Begun(Struct, frozen=True):
    """An answer that is being streamed, since `at` (monotonic, s). `goes_on`: until the client leaves."""

    response: web.StreamResponse
    at: float
    goes_on: bool


BEGUN = web.RequestKey("begun", Begun)  # on the request, for the API log

_encoder = msgspec.json.Encoder()


class Streams:
    """The open streams of one server. Invariant: at most MAX_STREAMS."""

    def __init__(self, *, keepalive_s: float = STREAM_KEEPALIVE_S) -> None:
        self._keepalive_s = keepalive_s
        self._tasks: set[asyncio.Task[object]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def close(self) -> None:
        """End them all: the agent stops, and clients go to another member."""
        for task in self._tasks:
            task.cancel()

    async def lines(self, request: web.Request, source: AsyncIterator[L]) -> web.StreamResponse:
        """NDJSON; an empty line now and then finds a client that is gone."""

        def encode(line: L | None) -> bytes:
            return b"\n" if line is None else _encoder.encode(line) + b"\n"

        return await self._send(request, source, "application/x-ndjson", encode, follow=True)

    async def events(
        self, request: web.Request, source: AsyncIterator[Event], agent: AgentId, *, follow: bool
    ) -> web.StreamResponse:
        """`id:` is `<agent id>:<number>`, since each agent numbers its own; a comment is the keepalive.

        The answer begins at once, since nothing can fail any more: who sees it begin hears what happens from then on.
        """

        def encode(event: Event | None) -> bytes:
            if event is None:
                return b": keepalive\n\n"
            head = f"id: {agent}:{event.id}\nevent: {event.kind}\ndata: "
            return head.encode() + _encoder.encode(event) + b"\n\n"

        return await self._send(request, source, "text/event-stream", encode, follow=follow, first_s=0.0)

    async def raw(self, request: web.Request, source: AsyncIterator[bytes], media: str) -> web.StreamResponse:
        """Bytes as they come; the first may take long, and until then an error is told as one."""
        return await self._send(request, source, media, lambda part: part or b"", follow=True, first_s=None)

    async def _send(
        self,
        request: web.Request,
        source: AsyncIterator[T],
        media: str,
        encode: Callable[[T | None], bytes],
        *,
        follow: bool,
        first_s: float | None = FIRST_ITEM_S,
    ) -> web.StreamResponse:
        """The whole answer. Once it has begun, an error can only be shown by cutting the connection."""
        task = asyncio.current_task()
        assert task is not None
        async with aclosing(paced(source, first_s, self._keepalive_s if follow else KEPT_PAUSE_S)) as items:
            if len(self._tasks) >= MAX_STREAMS:
                raise TooMany(f"{MAX_STREAMS} streams are open here already", fix="Close some, or ask another member.")
            self._tasks.add(task)
            response = web.StreamResponse()
            response.content_type = media
            if not media.startswith("application/octet-stream"):
                response.charset = "utf-8"
            try:
                async for item in items:
                    if not response.prepared:
                        await response.prepare(request)
                        request[BEGUN] = Begun(response, time.monotonic(), goes_on=first_s is not None)
                    elif item is None and not follow:
                        break
                    if item is not None or follow:
                        async with asyncio.timeout(WRITE_TIMEOUT_S):
                            await response.write(part := encode(item))
                        response[SENT_BYTES] = response.get(SENT_BYTES, 0) + len(part)
                if not response.prepared:
                    await response.prepare(request)
                await response.write_eof()
            except BaseException as error:
                if not response.prepared:
                    raise
                if request.transport is not None:
                    request.transport.abort()
                if not isinstance(error, MusterError | TimeoutError):
                    raise
            finally:
                self._tasks.discard(task)
            return response


async def paced(source: AsyncIterator[T], first_s: float | None, pause_s: float) -> AsyncGenerator[T | None, None]:
    """The items of `source`, and None after `first_s` without the first one or `pause_s` without another.

    Closing it closes the source.
    """
    pending = asyncio.ensure_future(anext(source))
    wait_s = first_s
    try:
        while True:
            done, _ = await asyncio.wait({pending}, timeout=wait_s)
            wait_s = pause_s
            if not done:
                yield None
                continue
            try:
                item = pending.result()
            except StopAsyncIteration:
                return
            yield item
            pending = asyncio.ensure_future(anext(source))
    finally:
        await cancel_and_wait(pending)
        close = getattr(source, "aclose", None)
        if close is not None:
            await close()
