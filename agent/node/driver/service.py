"""The agent as its API sees it (agent.api.port.NodePort), on top of the driver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing
from typing import Protocol

import msgspec

from agent import __version__, errors
from agent.model.api import ImageProgress, Recovery
from agent.model.doctor import HostAnswer
from agent.model.events import Event, LogLine
from agent.model.instruction import InstructionResult
from agent.model.status import AgentRef, Health, MemberView, Status
from agent.model.types import AgentId, Digest
from agent.model.usage import Usage
from agent.node.driver.auditing import AuditedLedger
from agent.node.driver.backup import BackupService
from agent.node.driver.blobs import BlobService
from agent.node.driver.doctor import DoctorService
from agent.node.driver.following import Following, Placements, asking
from agent.node.driver.images import ImageService
from agent.node.driver.logs import LogService
from agent.node.driver.loop import Driver, now
from agent.node.driver.usage import UsageService
from agent.node.driver.workers import WorkerService
from agent.node.messages import FollowLogs
from agent.state import ClusterState

QUEUED_EVENTS = 2_000  # a listener that is further behind has lost touch and is cut; it comes back with its last id


class Counts(Protocol):
    """What this agent counts beside the ledger, for SEED's status fields."""

    def network_services(self) -> int: ...

    def api_requests_total(self) -> int: ...


class Contents:
    """Files and images as the API takes them (agent.api.port.BlobPort)."""

    def __init__(self, blobs: BlobService, images: ImageService) -> None:
        self._blobs, self._images = blobs, images

    async def size(self, digest: Digest) -> int | None:
        """See BlobPort."""
        return await self._blobs.size(digest)

    async def put(self, digest: Digest, size: int, content: AsyncIterator[bytes]) -> None:
        """See BlobPort."""
        await self._blobs.put(digest, size, content)

    def load(self, token: str) -> AsyncGenerator[ImageProgress]:
        """See BlobPort."""
        return self._images.load(token)


class AgentService:
    """Requests in, answers out; raises MusterErrors."""

    def __init__(
        self,
        driver: Driver,
        logs: LogService,
        usage: UsageService,
        doctor: DoctorService,
        past: AuditedLedger,
        blobs: Contents,
        backup: BackupService,
        workers: WorkerService,
        counts: Counts,
        metrics: Callable[[], Awaitable[bytes]],
    ) -> None:
        self.blobs = blobs
        self.backup = backup
        self.past = past
        self.workers = workers
        self._driver = driver
        self._logs = logs
        self._usage = usage
        self._doctor = doctor
        self._counts = counts
        self._metrics = metrics
        self._listeners: set[asyncio.Queue[Event | None]] = set()
        driver.on_events = self._spread

    @property
    def me(self) -> AgentRef:
        """This agent."""
        context = self._driver.core.context
        return AgentRef(id=context.id, name=context.own_name)

    @property
    def state(self) -> ClusterState:
        """As applied here."""
        return self._driver.core.context.state

    def health(self) -> Health:
        """See NodePort."""
        context = self._driver.core.context
        leader = context.leader
        return Health(
            ok=leader is not None,
            name=context.own_name,
            coordinator=context.name_of(leader) if leader is not None else None,
            applied=context.state.index,
            agent_version=__version__,
            epoch=context.state.epoch,
            expelled=self._driver.core.expelled.keeps_out is not None,
        )

    async def submit(self, token: str, body: bytes) -> InstructionResult:
        """See NodePort."""
        return await self._driver.requests.submit(token, body)

    def recovery(self) -> Recovery:
        """See NodePort."""
        return self._driver.core.epochs.look(now())

    async def recover(self, token: str, body: bytes) -> InstructionResult:
        """See NodePort."""
        return await self._driver.recover(token, body)

    async def status(self) -> Status:
        """See NodePort. The two counts of SEED's are of what this agent itself hears and serves."""
        return msgspec.structs.replace(
            await self._driver.requests.status(),
            network_services=self._counts.network_services(),
            api_requests_total=self._counts.api_requests_total(),
        )

    def members(self) -> tuple[MemberView, ...]:
        """See NodePort."""
        return self._driver.core.members(now())

    def doctor(self, hosts: Sequence[str], *, log: bool) -> AsyncGenerator[HostAnswer]:
        """See NodePort."""
        return self._doctor.ask(hosts, log=log)

    async def usage(self, stack: str | None, visible: Callable[[str], bool]) -> Usage:
        """See NodePort."""
        return await self._usage.ask(stack, visible)

    async def metrics(self) -> bytes:
        """See NodePort."""
        return await self._metrics()

    async def events(self, *, after: int | None) -> AsyncGenerator[Event]:
        """See NodePort."""
        queue: asyncio.Queue[Event | None] = asyncio.Queue(QUEUED_EVENTS)
        if after is not None:
            for kept in self._driver.core.chronicle.recent:
                if kept.id > after:
                    queue.put_nowait(kept)
        self._listeners.add(queue)
        self._driver.listen(bool(self._listeners))
        try:
            while (event := await queue.get()) is not None:
                yield event
        finally:
            self._listeners.discard(queue)
            self._driver.listen(bool(self._listeners))

    async def logs(
        self, stack: str, *, service: str | None, slot: int | None, tail: int | None, since: str | None, follow: bool
    ) -> AsyncGenerator[LogLine]:
        """See NodePort."""
        placements = Placements(self._driver, stack, service=service, slot=slot)
        placed = placements.now()
        if not placed and not (follow and placements.may_come):
            raise self._nothing(stack, service, slot, placements)
        if follow:
            found = Following(self._logs, placements, tail=tail, since=since).lines()
        else:
            wanted: dict[AgentId, list[FollowLogs]] = {}
            for key, host in sorted(placed):
                wanted.setdefault(host, []).append(asking(key, tail=tail, since=since))
            found = self._logs.merge(wanted)
        async with aclosing(found) as lines:
            async for line in lines:
                yield line

    def _nothing(self, stack: str, service: str | None, slot: int | None, placements: Placements) -> errors.NotFound:
        known = self.state.stacks.get(stack)
        if known is None:
            listed = ", ".join(sorted(self.state.stacks)) or "none"
            return errors.NotFound(f"no stack {stack!r}", fix=f"Stacks here: {listed}.")
        what = f"{stack}/{service or '*'}" + (f".{slot}" if slot is not None else "")
        if placements.may_come:
            fix = "`agent logs -f` waits for the first line; `agent status` says what is waited for."
            return errors.NotFound(f"nothing of {what} has run yet: {stack} is {known.phase}", fix=fix)
        return errors.NotFound(f"no replica matches {what}", fix=f"See `agent ps`; {stack} is {known.phase}.")

    def _spread(self, events: tuple[Event, ...]) -> None:
        for queue in list(self._listeners):
            for event in events:
                if queue.full():
                    self._listeners.discard(queue)
                    while not queue.empty():
                        queue.get_nowait()
                    queue.put_nowait(None)
                    break
                queue.put_nowait(event)
