"""Log files of plain processes: they write by themselves, so that no pipe ties them to the agent; we rotate and read.

Rotation copies and truncates: the writer keeps its descriptor (O_APPEND, so it goes on at the new end). Lines written
between copy and truncation are lost; they are few, and the process never waits for us. Shell (files).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping
from concurrent.futures import Executor
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import BinaryIO, Literal, cast

from agent.runtime.protocol import RawLine

MAX_LOG_BYTES = 10_000_000  # the same as Docker's json-file setting of the other runtime
LOG_FILES = 3  # the current one and two rotated
FOLLOW_INTERVAL_S = 0.2  # while somebody watches; shorter isn't seen
MAX_LINE_BYTES = 65_536  # a longer line is cut in pieces

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


def written(paths: Mapping[Stream, Path]) -> dict[str, tuple[int, int]]:
    """Bytes of those that are there, and when they were written last (ms since the epoch)."""
    found: dict[str, tuple[int, int]] = {}
    for stream, path in paths.items():
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            found[stream] = (status.st_size, status.st_mtime_ns // 1_000_000)
    return found


def _lines(path: Path, begin: int = 0) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            file.seek(begin)
            while line := file.readline(MAX_LINE_BYTES):
                yield line
    except FileNotFoundError:
        return


def last_lines(path: Path, tail: int | None, begin: int = 0) -> tuple[list[bytes], int]:
    """The file's last `tail` lines (None: all), including rotated files, and the offset after them.

    `begin`: only what is after that many bytes. A shorter file was rotated since, and all of it counts.
    """
    if begin and path.exists() and path.stat().st_size >= begin:
        lines: deque[bytes] = deque(maxlen=tail)
        for line in _lines(path, begin):
            begin += len(line)
            lines.append(line)
        return list(lines), begin
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
    """Follows one growing file. Invariant: everything before `offset` was given out; `partial` has no line end yet.

    The file stays open while it is read, so that another one at its path is known by its number.
    """

    def __init__(self, path: Path, offset: int) -> None:
        self._path = path
        self._offset = offset
        self._partial = b""
        self._file: BinaryIO | None = None

    def read(self) -> list[bytes]:
        try:
            there = self._path.stat()
            if self._file is None:
                self._file = self._path.open("rb")
            elif os.fstat(self._file.fileno()).st_ino != there.st_ino:  # it was deleted, with its stack, and is back
                self.close()
                self._file, self._offset, self._partial = self._path.open("rb"), 0, b""
        except FileNotFoundError:
            return []
        if there.st_size < self._offset:
            self._offset, self._partial = 0, b""  # it was rotated
        self._file.seek(self._offset)
        data = self._file.read(MAX_LINE_BYTES * 4)
        self._offset += len(data)
        lines = (self._partial + data).split(b"\n")
        self._partial = lines.pop()
        if len(self._partial) >= MAX_LINE_BYTES:
            lines.append(self._partial)
            self._partial = b""
        return lines

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


def _raw(stream: Stream, line: bytes) -> RawLine:
    return RawLine(at="", stream=stream, line=line.rstrip(b"\r\n").decode(errors="replace"))


async def read_logs(
    paths: dict[Stream, Path],
    executor: Executor,
    *,
    tail: int | None,
    since: datetime | None,
    before: Mapping[str, int],
    follow: bool,
    alive: Callable[[], bool],
) -> AsyncGenerator[RawLine]:
    """Lines of both streams; stdout's first, then as they come while `alive` says so.

    The files have no times: `since` leaves out a stream that was last written before, and the first `before[stream]`
    bytes of others.
    """
    loop = asyncio.get_running_loop()
    readers: list[tuple[Stream, _Reader]] = []
    for stream, path in paths.items():
        lines, offset = await loop.run_in_executor(executor, last_lines, path, tail, before.get(stream, 0))
        readers.append((stream, _Reader(path, offset)))
        if since is not None and await loop.run_in_executor(executor, _written_before, path, since.timestamp()):
            continue
        for line in lines:
            yield _raw(stream, line)
    with contextlib.ExitStack() as closing:
        for _, reader in readers:
            closing.callback(reader.close)
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
