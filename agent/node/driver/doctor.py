"""Asks every host how it is: `agent doctor` through any member. Shell (asyncio).

Each host answers for itself over the peer link. One that this agent can't reach is asked by a member that reaches it,
so that both ends of a broken path are heard. Everything is bounded in time, even with dead hosts.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, aclosing

import msgspec

from agent import errors
from agent.model.doctor import HostAnswer
from agent.model.types import AgentId
from agent.node.driver.checkup import Checkup
from agent.node.driver.loop import Driver
from agent.node.messages import Examine, Examined, Reply
from agent.tasks import cancel_and_wait

ALL_WITHIN_S = 8.0  # a person waits at most 10 s, of which the command needs some to find a member
LINK_WITHIN_S = 1.0  # for a link that isn't there; then another member is asked
ANSWER_WITHIN_S = 5.0  # an examination takes 1 to 2 s, and 3 s where a part of it hangs
RELAYS_TRIED = 2  # members asked about a host that we can't reach


class DoctorService:
    """Both sides: `ask` for this agent's API, `answer` for peers."""

    def __init__(self, driver: Driver, checkup: Checkup) -> None:
        self._driver, self._checkup = driver, checkup

    async def ask(self, names: Sequence[str], *, log: bool = False) -> AsyncGenerator[HostAnswer]:
        """An answer of each named member, or of all, as they come; of this host alone if it was expelled.

        Raises NotFound for names that aren't members'.
        """
        members = {member.name: member.id for member in self._driver.state.members.values()}
        if unknown := sorted(set(names) - members.keys()):
            listed = ", ".join(sorted(members))
            raise errors.NotFound(f"no member is called {', '.join(unknown)}", fix=f"Members: {listed}.")
        known = members if self._driver.core.expelled.keeps_out is None else {}
        asked = [members[name] for name in sorted(names or known)] or [self._driver.core.context.id]
        tasks = {asyncio.create_task(self._answer_of(host, log), name=f"doctor {host}"): host for host in asked}
        deadline = asyncio.get_running_loop().time() + ALL_WITHIN_S
        try:
            waiting = set(tasks)
            while waiting:
                left = deadline - asyncio.get_running_loop().time()
                done, waiting = await asyncio.wait(waiting, timeout=left, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    yield task.result()
                if not done:
                    break
            for task in waiting:
                yield self._silent(tasks[task], f"no answer within {ALL_WITHIN_S:g} s", "")
        finally:
            await cancel_and_wait(*tasks)

    async def answer(self, _peer: AgentId, request: Examine) -> AsyncGenerator[Reply]:
        """A member asks: about this host, or about one that it can't reach."""
        me = self._driver.core.context.id
        if request.host in (None, me):
            yield Examined(answer=await self._own(request.log))
            return
        if request.host not in self._driver.state.members:
            raise errors.NotFound("no member has this id", where=request.host)
        yield Examined(answer=await self._direct(request.host, Examine(log=request.log)))

    async def _answer_of(self, host: AgentId, log: bool) -> HostAnswer:
        if host == self._driver.core.context.id:
            return await self._own(log)
        try:
            return await self._direct(host, Examine(log=log))
        except errors.MusterError as error:
            relayed = await self._relayed(host, log)
            return relayed or self._silent(host, error.what, error.fix)

    async def _own(self, log: bool) -> HostAnswer:
        context = self._driver.core.context
        found = await self._checkup.examine(log=log)
        return HostAnswer(id=context.id, host=context.own_name, examination=found)

    async def _direct(self, host: AgentId, request: Examine) -> HostAnswer:
        """The host's own answer. Raises Unreachable or TimedOut."""
        context = self._driver.core.context
        async with AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(LINK_WITHIN_S):
                    await stack.enter_async_context(self._driver.visits.linked(host))
            except TimeoutError:
                here, there = context.own_name, context.name_of(host)
                fix = f"Ask it itself: `sudo agent doctor` on {there}."
                raise errors.Unreachable(f"{here} has no link with {there}", fix=fix) from None
            return await self._call(host, request, host)

    async def _relayed(self, host: AgentId, log: bool) -> HostAnswer | None:
        """Its answer through a member that reaches it; None when none does."""
        for relay in sorted(self._driver.core.context.peers)[:RELAYS_TRIED]:
            if relay == host or relay not in self._driver.state.members:
                continue
            try:
                return await self._call(relay, Examine(host=host, log=log), host)
            except errors.MusterError:
                continue
        return None

    async def _call(self, peer: AgentId, request: Examine, about: AgentId) -> HostAnswer:
        try:
            async with asyncio.timeout(ANSWER_WITHIN_S), aclosing(self._driver.requests.call(peer, request)) as replies:
                async for reply in replies:
                    if isinstance(reply, Examined):
                        return self._heard(reply.answer, about)
        except TimeoutError:
            raise errors.TimedOut(f"no answer within {ANSWER_WITHIN_S:g} s") from None
        raise errors.MusterError("it ended without an answer")

    def _heard(self, answer: HostAnswer, about: AgentId) -> HostAnswer:
        """The answer under the name of the host that was asked, whatever name it gives itself; with its clock against
        ours, now.
        """
        name = self._driver.core.context.name_of(about)
        found, offset_ms = answer.examination, 0
        if found is not None:
            found = msgspec.structs.replace(found, id=about, name=name)
            offset_ms = found.wall_ms - time.time_ns() // 1_000_000
        return msgspec.structs.replace(answer, id=about, host=name, examination=found, offset_ms=offset_ms)

    def _silent(self, host: AgentId, what: str, fix: str) -> HostAnswer:
        return HostAnswer(id=host, host=self._driver.core.context.name_of(host), what=what, fix=fix)
