"""Keeps `<data_dir>/stacks/<stack>/docker-compose.yml` as what this host runs (docs/seed.md "Generated
docker-compose.yml"). Shell.

The files are for people and `docker-compose ps`; nothing is ever read back from them. 0600, since they hold the plans'
environments.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from pathlib import Path

from agent.errors import StorageError
from agent.host.desired import Desired
from agent.model.spec import ReplicaSpec
from agent.model.types import Label
from agent.storage.files import make_directory, write_private

logger = logging.getLogger(__name__)

FILE_NAME = "docker-compose.yml"


class ComposeFiles:
    """Call `keep` from one task. A disk that refuses is logged once, and tried again at the next call."""

    def __init__(self, data_dir: Path, *, publish_address: str) -> None:
        self._directory = data_dir / "stacks"
        self._publish_address = publish_address
        self._kept: Desired | None = None
        self._predecessors: tuple[ReplicaSpec, ...] = ()
        self._written: dict[Label, str] = {}
        self._refused = ""

    async def keep(self, desired: Desired) -> None:
        """The files of exactly this; nothing is done when it is what was kept last."""
        if desired == self._kept:
            return
        try:
            await asyncio.to_thread(self._bring, desired, first=self._kept is None)
        except StorageError as error:
            if str(error) != self._refused:
                logger.warning("compose files: %s", error)
            self._refused = str(error)
            return
        self._kept, self._refused = desired, ""

    def _bring(self, desired: Desired, *, first: bool) -> None:
        """The first time also removes what an agent before this one left."""
        wanted = self._texts(desired)
        present = {path.parent.name for path in self._directory.glob(f"*/{FILE_NAME}")} if first else set()
        for stack in sorted((present | self._written.keys()) - wanted.keys()):
            self._remove(stack)
            if stack not in desired.stacks:
                with contextlib.suppress(OSError):  # the stack's own files are there
                    (self._directory / stack).rmdir()
        for stack, text in wanted.items():
            if self._written.get(stack) != text:
                make_directory(self._directory / stack)
                write_private(self._directory / stack / FILE_NAME, text.encode())
                self._written[stack] = text

    def _texts(self, desired: Desired) -> dict[Label, str]:
        # Of what moved away the ledger tells where it was, not how it ran: that is what it was when this looked last.
        before = {spec.key: spec for spec in (*self._predecessors, *(self._kept.specs if self._kept else ()))}
        self._predecessors = tuple(before[key] for key in desired.kept if key in before)
        specs = sorted((*desired.specs, *desired.stopped, *self._predecessors), key=lambda spec: spec.key)
        if not any(spec.runtime == "docker" for spec in specs):
            return {}
        from agent.formats.compose import compose_files  # YAML's 18 ms and 1 MB are for hosts that have containers

        return compose_files(specs, publish_address=self._publish_address)

    def _remove(self, stack: Label) -> None:
        path = self._directory / stack / FILE_NAME
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise StorageError(f"can't be removed: {error.strerror}", where=str(path)) from error
        self._written.pop(stack, None)
