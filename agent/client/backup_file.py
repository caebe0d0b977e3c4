"""Backup files on the disk: written whole or not at all, and read only once everything in them was verified."""

from __future__ import annotations

import asyncio
import hashlib
import os
import secrets
import tarfile
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, ParamSpec, Self, TypeVar

import msgspec
from msgspec import Struct

from agent.errors import Conflict, InputError, MusterError
from agent.formats.backup import MANIFEST, MAX_MANIFEST_BYTES, SIGNATURE, Manifest, Part, decode_manifest
from agent.model.types import Digest

_BLOCK_BYTES = 512  # tar's
_READ_BYTES = 1_048_576

_P = ParamSpec("_P")
_T = TypeVar("_T")
_DAMAGED = "Use another copy of it; nothing was changed."


class BackupWriter:
    """Writes parts one after another; `finish` completes the file. A context manager: without `finish` nothing stays.

    The file is written in one thread of its own, so that a command can draw and hear Ctrl-C while the disk is slow. If
    cancelled, the file is removed after the write that was under way.

    Raises Conflict when the file exists, since a backup is never overwritten, and MusterError when the disk refuses.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.parts: list[Part] = []
        self._beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="backup")
        self._file: BinaryIO

    async def __aenter__(self) -> Self:
        try:
            self._file = await self._do(self._open)
        except BaseException:
            self._thread.submit(self._beside.unlink, missing_ok=True)  # cancelled, it may have been made after all
            self._thread.shutdown(wait=False)
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        try:
            await self._do(self._close)
        finally:
            self._thread.shutdown(wait=False)
        if isinstance(error, OSError):
            raise MusterError(f"can't be written: {error.strerror}", where=str(self.path)) from None

    async def add(
        self, part: Part, content: AsyncIterator[bytes], told: Callable[[int], None] = lambda _: None
    ) -> Part:
        """Append a part; its size and sha256 are those of what came. What a failed `content` left is taken back."""
        start, found, size = await self._do(self._begin), hashlib.sha256(), 0
        try:
            async for data in content:
                await self._do(self._append, data, found)
                size += len(data)
                told(size)
        except BaseException:
            await self._do(self._take_back, start)
            raise
        await self._do(self._end, start, part.name, size)
        part = msgspec.structs.replace(part, size=size, sha256=found.hexdigest())
        self.parts.append(part)
        return part

    async def finish(self, manifest: bytes, signature: str) -> int:
        """Manifest and signature, all of it on the disk, then the file's name. Its bytes."""
        return await self._do(self._finish, manifest, signature)

    async def _do(self, call: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, partial(call, *args, **kwargs))

    # In the thread

    def _open(self) -> BinaryIO:
        if self.path.exists():
            raise Conflict("the file exists, and a backup is never overwritten", where=str(self.path))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        try:
            return os.fdopen(os.open(self._beside, flags, 0o600), "w+b")
        except OSError as error:
            raise MusterError(f"can't be written: {error.strerror}", where=str(self.path)) from None

    def _close(self) -> None:
        with suppress(OSError):  # what a full disk refused was told already
            self._file.close()
        self._beside.unlink(missing_ok=True)

    def _begin(self) -> int:
        start = self._file.tell()
        self._file.write(bytes(_BLOCK_BYTES))
        return start

    def _append(self, data: bytes, found: hashlib._Hash) -> None:
        self._file.write(data)
        found.update(data)

    def _take_back(self, start: int) -> None:
        self._file.truncate(start)
        self._file.seek(start)

    def _end(self, start: int, name: str, size: int) -> None:
        self._file.write(bytes(-size % _BLOCK_BYTES))
        end = self._file.tell()
        self._file.seek(start)
        self._file.write(_header(name, size))
        self._file.seek(end)

    def _finish(self, manifest: bytes, signature: str) -> int:
        for name, data in ((MANIFEST, manifest), (SIGNATURE, signature.encode())):
            self._file.write(_header(name, len(data)) + data + bytes(-len(data) % _BLOCK_BYTES))
        self._file.write(bytes(2 * _BLOCK_BYTES))
        self._file.flush()
        os.fsync(self._file.fileno())
        size = self._file.tell()
        try:
            self.path.hardlink_to(self._beside)
        except FileExistsError:
            raise Conflict("the file exists, and a backup is never overwritten", where=str(self.path)) from None
        return size


class Backup(Struct, frozen=True, kw_only=True):
    """A verified file: the manifest is the signed one, and every part is as the manifest says.

    Who signed it remains to be checked: `signature` and `manifest_bytes` are for `agent.instruction.read_backup`.
    """

    path: Path
    manifest: Manifest
    manifest_bytes: bytes
    signature: str
    starts: dict[str, int]

    def read(self, part: Part) -> bytes:
        """All of a part; for small ones."""
        with self.path.open("rb") as file:
            file.seek(self.starts[part.name])
            return file.read(part.size)

    async def content(self, part: Part) -> AsyncIterator[bytes]:
        """A part, piece by piece."""
        with await asyncio.to_thread(self.path.open, "rb") as file:
            file.seek(self.starts[part.name])
            left = part.size
            while left:
                data = await asyncio.to_thread(file.read, min(left, _READ_BYTES))
                if not data:
                    raise InputError("it ended early: it was changed while it was read", where=str(self.path))
                left -= len(data)
                yield data

    def extract(self, part: Part, target: Path) -> None:
        """A part as a file of its own, 0600."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        with self.path.open("rb") as file, os.fdopen(os.open(target, flags, 0o600), "wb") as out:
            file.seek(self.starts[part.name])
            left = part.size
            while left and (data := file.read(min(left, _READ_BYTES))):
                out.write(data)
                left -= len(data)


def open_backup(path: Path, told: Callable[[int], None] = lambda _: None) -> Backup:
    """Read and verify all of it, and tell how many bytes were. Blocks.

    Raises InputError: no file, not a backup, damaged, or of a later version.
    """
    try:
        with path.open("rb") as file:
            return _verified(path, file, told)
    except FileNotFoundError:
        raise InputError("there is no such file", where=str(path)) from None
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", where=str(path)) from None


def _verified(path: Path, file: BinaryIO, told: Callable[[int], None]) -> Backup:
    starts: dict[str, int] = {}
    sizes: dict[str, int] = {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            for member in tar:
                if not member.isreg() or member.name in starts:
                    raise _damaged(path, f"it has {member.name!r} twice, or as no plain file")
                starts[member.name], sizes[member.name] = member.offset_data, member.size
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise _damaged(path, f"no backup, or a damaged one: {error}") from None
    if MANIFEST not in starts or SIGNATURE not in starts or sizes[MANIFEST] > MAX_MANIFEST_BYTES:
        raise _damaged(path, "its end is missing: it isn't whole, or it's no backup")

    def read(name: str) -> bytes:
        file.seek(starts[name])
        return file.read(sizes[name])

    data, signature = read(MANIFEST), read(SIGNATURE).decode("ascii", "replace")
    manifest = decode_manifest(data, where=str(path))
    named = {part.name: part for part in manifest.parts}
    if extra := sorted(starts.keys() - named.keys() - {MANIFEST, SIGNATURE}):
        raise _damaged(path, f"{extra[0]} isn't in its manifest")
    for part in manifest.parts:
        if sizes.get(part.name) != part.size or _digest(file, starts[part.name], part.size, told) != part.sha256:
            raise _damaged(path, f"{part.name} is damaged or missing")
    return Backup(path=path, manifest=manifest, manifest_bytes=data, signature=signature, starts=starts)


def _digest(file: BinaryIO, start: int, size: int, told: Callable[[int], None]) -> Digest:
    found = hashlib.sha256()
    file.seek(start)
    while size and (data := file.read(min(size, _READ_BYTES))):
        found.update(data)
        size -= len(data)
        told(file.tell())
    return found.hexdigest() if not size else ""


def _damaged(path: Path, what: str) -> InputError:
    return InputError(what, where=str(path), fix=_DAMAGED)


def _header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o600, int(time.time())
    return info.tobuf(tarfile.GNU_FORMAT)


async def whole(data: bytes) -> AsyncIterator[bytes]:
    """Bytes that are here already, as a part's content."""
    yield data


__all__ = ["Backup", "BackupWriter", "open_backup", "whole"]
