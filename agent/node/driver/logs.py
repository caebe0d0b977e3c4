"""Replica output from anywhere: this host's own, or through the peer link from the host that runs it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from datetime import UTC, datetime, timedelta
from typing import Protocol

from agent import errors
from agent.model.events import LogLine
from agent.model.spec import ReplicaKey
from agent.model.types import AgentId
from agent.node.driver.loop import Driver
from agent.node.driver.streams import together
from agent.node.messages import FollowLogs, Logs, Reply
from agent.runtime.protocol import RawLine

LINES_PER_PART = 200  # read ahead of the link, and sent together
PART_CHARACTERS = 65_536  # a part holds no heartbeat up, and a thousand unread ones fit into memory
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
        async with self._driver.visits.linked(host), aclosing(self._driver.requests.call(host, wanted)) as replies:
            async for reply in replies:
                for line in reply.lines if isinstance(reply, Logs) else ():
                    yield line

    async def merge(self, wanted: dict[AgentId, list[FollowLogs]]) -> AsyncGenerator[LogLine]:
        """Many replicas' lines as they come; a host that can't be asked ends only its own, with a line that says so."""
        sources = [self._read_or_say(one, host) for host, many in wanted.items() for one in many]
        async with aclosing(together(sources, BUFFERED_LINES)) as batches:
            async for lines in batches:
                for line in lines:
                    yield line

    async def _read_or_say(self, wanted: FollowLogs, host: AgentId) -> AsyncGenerator[LogLine]:
        try:
            async with aclosing(self.read(wanted, host)) as lines:
                async for line in lines:
                    yield line
        except errors.MusterError as error:
            yield self.complaint(wanted, host, error)

    async def answer(self, _peer: AgentId, wanted: FollowLogs) -> AsyncGenerator[Reply]:
        """A peer asks for a replica of this host: as many lines in a part as are there, and as a part takes."""
        async with aclosing(together([self._read_local(wanted)], LINES_PER_PART)) as batches:
            async for lines in batches:
                for part in _parts(lines):
                    yield Logs(lines=part)

    async def _read_local(self, wanted: FollowLogs) -> AsyncGenerator[LogLine]:
        key = ReplicaKey(stack=wanted.stack, service=wanted.service, slot=wanted.slot)
        since = _moment(wanted.since) if wanted.since else None
        if wanted.within_ms is not None:
            ago = datetime.now(UTC) - timedelta(milliseconds=wanted.within_ms)
            since = ago if since is None else max(since, ago)
        host = self._driver.core.context.own_name
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

    def complaint(self, wanted: FollowLogs, host: AgentId, error: errors.MusterError) -> LogLine:
        """The line that is shown in place of lines that can't be had."""
        return LogLine(
            stack=wanted.stack,
            service=wanted.service,
            slot=wanted.slot,
            host=self._driver.core.context.name_of(host),
            at="",
            stream="stderr",
            line=f"muster: no log from here: {error.what}",
        )


def _moment(text: str) -> datetime:
    """RFC 3339. Raises InputError; peers send it too."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise errors.InputError(f"{text[:40]!r} isn't a time in RFC 3339, like 2024-01-15T10:30:00Z", where="since")
    return moment


def _parts(lines: list[LogLine]) -> Iterator[tuple[LogLine, ...]]:
    """In order, each of at most PART_CHARACTERS, or of one line."""
    part: list[LogLine] = []
    room = PART_CHARACTERS
    for line in lines:
        if part and len(line.line) > room:
            yield tuple(part)
            part, room = [], PART_CHARACTERS
        part.append(line)
        room -= len(line.line)
    if part:
        yield tuple(part)
