"""Power is lost at any moment of any write: the ledger is what it was at the last sync point, or at the next one."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.raft import Boot
from agent.storage.ledger import Ledger
from tests.storage.contract import GENESIS, Model, write

AGENT = "a" * 26
WRITES = 24
CUTS = 4  # of each write: what had reached the platter when the power went


@dataclass(frozen=True)
class SyncPoint:
    """The files after an fsync, and what a start has to find in them."""

    files: dict[str, bytes]
    wanted: Boot


def files_of(directory: Path) -> dict[str, bytes]:
    """Database and write-ahead log. The index in shared memory (-shm) isn't kept over a loss of power."""
    return {file.name: file.read_bytes() for file in directory.iterdir() if not file.name.endswith("-shm")}


async def history(directory: Path, seed: int) -> list[SyncPoint]:
    """Some writes, each to its end."""
    model, points = Model(random.Random(seed)), []
    await asyncio.to_thread(directory.mkdir)
    ledger, boot = await Ledger.open(directory / "ledger.db", agent_id=AGENT, genesis_entry=GENESIS)
    for _ in range(WRITES):
        await write(ledger, model.step())
        wanted = Boot(
            hard_state=model.hard_state,
            snapshot=model.snapshot,
            entries=tuple(model.entries),
            commit=model.commit,
            verified_through=boot.verified_through,
            starts=boot.starts + 1,
            lives=model.lives,
            names=model.names,
        )
        points.append(SyncPoint(await asyncio.to_thread(files_of, directory), wanted))
    await ledger.close()
    return points


def torn(before: SyncPoint, after: SyncPoint, rng: random.Random) -> Iterator[dict[str, bytes]]:
    """The log of `after` as far as it got, and what a disk may leave behind it: nothing, zeros, or something old."""
    (wal,) = [name for name in after.files if name.endswith("-wal")]
    known, new = len(before.files.get(wal, b"")), after.files[wal]
    if len(new) <= known or any(before.files.get(name) != data for name, data in after.files.items() if name != wal):
        return  # a checkpoint came between: the log began anew
    for _ in range(CUTS):
        cut = rng.randint(known, len(new) - 1)
        rest = len(new) - cut
        yield {**before.files, wal: new[:cut] + rng.choice([b"", bytes(rest), rng.randbytes(rest)])}


async def found(directory: Path, files: dict[str, bytes]) -> Boot:
    """What a start reads from these files."""

    def write() -> None:
        directory.mkdir()
        for name, data in files.items():
            (directory / name).write_bytes(data)

    await asyncio.to_thread(write)
    ledger, boot = await Ledger.open(directory / "ledger.db", agent_id=AGENT, genesis_entry=GENESIS)
    await ledger.close()
    return boot


@pytest.mark.parametrize("seed", range(3))
async def test_every_sync_point_is_found_again(tmp_path: Path, seed: int) -> None:
    for number, point in enumerate(await history(tmp_path / "first", seed)):
        assert await found(tmp_path / str(number), point.files) == point.wanted


@pytest.mark.parametrize("seed", range(3))
async def test_a_write_that_was_torn_never_was(tmp_path: Path, seed: int) -> None:
    rng, tried = random.Random(seed), 0
    points = await history(tmp_path / "first", seed)
    for before, after in itertools.pairwise(points):
        for files in torn(before, after, rng):
            tried += 1
            assert await found(tmp_path / str(tried), files) == before.wanted
    assert tried > WRITES
