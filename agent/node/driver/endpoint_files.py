"""Keeps `<data_dir>/endpoints/<stack>/endpoints.json` as the ledger has it, for programs to read. Shell (files).

Containers have the directory mounted, read-only: a file that is mounted itself would stay the old one when it is
replaced. It is replaced in one step, so that nobody ever reads half of it; after a power cut it is written again.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from agent.host.desired import Desired
from agent.host.endpoints import FILE_NAME
from agent.model.types import Label

logger = logging.getLogger(__name__)


class EndpointFiles:
    """Call `keep` from one task. A disk that refuses is logged once, and tried again at the next call."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._written: Mapping[Label, bytes] | None = None
        self._refused = ""

    async def keep(self, desired: Desired) -> None:
        """The files of exactly this; nothing is done when it is what was kept last."""
        if desired.endpoints == self._written:
            return
        try:
            await asyncio.to_thread(self._bring, desired.endpoints)
        except OSError as error:
            if str(error) != self._refused:
                logger.warning("endpoint files: %s", error)
            self._refused = str(error)
            return
        self._written, self._refused = desired.endpoints, ""

    def _bring(self, wanted: Mapping[Label, bytes]) -> None:
        known = self._written or {}
        self._directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        for stack in os.listdir(self._directory):
            if stack not in wanted:
                shutil.rmtree(self._directory / stack, ignore_errors=True)
        for stack, content in wanted.items():
            if known.get(stack) != content:
                directory = self._directory / stack
                directory.mkdir(mode=0o755, exist_ok=True)
                beside = directory / f".{FILE_NAME}"
                beside.write_bytes(content)
                beside.chmod(0o644)  # programs in containers aren't root
                beside.replace(directory / FILE_NAME)
