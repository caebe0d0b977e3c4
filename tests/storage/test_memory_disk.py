"""The simulator's disk keeps the contract that the real one keeps, so that what it shows holds there too."""

from __future__ import annotations

import pytest

from agent.errors import InvariantBroken
from agent.raft import Boot, Persist, Snapshot
from agent.storage.ledger import Told
from tests.storage.contract import GENESIS, LogStorageContract
from tests.support.memory_disk import MemoryDisk


class OpenLog:
    """One life's hold on the disk: after a refusal it takes nothing any more."""

    def __init__(self, disk: MemoryDisk) -> None:
        self._disk = disk
        self._verified_through = 0
        self._refused = False

    def put(self, persist: Persist, told: Told) -> None:
        if self._refused:
            raise InvariantBroken("a write was refused before")
        if persist.truncate_from is not None:
            self._verified_through = min(self._verified_through, persist.truncate_from - 1)
        try:
            self._disk.write(persist, self._verified_through)
        except InvariantBroken as error:
            self._refused = True
            told(error)
        else:
            told(None)

    async def begin_epoch(self, snapshot: Snapshot) -> None:
        self._disk.begin_epoch(snapshot)

    def set_verified_through(self, index: int) -> None:
        self._verified_through = index


class InMemory:
    """Opens the one disk again and again."""

    def __init__(self) -> None:
        self._disk = MemoryDisk(GENESIS)

    async def open(self) -> tuple[OpenLog, Boot]:
        self._disk.starts += 1
        return OpenLog(self._disk), self._disk.boot()

    async def crash(self) -> None:
        """What was written stays."""


@pytest.fixture
def disk() -> InMemory:
    return InMemory()


class TestContract(LogStorageContract):
    """tests.support.memory_disk keeps the contract."""
