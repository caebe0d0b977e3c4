"""SEED's API log: one JSON object per line and request, in a file of its own; and its statistics.

The event loop only queues; a thread writes and rotates. A full queue or disk loses lines, which is counted, and never
slows a request down.
"""

from __future__ import annotations

import queue
import re
import threading
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

import msgspec
from msgspec import Struct

# Rotated at this size or age, whichever comes first; 8 files of 16 MiB are some 400,000 requests.
MAX_LOG_BYTES: Final = 16 * 1024 * 1024
MAX_LOG_AGE_S: Final = 24 * 3600.0
MAX_KEPT_FILES: Final = 7  # beside the one being written: a week of days

# Lines waiting for the disk: 4 MiB, a second of more requests than one agent serves.
MAX_QUEUED_LINES: Final = 8192

# Lines that come within this time are written together: a thread that wakes for each one takes the loop's interpreter.
GATHER_S: Final = 0.05

# Route templates are ours and few; anything beyond is one line, so that a caller can't fill the memory.
MAX_ENDPOINTS: Final = 256
OTHER_ENDPOINTS: Final = "other"

# What comes from a request's own headers and URL is cut: a log line isn't storage.
MAX_TEXT_CHARACTERS: Final = 512

_encoder = msgspec.json.Encoder()
_ROTATED: Final = r"\.\d{8}T\d{6}\.\d{6}Z"


class ApiRecord(Struct, frozen=True, kw_only=True):
    """One request, SEED's keys in SEED's order. Sizes in bytes of the bodies.

    `duration` is always in ms ("150ms", "0.8ms"), as SEED's own jq lines read it. `status_code` 0 and an `error` when
    there was no answer.
    """

    timestamp: str
    source_host: str
    source_port: int
    target_host: str
    target_port: int
    method: str
    url: str
    status_code: int
    request_size: int
    response_size: int
    duration: str
    user_agent: str
    error: str | None


def api_record(
    *,
    at_s: float,
    source: tuple[str, int],
    target: tuple[str, int],
    method: str,
    url: str,
    status_code: int,
    request_size: int,
    response_size: int,
    duration_s: float,
    user_agent: str,
    error: str | None = None,
) -> ApiRecord:
    """A record; `at_s` is seconds since the epoch, when the request came. Over-long text is cut."""
    stamp = datetime.fromtimestamp(at_s, UTC).isoformat(timespec="milliseconds")
    return ApiRecord(
        timestamp=stamp.removesuffix("+00:00") + "Z",
        source_host=source[0],
        source_port=source[1],
        target_host=target[0],
        target_port=target[1],
        method=_text(method),
        url=_text(url),
        status_code=status_code,
        request_size=request_size,
        response_size=response_size,
        duration=duration_text(duration_s),
        user_agent=_text(user_agent),
        error=_text(error) if error is not None else None,
    )


def _text(text: str) -> str:
    """Cut, and without the lone surrogates that stand for bytes of a request that are no UTF-8."""
    if text.isascii():
        return text[:MAX_TEXT_CHARACTERS]
    return text[:MAX_TEXT_CHARACTERS].encode("utf-8", "replace").decode("utf-8")


def duration_text(duration_s: float) -> str:
    """Milliseconds with up to three decimals: "150ms", "0.812ms"."""
    return f"{max(0.0, duration_s) * 1000:.3f}".rstrip("0").rstrip(".") + "ms"


class ApiStatsView(Struct, frozen=True, kw_only=True):
    """docs/seed.md "API communication stats"."""

    total_requests: int
    total_responses: int
    error_count: int
    avg_duration: str
    requests_by_endpoint: dict[str, int]


class ApiStats:
    """The statistics since the agent's start. Pure.

    Invariants: total_responses <= total_requests; the counts by endpoint add up to total_requests.
    """

    def __init__(self) -> None:
        self._by_endpoint: Counter[str] = Counter()
        self._responses = 0
        self._errors = 0
        self._duration_s = 0.0

    @property
    def total_requests(self) -> int:
        """Requests seen."""
        return self._by_endpoint.total()

    def count(self, endpoint: str, status_code: int, duration_s: float) -> None:
        """Count a request to the route template `endpoint`; `status_code` 0: no answer."""
        if endpoint not in self._by_endpoint and len(self._by_endpoint) >= MAX_ENDPOINTS:
            endpoint = OTHER_ENDPOINTS
        self._by_endpoint[endpoint] += 1
        self._duration_s += max(0.0, duration_s)
        if status_code:
            self._responses += 1
        if not status_code or status_code >= 500:
            self._errors += 1

    def view(self) -> ApiStatsView:
        """The numbers as SEED's object; the busiest endpoint first."""
        total = self.total_requests
        return ApiStatsView(
            total_requests=total,
            total_responses=self._responses,
            error_count=self._errors,
            avg_duration=duration_text(self._duration_s / total if total else 0.0),
            requests_by_endpoint=dict(self._by_endpoint.most_common()),
        )


class ApiLog:
    """The file and its thread. `write` never blocks; `drops` counts the lines lost to a full `queue` or `disk`.

    A rotated file is `<name>.<UTC time>`, e.g. `workers_api_communication.log.20240115T103015.123456Z`.
    """

    def __init__(
        self,
        path: Path,
        *,
        max_bytes: int = MAX_LOG_BYTES,
        max_age_s: float = MAX_LOG_AGE_S,
        kept_files: int = MAX_KEPT_FILES,
    ) -> None:
        self.path = path
        self.drops: Counter[str] = Counter()
        self._max_bytes = max_bytes
        self._max_age_s = max_age_s
        self._kept_files = kept_files
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._file: IO[bytes] | None = None
        self._size = 0
        self._began_s = 0.0
        self._thread = threading.Thread(target=self._run, name="api log", daemon=True)
        self._thread.start()

    def write(self, record: ApiRecord) -> None:
        """Queue a line."""
        if self._lines.qsize() < MAX_QUEUED_LINES:
            self._lines.put(_encoder.encode(record) + b"\n")
        else:
            self.drops["queue"] += 1

    def close(self) -> None:
        """Write what is queued and close the file. Blocks: call it from a thread."""
        self._lines.put(None)
        self._thread.join()

    # --- the thread ---

    def _run(self) -> None:
        ended = False
        while not ended:
            lines, ended = self._next_lines()
            try:
                self._append(lines)
            except OSError:
                self.drops["disk"] += len(lines)
                self._close_file()
        self._close_file()

    def _next_lines(self) -> tuple[list[bytes], bool]:
        """What is queued, at least one; the second is true at the end."""
        lines: list[bytes] = []
        line = self._lines.get()
        if line is not None:
            time.sleep(GATHER_S)
        while line is not None:
            lines.append(line)
            try:
                line = self._lines.get_nowait()
            except queue.Empty:
                return lines, False
        return lines, True

    def _append(self, lines: list[bytes]) -> None:
        for line in lines:
            if self._file is None:
                self._open_file()
            if self._size and (self._size + len(line) > self._max_bytes or self._is_old()):
                self._rotate()
            assert self._file is not None
            self._file.write(line)
            self._size += len(line)
        if self._file is not None:
            self._file.flush()

    def _is_old(self) -> bool:
        return not 0 <= time.time() - self._began_s < self._max_age_s  # negative: the clock was set back

    def _open_file(self) -> None:
        self.path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        self._file = self.path.open("ab")
        self._size = self._file.tell()
        self._began_s = _began_s(self.path) if self._size else time.time()

    def _rotate(self) -> None:
        self._close_file()
        stamp = f"{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"  # microseconds, so that names sort and never meet
        self.path.rename(self.path.with_name(f"{self.path.name}.{stamp}"))
        for surplus in _rotated(self.path)[: -self._kept_files or None]:
            surplus.unlink(missing_ok=True)
        self._open_file()

    def _close_file(self) -> None:
        if self._file is not None:
            file, self._file = self._file, None
            try:
                file.close()
            except OSError:  # its buffer couldn't be written: those lines are lost
                self.drops["disk"] += 1


def log_files(path: Path) -> list[Path]:
    """The rotated files and the one being written, the oldest first."""
    return [*_rotated(path), path] if path.exists() else _rotated(path)


def _rotated(path: Path) -> list[Path]:
    pattern = re.compile(re.escape(path.name) + _ROTATED)
    return sorted(each for each in path.parent.iterdir() if pattern.fullmatch(each.name))


def _began_s(path: Path) -> float:
    """When the file's first line was written, so that a restart doesn't make it young again."""
    with path.open("rb") as file:
        head = file.read(64)
    try:
        return datetime.fromisoformat(head[len(b'{"timestamp":"') :][:24].decode("ascii")).timestamp()
    except (ValueError, UnicodeDecodeError):
        return path.stat().st_mtime
