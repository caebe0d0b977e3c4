"""What a replica needs on its host before it starts, beside its image: the plan's files that it mounts. Shell."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Protocol

from agent import errors
from agent.host.desired import Desired
from agent.host.files import newest_files
from agent.model.spec import MountedFile, ReplicaSpec
from agent.model.types import Digest, Label
from agent.runtime.protocol import Progress
from agent.storage.stack_files import StackFiles


class Contents(Protocol):
    """The part of agent.node.driver.blobs.BlobService that is used here."""

    async def fetch(self, digest: Digest, size: int, told: Callable[[int], None]) -> None: ...


class Supplies:
    """All methods on the event loop. Fetching may take long and be cancelled; what was put in place stays."""

    def __init__(self, contents: Contents, files: StackFiles) -> None:
        self._contents = contents
        self._files = files
        self._wanted: dict[Label, dict[str, MountedFile]] = {}
        self._laying: defaultdict[Label, asyncio.Lock] = defaultdict(asyncio.Lock)

    def want(self, desired: Desired) -> None:
        """What this host has to run from now on."""
        self._wanted = newest_files((*desired.specs, *desired.stopped))

    async def fetch(self, spec: ReplicaSpec, progress: Progress) -> None:
        """Get the contents here; nothing changes for a running predecessor. Raises as `lay`."""
        for file in await self._lacking(spec):
            await self._fetch(file, progress)

    async def lay(self, spec: ReplicaSpec, progress: Progress) -> None:
        """Put the files where the replica mounts them.

        Raises NotFound when no member has a content, other MusterErrors when it may work later.
        """
        stack = spec.key.stack
        if not spec.files:
            return
        async with self._laying[stack]:
            for file in await self._lacking(spec):
                await self._fetch(file, progress)
                await asyncio.to_thread(self._files.lay, stack, file)

    async def sweep(self, in_use: Collection[Label]) -> None:
        """Remove files of stacks that this host no longer has to do with."""
        await asyncio.to_thread(self._files.sweep, {}, frozenset(in_use))

    async def _lacking(self, spec: ReplicaSpec) -> tuple[MountedFile, ...]:
        if not spec.files:
            return ()
        newest = self._wanted.get(spec.key.stack, {})
        files = [newest.get(file.path, file) for file in spec.files]
        return await asyncio.to_thread(self._files.lacking, spec.key.stack, files)

    async def _fetch(self, file: MountedFile, progress: Progress) -> None:
        def told(done: int) -> None:
            progress("pulling", f"file ./{file.path}: {done * 100 // file.size} % of {file.size} bytes")

        progress("pulling", f"file ./{file.path}")
        try:
            await self._contents.fetch(file.digest, file.size, told)
        except errors.NotFound:
            raise errors.NotFound(
                f"file ./{file.path} of the plan isn't with any member",
                fix="Deploy it again from where the plan's files are.",
            ) from None
        except errors.MusterError as error:
            raise errors.MusterError(f"file ./{file.path} of the plan can't be had: {error.what}") from error
