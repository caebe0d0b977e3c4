"""What a backup reads from this agent, and what a restore brings to it. Shell (asyncio; files in threads)."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from pathlib import Path
from typing import BinaryIO

from agent import errors
from agent.model.types import Digest, Label
from agent.node.driver.blobs import BlobService
from agent.node.driver.hosting import Hosting
from agent.state import encode_snapshot
from agent.telemetry.api_log import log_files

PART_BYTES = 262_144
MAX_TRANSFERS = 4  # at once; each keeps a thread and the disk busy


class BackupService:
    """Implements agent.api.port.BackupPort."""

    def __init__(self, blobs: BlobService, hosting: Hosting, api_log: Path) -> None:
        self._blobs, self._hosting, self._api_log = blobs, hosting, api_log
        self._transfers = 0

    def state(self) -> bytes:
        """See BackupPort."""
        return encode_snapshot(self._blobs.driver.state)

    async def file(self, digest: Digest) -> AsyncGenerator[bytes]:
        """See BackupPort."""
        named = self._blobs.named().get(digest)
        if named is None:
            raise errors.NotFound("no deploy in force names this file", where=digest)
        await self._blobs.fetch(digest, named.size, lambda _: None)
        async for data in self._stream(lambda target: _copy([self._blobs.store.path(digest)], target)):
            yield data

    async def api_log(self) -> AsyncGenerator[bytes]:
        """See BackupPort."""
        files = await asyncio.to_thread(log_files, self._api_log)
        async for data in self._stream(lambda target: _copy(files, target)):
            yield data

    async def volume(self, stack: Label, name: str) -> AsyncGenerator[bytes]:
        """See BackupPort."""
        from agent.runtime import volumes  # with `tarfile`, which no start needs

        path = await self._hosting.volume_path(stack, name)
        if path is None:
            raise errors.NotFound("this host has no such volume", where=f"{stack}/{name}")
        async for data in self._stream(lambda target: volumes.pack(path, target)):
            yield data

    async def put_volume(
        self, stack: Label, name: str, digest: Digest, size: int, content: AsyncIterator[bytes]
    ) -> None:
        """See BackupPort."""
        from agent.runtime import volumes

        self._check_unused(stack)
        await self._blobs.put(digest, size, content)
        try:
            path = await self._hosting.volume_path(stack, name, make=True)
            assert path is not None
            self._check_unused(stack)
            await asyncio.to_thread(volumes.unpack, self._blobs.store.path(digest), path)
        except OSError as error:
            what = f"can't be put back: {(error.strerror or 'error').lower()}"
            raise errors.MusterError(
                what, where=f"{stack}/{name}", fix="The volume is as it was; `df` says more."
            ) from None
        finally:
            if digest not in self._blobs.named():
                await asyncio.to_thread(self._blobs.store.remove, digest)

    def _check_unused(self, stack: Label) -> None:
        if self._hosting.runs(stack):
            what = f"replicas of {stack} run here, and use their volumes"
            raise errors.Conflict(what, where=f"stack:{stack}", fix=f"Stop them first: agent stop {stack}")

    async def _stream(self, write: Callable[[BinaryIO], None]) -> AsyncGenerator[bytes]:
        """The bytes that `write` writes in a thread of its own, as they come. Raises as `write`, OSError as
        MusterError.
        """
        if self._transfers >= MAX_TRANSFERS:
            raise errors.TooMany(f"{MAX_TRANSFERS} transfers are under way here", fix="Try again in a moment.")
        self._transfers += 1
        reading, writing = os.pipe()

        def run() -> None:
            with os.fdopen(writing, "wb") as target, contextlib.suppress(BrokenPipeError):
                write(target)

        writer = asyncio.create_task(asyncio.to_thread(run))
        reader = asyncio.create_task(asyncio.to_thread(os.read, reading, PART_BYTES))
        try:
            while data := await asyncio.shield(reader):
                yield data
                reader = asyncio.create_task(asyncio.to_thread(os.read, reading, PART_BYTES))
        finally:
            self._transfers -= 1
            # Not while a thread reads it: the number would be another file's by then.
            reader.add_done_callback(lambda _: os.close(reading))
            await asyncio.wait({reader, writer})
        if (error := writer.exception()) is not None:
            raise errors.MusterError(f"can't be read: {error}") from None


def _copy(paths: list[Path], target: BinaryIO) -> None:
    for path in paths:
        with path.open("rb") as source:
            while data := source.read(PART_BYTES):
                target.write(data)
