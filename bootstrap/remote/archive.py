"""A tarball that comes in blocks, written file by file: for two thirds of what tar and gzip would cost the host."""

from __future__ import annotations

import hashlib
import os
import zlib
from collections.abc import Iterator

from bootstrap.remote.wire import Failure

RECORD_BYTES = 512
MAX_FILE_BYTES = 268_435_456  # the largest library is 15 MB
MAX_NAME_BYTES = 4_096  # Linux's PATH_MAX
GZIP = 31  # zlib's window bits for a gzip header (zlib.h, inflateInit2)

_REGULAR, _LONG_NAME = (b"0", b"\0"), b"L"
"""Kinds of entries (tar(5), "GNU tar archives"): a file's content, and the name of the next entry where it is long."""


def extract(blocks: Iterator[bytes], directory: str) -> str:
    """Unpack the regular files of a gzip'd tarball below the directory; the sha256 of what came.

    Raises Failure for data that isn't such a tarball, OSError when the disk refuses.
    """
    stream = _Stream(blocks)
    made = {directory}
    name = b""
    try:
        while (head := stream.read(RECORD_BYTES)).strip(b"\0"):
            kind, size = head[156:157], int(head[124:136].strip(b"\0 "), 8)
            if size > (MAX_NAME_BYTES if kind == _LONG_NAME else MAX_FILE_BYTES):
                raise ValueError("too long")
            data = stream.read(-(-size // RECORD_BYTES) * RECORD_BYTES)
            if len(data) < size or len(head) < RECORD_BYTES:
                raise ValueError("cut")
            if kind == _LONG_NAME:
                name = data[:size]
            elif kind in _REGULAR:
                _write(_path(directory, name or head[:100]), memoryview(data)[:size], made)
                name = b""
            else:
                raise ValueError("neither a file nor its name")
        return stream.digest()
    except (zlib.error, ValueError) as error:
        raise Failure(f"what came is no tarball of ours: {error}", directory, "Run this again.") from None


class _Stream:
    """The blocks' content, unpacked."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._seen = hashlib.sha256()
        self._unpack = zlib.decompressobj(GZIP)
        self._held = b""
        self._at = 0

    def read(self, size: int) -> bytes:
        """That many bytes; fewer at the end."""
        parts = []
        while size > 0:
            if self._at == len(self._held):
                block = next(self._blocks, None)
                if block is None:
                    break
                self._seen.update(block)
                self._held, self._at = self._unpack.decompress(block), 0
            part = self._held[self._at : self._at + size]
            self._at += len(part)
            size -= len(part)
            parts.append(part)
        return b"".join(parts)

    def digest(self) -> str:
        """Of all blocks, including those that are left."""
        for block in self._blocks:
            self._seen.update(block)
        return self._seen.hexdigest()


def _path(directory: str, name: bytes) -> str:
    text = name.rstrip(b"\0").decode()
    if not text or any(part in ("", ".", "..") for part in text.split("/")):
        raise ValueError("a name that leads elsewhere")
    return f"{directory}/{text}"


def _write(path: str, data: memoryview, made: set[str]) -> None:
    """Write a file that wasn't there. `made`: directories that exist."""
    parent = path.rpartition("/")[0]
    if parent not in made:
        os.makedirs(parent, 0o755, exist_ok=True)
        made.add(parent)
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        while data:
            data = data[os.write(handle, data) :]
    finally:
        os.close(handle)
