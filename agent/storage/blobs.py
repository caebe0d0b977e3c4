"""Contents by their sha256: files that plans bring along, and images on their way into an engine.

`<directory>/<digest>`, 0600, on disk whole and verified or not at all; `.partial-…` is being written. Blocking: call it
in threads.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import threading
from pathlib import Path

from agent.errors import InputError, Unprocessable
from agent.files import sync_directory
from agent.model.types import Digest
from agent.storage.files import make_directory

DISK_RESERVE_BYTES = 268_435_456  # stays free, so that a blob can't stop the ledger

_DIGEST = re.compile(r"[0-9a-f]{64}")
_PARTIAL = ".partial-"


class BlobStore:
    """Thread-safe: names come from contents, and files only appear whole."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._lock = threading.Lock()
        self._open: set[BlobWriter] = set()

    def open(self) -> None:
        """Make the directory; remove what a writer left half done. Raises StorageError."""
        make_directory(self._directory)
        for entry in self._directory.glob(f"{_PARTIAL}*"):
            entry.unlink(missing_ok=True)

    def path(self, digest: Digest) -> Path:
        """Where the content is, if it is there."""
        if _DIGEST.fullmatch(digest) is None:
            raise ValueError("not a digest")
        return self._directory / digest

    def size(self, digest: Digest) -> int | None:
        """Its bytes; None when it isn't here."""
        try:
            return self.path(digest).stat().st_size
        except FileNotFoundError:
            return None

    def read(self, digest: Digest, offset: int, length: int) -> bytes | None:
        """A part of it, shorter at the end; None when it isn't here."""
        try:
            with self.path(digest).open("rb") as file:
                file.seek(offset)
                return file.read(length)
        except FileNotFoundError:
            return None

    def begin(self, digest: Digest, size: int) -> BlobWriter:
        """Start writing one. Raises Unprocessable when the disk has no room for it."""
        with self._lock:
            self._open = {writer for writer in self._open if not writer.closed}
            promised = sum(writer.missing for writer in self._open)
            room = shutil.disk_usage(self._directory).free - promised - DISK_RESERVE_BYTES
            if room < size:
                raise Unprocessable(
                    f"{size} bytes, and {max(room, 0)} can be used on this disk",
                    where=str(self._directory),
                    fix="Make room there: `docker image prune` often helps.",
                )
            writer = BlobWriter(self.path(digest), size)
            self._open.add(writer)
        return writer

    def remove(self, digest: Digest) -> None:
        """Remove it, if it is there."""
        self.path(digest).unlink(missing_ok=True)

    def digests(self) -> frozenset[Digest]:
        """All that are here."""
        return frozenset(name for name in os.listdir(self._directory) if _DIGEST.fullmatch(name))


class BlobWriter:
    """One content on its way in. Ends with `commit` or `abort`; `written` counts its bytes so far."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size
        self._partial = path.with_name(f"{_PARTIAL}{secrets.token_hex(8)}")
        self._handle = os.open(self._partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        self._hash = hashlib.sha256()
        self.written = 0

    @property
    def closed(self) -> bool:
        """Whether it was committed or aborted."""
        return self._handle < 0

    @property
    def missing(self) -> int:
        """Bytes that were announced and haven't come yet."""
        return max(self._size - self.written, 0)

    def write(self, data: bytes) -> None:
        """The next bytes. Raises InputError when there are more than were announced."""
        if self.written + len(data) > self._size:
            raise InputError(f"more than the {self._size} bytes that were announced", where="body")
        view = memoryview(data)
        while view:
            view = view[os.write(self._handle, view) :]
        self._hash.update(data)
        self.written += len(data)

    def restart(self) -> None:
        """Discard what was written: it wasn't the right content."""
        os.ftruncate(self._handle, 0)
        os.lseek(self._handle, 0, os.SEEK_SET)
        self._hash, self.written = hashlib.sha256(), 0

    def matches(self) -> bool:
        """Whether what was written is the announced content."""
        return self.written == self._size and self._hash.hexdigest() == self._path.name

    def commit(self) -> None:
        """Put it on disk under its digest. Raises InputError, and leaves nothing, when it is another content."""
        if not self.matches():
            self.abort()
            raise InputError("the content isn't the one that was announced", where="body", fix="Send it again.")
        os.fsync(self._handle)
        self._close()
        os.replace(self._partial, self._path)
        sync_directory(self._path.parent)

    def abort(self) -> None:
        """Leave nothing, unless it was committed."""
        self._close()
        self._partial.unlink(missing_ok=True)

    def _close(self) -> None:
        handle, self._handle = self._handle, -1
        if handle >= 0:
            os.close(handle)
