"""Contents of plans and images: received from operators, fetched from peers, kept while the ledger names them.

The agent to which an operator sent a file has it first; hosts that need it fetch it from there, and voters keep a copy
of every file that the ledger names, so that it outlives the agent that received it. The receiver asks for one window
after another, so a transfer never fills a link's queue. Shell (asyncio; files in threads).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable
from contextlib import aclosing, asynccontextmanager
from weakref import WeakValueDictionary

from agent import errors
from agent.model.stack import StackFile
from agent.model.types import AgentId, Digest
from agent.node.driver.loop import Driver
from agent.node.messages import MAX_BLOB_WINDOW_BYTES, BlobPart, FetchBlob, Reply
from agent.storage.blobs import BlobStore, BlobWriter
from agent.tasks import cancel_and_wait

logger = logging.getLogger(__name__)

WINDOW_TIMEOUT_S = 10.0  # for one window: 26 kB/s at least, else another member is asked
WINDOW_TRIES = 3  # in a row with one member; a part that its full queue dropped is asked for again
KEEP_INTERVAL_S = 30.0  # between two looks at what the ledger names
GRACE_S = 3600.0  # from an upload to the instruction that names it; an operator may be asked something in between
MAX_UPLOADS = 8  # at once; each has a file open, and the disk is one

Told = Callable[[int], None]
"""Called with the bytes that are here so far."""


class BlobService:
    """All methods on the event loop. `driver` is set before `open`."""

    driver: Driver

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self._locks: WeakValueDictionary[Digest, asyncio.Lock] = WeakValueDictionary()
        self._uploads = 0
        self._unnamed_since: dict[Digest, float] = {}
        self._keeping: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Begin to keep and to tidy. Raises StorageError."""
        await asyncio.to_thread(self.store.open)
        self._keeping = asyncio.create_task(self._keep_forever(), name="keeping blobs")

    async def close(self) -> None:
        """Cancel what is under way, which leaves nothing."""
        await cancel_and_wait(self._keeping)

    # From operators

    async def size(self, digest: Digest) -> int | None:
        """Its size in bytes, None when this agent doesn't have it. Whoever asks wants to use it, so its grace begins
        again.
        """
        self._unnamed_since.pop(digest, None)
        return await asyncio.to_thread(self.store.size, digest)

    async def put(self, digest: Digest, size: int, content: AsyncIterator[bytes]) -> None:
        """Store what an operator's token names. Raises InputError when it is something else,
        TooMany or Unprocessable.
        """
        if self._uploads >= MAX_UPLOADS:
            raise errors.TooMany(f"{MAX_UPLOADS} uploads are under way here", fix="Try again in a moment.")
        self._uploads += 1
        try:
            async with self._writing(digest, size) as writer:
                async for data in content:
                    await asyncio.to_thread(writer.write, data)
                await asyncio.to_thread(writer.commit)
        finally:
            self._uploads -= 1
            self._unnamed_since.pop(digest, None)

    # Between peers

    async def answer(self, _peer: AgentId, request: FetchBlob) -> AsyncGenerator[Reply]:
        """A member wants the next window of a content."""
        data = await asyncio.to_thread(self.store.read, request.digest, request.offset, MAX_BLOB_WINDOW_BYTES)
        if data is None:
            raise errors.NotFound("this agent doesn't have it", where=request.digest)
        yield BlobPart(offset=request.offset, data=data)

    async def fetch(self, digest: Digest, size: int, told: Told, sources: Iterable[AgentId] | None = None) -> None:
        """Get it here, unless it is here already, from one of `sources` (else any member).

        Raises NotFound when all of them say that they don't have it, Unreachable when one couldn't be asked.
        """
        lock = self._locks.setdefault(digest, asyncio.Lock())
        async with lock:
            if await asyncio.to_thread(self.store.size, digest) is not None:
                return
            async with self._writing(digest, size) as writer:
                if not size:
                    await asyncio.to_thread(writer.commit)
                    return
                unasked: list[str] = []
                for peer in self._members() if sources is None else sources:
                    try:
                        await self._fetch_from(peer, digest, size, writer, told)
                    except errors.NotFound:
                        continue
                    except errors.MusterError as error:
                        unasked.append(f"{self.driver.core.context.name_of(peer)}: {error.what}")
                        continue
                    if await asyncio.to_thread(writer.matches):
                        await asyncio.to_thread(writer.commit)
                        return
                    await asyncio.to_thread(writer.restart)
                    unasked.append(f"{self.driver.core.context.name_of(peer)} sent another content")
        if unasked:
            raise errors.Unreachable("; ".join(unasked))
        raise errors.NotFound("no member has it")

    async def _fetch_from(self, peer: AgentId, digest: Digest, size: int, writer: BlobWriter, told: Told) -> None:
        """Fetch all windows that are missing; what another member has sent so far is kept. Raises MusterError."""
        async with self.driver.visits.linked(peer):
            tries = 0
            while writer.written < size:
                try:
                    async with asyncio.timeout(WINDOW_TIMEOUT_S):
                        part = await self._window(peer, FetchBlob(digest=digest, offset=writer.written))
                except TimeoutError:
                    tries += 1
                    if tries == WINDOW_TRIES:
                        raise errors.TimedOut(f"nothing came within {WINDOW_TIMEOUT_S:g} s") from None
                    continue
                if part.offset != writer.written or not part.data:
                    raise errors.MusterError("it has less of it than was announced")
                tries = 0
                await asyncio.to_thread(writer.write, part.data)
                told(writer.written)

    async def _window(self, peer: AgentId, request: FetchBlob) -> BlobPart:
        async with aclosing(self.driver.requests.call(peer, request)) as replies:
            async for reply in replies:
                if isinstance(reply, BlobPart):
                    return reply
        raise errors.MusterError("it sent no answer to the question")

    @asynccontextmanager
    async def _writing(self, digest: Digest, size: int) -> AsyncIterator[BlobWriter]:
        """A writer that leaves nothing unless it is committed."""
        writer = await asyncio.to_thread(self.store.begin, digest, size)
        try:
            yield writer
        finally:
            await asyncio.shield(asyncio.to_thread(writer.abort))

    def _members(self) -> list[AgentId]:
        """Everybody else: the coordinator first, linked ones before others."""
        context = self.driver.core.context
        others = [member for member in context.state.members if member != context.id]
        return sorted(others, key=lambda member: (member != context.leader, member not in context.peers, member))

    # Keeping

    def named(self) -> dict[Digest, StackFile]:
        """Every file that an instruction in force names."""
        signed = self.driver.state.signed.values()
        return {file.digest: file for each in signed for file in each.stack.files.values()}

    async def _keep_forever(self) -> None:
        while True:
            await asyncio.sleep(KEEP_INTERVAL_S)
            await self.keep(time.monotonic())

    async def keep(self, now: float) -> None:
        """Remove what nobody has named for GRACE_S; a voter fetches what is named and missing."""
        named = self.named()
        try:
            present = await asyncio.to_thread(self.store.digests)
            self._unnamed_since = {digest: self._unnamed_since.get(digest, now) for digest in present - named.keys()}
            for digest, since in list(self._unnamed_since.items()):
                if now - since >= GRACE_S:
                    await asyncio.to_thread(self.store.remove, digest)
        except OSError as error:
            logger.warning("contents can't be tidied: %s", error.strerror)
            return
        if self.driver.core.context.id not in self.driver.core.context.raft.configuration.voters:
            return
        for digest in sorted(named.keys() - present):
            try:
                await self.fetch(digest, named[digest].size, lambda _: None)
            except (errors.MusterError, OSError) as error:
                logger.debug("content %s can't be kept yet: %s", digest[:12], error)
