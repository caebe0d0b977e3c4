"""Following a stack's output while its replicas are placed, moved, replaced and released. Shell.

The replicated state says which replica is on which host; a host follows its replica's runs itself. What joins later is
shown from its first line on, and after a link was lost, reading goes on behind the last line: by the lines' own times,
or, where a runtime has none, with what is written from then on, since a line lost is better than all of them again.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from msgspec import Struct
from msgspec.structs import replace

from agent import errors
from agent.model.events import LogLine
from agent.model.ledger import Assignment
from agent.model.spec import ReplicaKey
from agent.model.types import AgentId
from agent.node.driver.logs import BUFFERED_LINES, LogService
from agent.node.driver.loop import Driver
from agent.node.driver.streams import together
from agent.node.messages import MAX_WITHIN_MS, FollowLogs
from agent.state import deployed_stack, hosts_of, wanted_replicas

LOOK_INTERVAL_S = 0.2  # for what has joined; it costs a comparison while nothing has
RETRY_S = 0.5  # before the second try to read a replica's output; doubled for each further one
MAX_RETRY_S = 8.0  # a host that comes back is shown soon enough
UNKNOWN_TRIES = (
    4  # a host learns of its assignments a moment later than we do; only then it is said that it has nothing
)

Placed = tuple[ReplicaKey, AgentId]


def asking(key: ReplicaKey, *, tail: int | None, since: str | None, follow: bool = False) -> FollowLogs:
    """The request for one replica's output."""
    return FollowLogs(stack=key.stack, service=key.service, slot=key.slot, tail=tail, since=since, follow=follow)


class Placements:
    """Where the matching replicas of a stack are, by this agent's state."""

    def __init__(self, driver: Driver, stack: str, *, service: str | None, slot: int | None) -> None:
        self._driver = driver
        self._stack, self._service, self._slot = stack, service, slot
        self._looked_at: dict[ReplicaKey, Assignment] | None = None
        self._found: frozenset[Placed] = frozenset()

    def now(self) -> frozenset[Placed]:
        """Each with its host; one that moves also with the host that it moves from."""
        assignments = self._driver.state.assignments
        if assignments is not self._looked_at:
            self._looked_at = assignments
            matching = ((key, each) for key, each in assignments.items() if self._matches(key))
            self._found = frozenset((key, host) for key, each in matching for host in hosts_of(each))
        return self._found

    @property
    def over(self) -> bool:
        """Whether no other replica can come: the stack is gone."""
        return self._stack not in self._driver.state.stacks

    @property
    def may_come(self) -> bool:
        """Whether the deploy in force has what is asked for, so that it is only a matter of time, or of room."""
        stack = self._driver.state.stacks.get(self._stack)
        if stack is None or stack.removing:
            return False
        counts = (
            wanted_replicas(stack, name, service)
            for name, service in deployed_stack(self._driver.state, stack).services.items()
            if self._service in (None, name)
        )
        return any(count == "global" or count >= (self._slot or 1) for count in counts)

    def _matches(self, key: ReplicaKey) -> bool:
        return key.stack == self._stack and self._service in (None, key.service) and self._slot in (None, key.slot)


class _Read(Struct):
    """How far a replica's output on one host was read. `last`: the newest line's time, where it has one."""

    until: float
    any: bool = False
    last: str = ""
    cut: bool = False


class Following:
    """One reader's follow. Invariant: each (replica, host) is read by at most one source."""

    def __init__(self, logs: LogService, placements: Placements, *, tail: int | None, since: str | None) -> None:
        self._logs, self._placements = logs, placements
        self._tail, self._since = tail, since
        self._first = placements.now()
        self._begun = time.monotonic()
        self._reads: dict[Placed, _Read] = {}
        self._open: set[Placed] = set()

    async def lines(self) -> AsyncGenerator[LogLine]:
        """Lines until the stack is gone and nothing of it writes any more."""
        async with aclosing(together(self._joining(), BUFFERED_LINES)) as batches:
            async for lines in batches:
                for line in lines:
                    yield line

    async def _joining(self) -> AsyncGenerator[AsyncGenerator[LogLine]]:
        while not self._placements.over:
            for placed in sorted(self._placements.now() - self._open):
                self._open.add(placed)
                yield self._source(placed)
            await asyncio.sleep(LOOK_INTERVAL_S)

    async def _source(self, placed: Placed) -> AsyncGenerator[LogLine]:
        """One replica on one host, for as long as it is placed there and until its last line."""
        key, host = placed
        read = self._reads.setdefault(placed, _Read(until=self._begun))
        tries = 0
        try:
            while True:
                try:
                    async with aclosing(self._go_on(placed, read)) as lines:
                        async for line in lines:
                            tries = 0
                            yield line
                except errors.MusterError as error:
                    tries += 1
                    if tries == (UNKNOWN_TRIES if isinstance(error, errors.NotFound) else 1):
                        yield self._logs.complaint(asking(key, tail=None, since=None), host, error)
                if placed not in self._placements.now():
                    return
                await asyncio.sleep(min(RETRY_S * 2 ** min(tries, UNKNOWN_TRIES), MAX_RETRY_S))
        finally:
            self._open.discard(placed)

    async def _go_on(self, placed: Placed, read: _Read) -> AsyncGenerator[LogLine]:
        """The lines after those that were read already."""
        before = read.last
        wanted = self._request(placed, read)
        read.cut = True
        async with aclosing(self._logs.read(wanted, placed[1])) as lines:
            async for line in lines:
                if line.at and line.at <= before:
                    continue
                read.any, read.last = True, max(line.at, read.last)
                yield line
        read.cut, read.until = False, time.monotonic()

    def _request(self, placed: Placed, read: _Read) -> FollowLogs:
        key, _ = placed
        if placed in self._first and not read.any and not read.cut and read.until == self._begun:
            return asking(key, tail=self._tail, since=self._since, follow=True)
        wanted = asking(key, tail=None, since=read.last or None, follow=True)
        if read.last:
            return wanted
        if read.any and read.cut:
            return replace(wanted, tail=0)
        return replace(wanted, within_ms=min(int((time.monotonic() - read.until) * 1000), MAX_WITHIN_MS))
