"""The ledger's past on a voter's disk: applied entries in hash-linked segments, beside the compacted state.

A segment is a file `<first index>-<chain before>.audit`: frames of 4 bytes length, 4 bytes crc32, and a msgpack array;
the first is a header, the others are entries. The chain is the ledger's own (agent.state.link), so nobody can take an
entry out, put one in, or alter one, and have the chain end where the other voters' do.

Appended lazily: what a crash takes is applied again at the next start, since the ledger keeps what it hasn't compacted;
so `flush` has to come before a snapshot is stored.
"""

import asyncio
import itertools
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

import msgspec

from agent.errors import StorageError
from agent.files import sync_directory
from agent.model.types import ClusterId, Digest, Millis
from agent.node.effects import Audit
from agent.raft.entry import MAX_ENTRY_BYTES
from agent.state import link
from agent.storage.files import make_directory, refused

DIRECTORY = "audit"
SUFFIX = ".audit"
SEGMENT_BYTES = 16 * 1024 * 1024  # one is read whole at a start: 0.1 s
MAX_KEPT_BYTES = 1024**3  # of all segments; the oldest go first
MAX_AGE_MS = 400 * 86_400_000  # a year, and time to look at it
MAX_RECORD_BYTES = MAX_ENTRY_BYTES + 4096  # an entry, and what came of it

_FRAME = struct.Struct(">II")


class Header(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A segment's first record: index, chain and time of the ledger before its first entry."""

    v: Literal[1]
    cluster: ClusterId
    index: int
    at: Millis
    chain: Digest


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """An applied entry. The chain doesn't cover `outcome` and `what`, which are empty for the coordinator's own
    entries.
    """

    index: int
    data: bytes
    outcome: str
    what: str


_headers = msgspec.msgpack.Decoder(Header)
_records = msgspec.msgpack.Decoder(Record)
_encoder = msgspec.msgpack.Encoder()


class Segment(msgspec.Struct):
    """One file, read through. `end` is the length of what is whole; `torn`: something stands behind it; `damaged`: it
    is no crash's doing, and the file is left as it is, for whoever wants to know.

    `index` and `chain`: the ledger behind the last record.
    """

    path: Path
    header: Header
    index: int
    chain: Digest
    end: int
    torn: bool = False
    damaged: bool = False


class AuditLog:
    """One process' own. `append` and `flush` are the event loop's; made by `open`, in a thread.

    `_tail` is the segment being written to; None before the first entry, and after history turned out to be another.
    """

    def __init__(
        self,
        directory: Path,
        cluster: ClusterId,
        segment_bytes: int = SEGMENT_BYTES,
        kept_bytes: int = MAX_KEPT_BYTES,
    ) -> None:
        self.directory, self.cluster = directory, cluster
        self.segment_bytes, self.kept_bytes = segment_bytes, kept_bytes
        self._tail: Segment | None = None
        self._pending: list[Audit] = []
        self._lock = asyncio.Lock()

    @classmethod
    def open(
        cls, data_dir: Path, cluster: ClusterId, *, segment_bytes: int = SEGMENT_BYTES, kept_bytes: int = MAX_KEPT_BYTES
    ) -> "AuditLog":
        """Continues what is there already; a record that a crash cut off is removed. Raises StorageError."""
        log = cls(data_dir / DIRECTORY, cluster, segment_bytes, kept_bytes)
        make_directory(log.directory)
        if paths := log.paths():
            log._tail = read_through(paths[-1])
            if log._tail is None:  # its header was cut
                paths[-1].unlink()
            elif log._tail.torn and not log._tail.damaged:
                os.truncate(paths[-1], log._tail.end)
        return log

    def paths(self) -> list[Path]:
        """The segments' files, oldest first."""
        return sorted(self.directory.glob(f"*{SUFFIX}"))

    @property
    def waits(self) -> int:
        """Entries that aren't written yet."""
        return len(self._pending)

    def append(self, entry: Audit) -> None:
        """Comes to disk with the next `flush`."""
        self._pending.append(entry)

    async def flush(self) -> None:
        """All that was appended is on disk. Raises StorageError; the process must end then."""
        async with self._lock:
            batch, self._pending = self._pending, []
            if batch:
                await asyncio.to_thread(self._write, batch)

    def _write(self, batch: list[Audit]) -> None:
        try:
            for entries in self._by_segment(batch):
                tail = self._tail
                assert tail is not None
                with open(tail.path, "ab") as file:
                    for entry in entries:
                        tail.end += file.write(_framed(Record(entry.index, entry.data, entry.outcome, entry.what)))
                    file.flush()
                    os.fsync(file.fileno())
            self._prune()
        except OSError as error:
            fix = "Check the disk (`df`, `dmesg`); the agent stops now and starts again by itself."
            raise refused("the audit segments can't be written", error, self.directory, fix) from error

    def _by_segment(self, batch: Iterable[Audit]) -> Iterator[list[Audit]]:
        """The entries that aren't here yet, as many at a time as `_tail` takes; `_tail` changes in between."""
        fitting: list[Audit] = []
        size = 0
        for entry in batch:
            after, tail = link(entry.before, entry.index, entry.data), self._tail
            if tail is not None and entry.index <= tail.index:
                if entry.index == tail.index and after != tail.chain:
                    self._tail = None  # another history, e.g. of another epoch: go on with it in a segment of its own
                continue
            full = tail is None or tail.damaged or tail.end + size > self.segment_bytes
            if tail is None or full or tail.chain != entry.before:
                if fitting:
                    yield fitting
                fitting, size = [], 0
                tail = self._tail = self._begin(entry)
            tail.index, tail.chain = entry.index, after
            fitting.append(entry)
            size += len(entry.data)
        if fitting:
            yield fitting

    def _begin(self, entry: Audit) -> Segment:
        header = Header(1, self.cluster, entry.index - 1, entry.at, entry.before)
        path = self.directory / f"{entry.index:020}-{entry.before[:16]}{SUFFIX}"
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with open(handle, "wb") as file:
            end = file.write(_framed(header))
            file.flush()
            os.fsync(handle)
        sync_directory(self.directory)
        return Segment(path, header, header.index, header.chain, end)

    def _prune(self) -> None:
        """Remove whole segments, the oldest first, by size and by the age of what follows them."""
        paths = self.paths()
        total = sum(path.stat().st_size for path in paths)
        newest = self._tail.header.at if self._tail is not None else 0
        for path, following in itertools.pairwise(paths):
            header = SegmentReader(following).header
            aged = header is not None and header.at < newest - MAX_AGE_MS
            if total <= self.kept_bytes and not aged:
                return
            total -= path.stat().st_size
            path.unlink()


def _framed(record: Header | Record) -> bytes:
    payload = _encoder.encode(record)
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


class SegmentReader:
    """A segment's file, read once from the beginning. `header` is None for a file that isn't a segment.

    `end`: how far it was whole, as far as `records` has come. `damaged_inside`: what isn't has more behind it, so that
    no crash has left it so.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.end = 0
        self.damaged_inside = False
        self.header = self._read_header()

    def _read_header(self) -> Header | None:
        with open(self.path, "rb") as file:
            payload = self._payload(file)
        try:
            return _headers.decode(payload) if payload is not None else None
        except msgspec.DecodeError:
            return None

    def _payload(self, file: BinaryIO) -> bytes | None:
        """The next frame's, if it is whole."""
        head = file.read(_FRAME.size)
        if len(head) < _FRAME.size:
            return None
        size, crc = _FRAME.unpack(head)
        payload = file.read(size) if size <= MAX_RECORD_BYTES else b""
        if len(payload) != size or zlib.crc32(payload) != crc:
            self.damaged_inside = len(payload) == size and bool(file.read(1))
            return None
        self.end = file.tell()
        return payload

    def records(self) -> Iterator[Record]:
        """The entries, up to the first that isn't whole."""
        with open(self.path, "rb") as file:
            file.seek(self.end)
            while (payload := self._payload(file)) is not None:
                try:
                    yield _records.decode(payload)
                except msgspec.DecodeError:
                    return

    @property
    def is_cut(self) -> bool:
        """Whether something stands behind what is whole."""
        return self.path.stat().st_size > self.end


def read_through(path: Path) -> Segment | None:
    """A segment with its chain linked again; None for a file that isn't one. Raises StorageError."""
    try:
        reader = SegmentReader(path)
        if reader.header is None:
            return None
        segment = Segment(path, reader.header, reader.header.index, reader.header.chain, 0)
        for record in reader.records():
            segment.index, segment.chain = record.index, link(segment.chain, record.index, record.data)
        segment.end, segment.torn, segment.damaged = reader.end, reader.is_cut, reader.damaged_inside
    except OSError as error:
        raise StorageError(f"a segment can't be read: {error.strerror}", where=str(path)) from error
    return segment
