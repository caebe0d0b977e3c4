"""What replicas use on every host that has some: sampled when asked, over the peer link. Shell (asyncio)."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Protocol

from agent import errors
from agent.model.types import AgentId, Label
from agent.model.usage import ReplicaUsage, SilentHost, Usage
from agent.node.driver.loop import Driver
from agent.node.messages import GetUsage, Reply, UsageIs
from agent.state import hosts_of

WITHIN_S = 6.0  # two samples of a host with a hundred containers take 2 s; a person waits no longer


class LocalUsage(Protocol):
    """What this host's hosting offers."""

    async def usage(self, stack: Label | None, host: str) -> tuple[ReplicaUsage, ...]: ...


class UsageService:
    """Both sides: `ask` for this agent's API, `answer` for peers."""

    def __init__(self, driver: Driver, local: LocalUsage) -> None:
        self._driver, self._local = driver, local

    async def ask(self, stack: Label | None, visible: Callable[[Label], bool]) -> Usage:
        """All hosts' with replicas of the stack, or of all that are visible; ends within WITHIN_S."""
        placed = self._driver.state.assignments
        wanted = (each for key, each in placed.items() if stack in (None, key.stack) and visible(key.stack))
        hosts = {host for each in wanted for host in hosts_of(each)}
        name_of = self._driver.core.context.name_of
        ordered = sorted(hosts, key=name_of)
        answers = await asyncio.gather(*(self._of(host, stack) for host in ordered))
        used = [each for answer in answers if not isinstance(answer, SilentHost) for each in answer]
        chosen = [each for each in used if visible(each.stack) and stack in (None, each.stack)]
        return Usage(
            replicas=tuple(sorted(chosen, key=lambda each: (each.stack, each.service, each.slot, each.host))),
            silent=tuple(answer for answer in answers if isinstance(answer, SilentHost)),
        )

    async def answer(self, _peer: AgentId, wanted: GetUsage) -> AsyncGenerator[Reply]:
        """A peer asks for this host's."""
        yield UsageIs(replicas=await self._own(wanted.stack))

    async def _own(self, stack: Label | None) -> tuple[ReplicaUsage, ...]:
        context = self._driver.core.context
        return await self._local.usage(stack, context.own_name)

    async def _of(self, host: AgentId, stack: Label | None) -> tuple[ReplicaUsage, ...] | SilentHost:
        name = self._driver.core.context.name_of(host)
        try:
            async with asyncio.timeout(WITHIN_S):
                if host == self._driver.core.context.id:
                    return await self._own(stack)
                return await self._call(host, GetUsage(stack=stack), name)
        except TimeoutError:
            return SilentHost(host=name, reason=f"no answer within {WITHIN_S:g} s")
        except errors.MusterError as error:
            return SilentHost(host=name, reason=error.what)

    async def _call(self, host: AgentId, wanted: GetUsage, name: str) -> tuple[ReplicaUsage, ...] | SilentHost:
        async with self._driver.visits.linked(host), aclosing(self._driver.requests.call(host, wanted)) as replies:
            async for reply in replies:
                if isinstance(reply, UsageIs):
                    # A host speaks for itself only.
                    return tuple(each for each in reply.replicas if each.host == name)
        return SilentHost(host=name, reason="it ended without an answer")
