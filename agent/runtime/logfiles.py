"""Log files of plain processes: they write by themselves, so that no pipe ties them to the agent; we rotate and read.

Rotation copies and truncates: the writer keeps its descriptor (O_APPEND, so it goes on at the new end). Lines written
between copy and truncation are lost; they are few, and the process never waits for us. Shell (files).
"""

from __future__ import annotations

import asyncio
import os
import shutil
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Executor
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import Literal, cast

from agent.runtime.protocol import RawLine

MAX_LOG_BYTES = 10_000_000  # the same as Docker's json-file setting of the other runtime
LOG_FILES = 3  # the current one and two rotated
FOLLOW_INTERVAL_S = 0.2  # while somebody watches; shorter isn't seen
MAX_LINE_BYTES = 65_536  # a longer line is cut in pieces
MAX_BATCH_LINES = 1000  # read between two looks at the loop

Stream = Literal["stdout", "stderr"]
STREAMS: tuple[Stream, ...] = ("stdout", "stderr")


def rotated(path: Path, number: int) -> Path:
    """The file's `number`-th predecessor; 0 is itself."""
    return path if number == 0 else path.with_name(f"{path.name}.{number}")


def rotate(path: Path, max_bytes: int = MAX_LOG_BYTES) -> bool:
    """Rotate when the file is over `max_bytes`. Returns whether it did."""
    try:
        if path.stat().st_size <= max_bytes:
            return False
    except FileNotFoundError:
        return False
    for number in range(LOG_FILES - 2, 0, -1):
        if rotated(path, number).exists():
            os.replace(rotated(path, number), rotated(path, number + 1))
    shutil.copyfile(path, rotated(path, 1))
    os.chmod(rotated(path, 1), 0o600)
    os.truncate(path, 0)
    return True


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            while line := file.readline(MAX_LINE_BYTES):
                yield line
    except FileNotFoundError:
        return


def last_lines(path: Path, tail: int | None) -> tuple[list[bytes], int]:
    """The file's last `tail` lines (None: all), rotated ones included, and the offset behind them."""
    before = chain.from_iterable(_lines(rotated(path, number)) for number in range(LOG_FILES - 1, 0, -1))
    current: deque[bytes] = deque(maxlen=tail)
    offset = 0
    for line in _lines(path):
        offset += len(line)
        current.append(line)
    if tail is None:
        return [*before, *current], offset
    missing = tail - len(current)
    return [*(deque(before, maxlen=missing) if missing > 0 else ()), *current], offset


class _Reader:
    """Follows one growing file. Invariant: everything before `offset` was given out; `partial` has no line end yet."""

    def __init__(self, path: Path, offset: int) -> None:
        self._path = path
        self._offset = offset
        self._partial = b""

    def read(self) -> list[bytes]:
        try:
            with self._path.open("rb") as file:
                if os.fstat(file.fileno()).st_size < self._offset:
                    self._offset, self._partial = 0, b""  # it was rotated
                file.seek(self._offset)
                data = file.read(MAX_LINE_BYTES * 4)
        except FileNotFoundError:
            return []
        self._offset += len(data)
        lines = (self._partial + data).split(b"\n")
        self._partial = lines.pop()
        if len(self._partial) >= MAX_LINE_BYTES:
            lines.append(self._partial)
            self._partial = b""
        return lines


def _raw(stream: Stream, line: bytes) -> RawLine:
    return RawLine(at="", stream=stream, line=line.rstrip(b"\r\n").decode(errors="replace"))


async def read_logs(
    paths: dict[Stream, Path],
    executor: Executor,
    *,
    tail: int | None,
    since: datetime | None,
    follow: bool,
    alive: Callable[[], bool],
) -> AsyncIterator[RawLine]:
    """Lines of both streams; stdout's first, then as they come while `alive` says so.

    The files have no times: `since` leaves out a stream that was last written before, and nothing else.
    """
    loop = asyncio.get_running_loop()
    readers: list[tuple[Stream, _Reader]] = []
    for stream, path in paths.items():
        lines, offset = await loop.run_in_executor(executor, last_lines, path, tail)
        readers.append((stream, _Reader(path, offset)))
        if since is not None and await loop.run_in_executor(executor, _written_before, path, since.timestamp()):
            continue
        for line in lines:
            yield _raw(stream, line)
    while follow:
        going = alive()  # asked before reading, so that the last words are read
        for stream, reader in readers:
            for line in cast("list[bytes]", await loop.run_in_executor(executor, reader.read)):
                yield _raw(stream, line)
        if not going:
            return
        await asyncio.sleep(FOLLOW_INTERVAL_S)


def _written_before(path: Path, when: float) -> bool:
    try:
        return path.stat().st_mtime < when
    except FileNotFoundError:
        return True
