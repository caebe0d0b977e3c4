"""Replica output from anywhere: this host's own, or through the peer link from the host that runs it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from datetime import datetime
from typing import Protocol

from agent import errors
from agent.model.events import LogLine
from agent.model.spec import ReplicaKey
from agent.model.types import AgentId
from agent.node.driver.loop import Driver
from agent.node.messages import FollowLogs, Logs, Reply
from agent.runtime.protocol import RawLine

LINES_PER_PART = 200  # a part stays far below a frame's bound, with lines of 16 KiB
MAX_LINE_CHARACTERS = 16_384  # Docker cuts a line there too
BUFFERED_LINES = 1_000  # per reader; a slower reader holds the replicas' streams back, not this agent's memory


class LocalLogs(Protocol):
    """What this host's hosting offers."""

    def logs(
        self, key: ReplicaKey, *, tail: int | None, since: datetime | None, follow: bool
    ) -> AsyncGenerator[RawLine]: ...


class LogService:
    """Both sides: `read` for this agent's API, `answer` for peers."""

    def __init__(self, driver: Driver, local: LocalLogs) -> None:
        self._driver = driver
        self._local = local

    async def read(self, wanted: FollowLogs, host: AgentId) -> AsyncGenerator[LogLine]:
        """One replica's lines, wherever its host is."""
        if host == self._driver.core.context.id:
            async with aclosing(self._read_local(wanted)) as lines:
                async for line in lines:
                    yield line
            return
        async with self._driver.linked(host), aclosing(self._driver.call(host, wanted)) as replies:
            async for reply in replies:
                for line in reply.lines if isinstance(reply, Logs) else ():
                    yield line

    async def merge(self, wanted: dict[AgentId, list[FollowLogs]]) -> AsyncGenerator[LogLine]:
        """Many replicas' lines as they come; a host that can't be asked ends only its own with a line that says so."""
        lines: asyncio.Queue[LogLine | None] = asyncio.Queue(BUFFERED_LINES)

        async def pour(host: AgentId, one: FollowLogs) -> None:
            try:
                async with aclosing(self.read(one, host)) as source:
                    async for line in source:
                        await lines.put(line)
            except errors.MusterError as error:
                await lines.put(self._complaint(one, host, error))
            await lines.put(None)

        readers = [asyncio.create_task(pour(host, one)) for host, many in wanted.items() for one in many]
        try:
            open_readers = len(readers)
            while open_readers:
                line = await lines.get()
                if line is None:
                    open_readers -= 1
                else:
                    yield line
        finally:
            for reader in readers:
                reader.cancel()
            await asyncio.gather(*readers, return_exceptions=True)

    async def answer(self, _peer: AgentId, wanted: FollowLogs) -> AsyncGenerator[Reply]:
        """A peer asks for a replica of this host."""
        async with aclosing(self._read_local(wanted)) as lines:
            async for line in lines:
                yield Logs(lines=(line,))

    async def _read_local(self, wanted: FollowLogs) -> AsyncGenerator[LogLine]:
        key = ReplicaKey(stack=wanted.stack, service=wanted.service, slot=wanted.slot)
        since = datetime.fromisoformat(wanted.since) if wanted.since else None
        host = self._driver.core.context.name_of(self._driver.core.context.id)
        async with aclosing(self._local.logs(key, tail=wanted.tail, since=since, follow=wanted.follow)) as lines:
            async for raw in lines:
                yield LogLine(
                    stack=wanted.stack,
                    service=wanted.service,
                    slot=wanted.slot,
                    host=host,
                    at=raw.at,
                    stream=raw.stream,
                    line=raw.line[:MAX_LINE_CHARACTERS],
                )

    def _complaint(self, wanted: FollowLogs, host: AgentId, error: errors.MusterError) -> LogLine:
        return LogLine(
            stack=wanted.stack,
            service=wanted.service,
            slot=wanted.slot,
            host=self._driver.core.context.name_of(host),
            at="",
            stream="stderr",
            line=f"muster: no log from here: {error.what}",
        )
