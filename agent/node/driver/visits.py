"""Links that a part of this agent needs for a while, beside those that the core keeps."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager

from agent.errors import Unreachable
from agent.model.types import AgentId
from agent.node.core import NodeCore

LINK_WAIT_S = 3.0  # for a link to a member that we don't always keep one with; a dial takes a few round trips


class Visits:
    """`want` gets the set of all members to keep links with."""

    def __init__(self, core: NodeCore, want: Callable[[Iterable[AgentId]], None]) -> None:
        self._core = core
        self._want = want
        self._kept: frozenset[AgentId] = frozenset()
        self._visited: Counter[AgentId] = Counter()
        self._awaited: dict[AgentId, asyncio.Event] = {}

    def keep(self, peers: frozenset[AgentId]) -> None:
        """The members that the core keeps links with from now on."""
        self._kept = peers
        self._want(self._kept | self._visited.keys())

    def link_up(self, peer: AgentId) -> None:
        """A link is there: those that wait for it continue."""
        if (awaited := self._awaited.pop(peer, None)) is not None:
            awaited.set()

    @asynccontextmanager
    async def linked(self, peer: AgentId) -> AsyncGenerator[None]:
        """Get a link with a member, even one that consensus doesn't need. Raises Unreachable."""
        self._visited[peer] += 1
        self._want(self._kept | self._visited.keys())
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINK_WAIT_S):
                    while peer not in self._core.context.peers:
                        await self._awaited.setdefault(peer, asyncio.Event()).wait()
            if peer not in self._core.context.peers:
                raise unlinked(self._core, peer)
            yield
        finally:
            self._visited[peer] -= 1
            if not self._visited[peer]:
                del self._visited[peer]
                self._awaited.pop(peer, None)
            self._want(self._kept | self._visited.keys())


def unlinked(core: NodeCore, peer: AgentId) -> Unreachable:
    """The error when nothing gets to a member, or comes from it."""
    here, there = core.context.own_name, core.context.name_of(peer)
    return Unreachable(f"{here} has no link with {there}", fix="Ask another agent, or try again soon.")
