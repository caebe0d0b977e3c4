"""Calls of peers that this host answers itself: each in a task of its own, by the kind of the request. Shell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any

from agent import errors
from agent.model.fault import fault_of
from agent.model.types import AgentId
from agent.node.driver.loop import Driver
from agent.node.effects import Serve, Unserve
from agent.node.messages import Ended, Failed, Reply, ReplyFrame, Served
from agent.tasks import cancel_and_wait

MAX_SERVED = 256  # calls that peers may have open here at once; each costs a task and, for logs, a thread

FULL_WAIT_S = 0.05  # for a slow link to take more; reading on meanwhile would only lose what was read

Answers = Callable[[AgentId, Any], AsyncGenerator[Reply]]
"""(peer, request) → the parts of the answer. Raises MusterErrors, which the peer gets."""


class Serving:
    """`handle` says who answers which kind; a kind without one is refused."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._handlers: dict[type[Served], Answers] = {}
        self._open: dict[tuple[AgentId, int], asyncio.Task[None]] = {}
        driver.on_serve = self.serve
        driver.on_unserve = self.unserve

    def handle(self, kind: type[Served], answers: Answers) -> None:
        """Sets who answers requests of this kind."""
        self._handlers[kind] = answers

    def serve(self, serve: Serve) -> None:
        """A peer asks."""
        if len(self._open) >= MAX_SERVED:
            error = errors.TooMany(f"{MAX_SERVED} calls are open here already", fix="Close some of the streams.")
            self._reply(serve, Failed(fault=fault_of(error)), end=True)
            return
        key = (serve.peer, serve.call)
        if key in self._open:  # ids are used once in a life; this one's life is over, or it lies
            self._open.pop(key).cancel()
        task = asyncio.create_task(self._answer(serve), name=f"{type(serve.request).__name__} of {serve.peer}")
        self._open[key] = task
        task.add_done_callback(lambda _: self._done(key, task))

    def _done(self, key: tuple[AgentId, int], task: asyncio.Task[None]) -> None:
        if self._open.get(key) is task:
            del self._open[key]
        if not task.cancelled() and (error := task.exception()) is not None:
            self._driver.fail(error)

    def unserve(self, unserve: Unserve) -> None:
        """The peer has enough, or is gone."""
        for (peer, call), task in self._open.items():
            if peer == unserve.peer and unserve.call in (None, call):
                task.cancel()

    async def close(self) -> None:
        """End all of them."""
        await cancel_and_wait(*self._open.values())

    async def _answer(self, serve: Serve) -> None:
        try:
            handler = self._handlers.get(type(serve.request))
            if handler is None:
                raise errors.NotFound("this host doesn't answer that")
            async with aclosing(handler(serve.peer, serve.request)) as replies:
                async for reply in replies:
                    await self._reply_in_time(serve, reply)
        except errors.MusterError as error:
            self._reply(serve, Failed(fault=fault_of(error)), end=True)
        except OSError as error:  # e.g. the disk is full
            what = errors.MusterError(error.strerror or "input/output error")
            self._reply(serve, Failed(fault=fault_of(what)), end=True)
        else:
            self._reply(serve, Ended(), end=True)

    async def _reply_in_time(self, serve: Serve, reply: Reply) -> None:
        """Wait while the link is full; `unserve` ends this when it is gone."""
        while not self._reply(serve, reply, end=False):  # noqa: ASYNC110 links don't tell when they have room
            await asyncio.sleep(FULL_WAIT_S)

    def _reply(self, serve: Serve, reply: Reply, *, end: bool) -> bool:
        return self._driver.send(serve.peer, ReplyFrame(id=serve.call, reply=reply, end=end))
