"""State files of the process runtime: one per replica, so that any later agent finds again what this one started.

Shell (files); call in a thread. Written atomically (temporary file, fsync, rename). A record is written before the
start with `pid` 0 and a random `run`, which the process carries in its environment: an agent that dies between the
two writes leaves nothing that can't be found.
"""

import contextlib
import os
from pathlib import Path

import msgspec
from msgspec import Struct

from agent.model.ledger import AssignedPort
from agent.model.spec import ReplicaKey
from agent.model.types import AgentId, ClusterId

RUN_VARIABLE = "MUSTER_RUN"  # in the environment of everything that a replica's process starts
MAX_RECORD_BYTES = 65_536  # ours are below 8 KiB; anything larger isn't ours


class Record(Struct, frozen=True, kw_only=True):
    """`boot`, `pid`, `start` name the process; `pid` 0: about to be started. `ended`: its end was noticed.

    `earlier`: what its output files had before it started, by stream: bytes, and when they were written last (ms).
    """

    version: int = 1
    key: ReplicaKey
    cluster: ClusterId
    agent: AgentId
    name: str
    revision: int
    spec_hash: str
    ports: tuple[AssignedPort, ...]
    stop_grace_ms: int
    run: str
    boot: str
    unit: str = ""
    pid: int = 0
    start: int = 0
    started_at: int = 0
    earlier: dict[str, tuple[int, int]] = {}
    ended: bool = False
    exit_code: int | None = None
    reason: str = ""

    @property
    def id(self) -> str:
        """The workload's id."""
        return f"{self.pid}:{self.start}"

    @property
    def mark(self) -> str:
        """The environment entry that everything of this run carries."""
        return f"{RUN_VARIABLE}={self.run}"


_decoder = msgspec.json.Decoder(Record)


class Records:
    """The state files below one directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def create(self) -> None:
        """Make the directory."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def path(self, key: ReplicaKey) -> Path:
        """Where the record of `key` is. Names are labels, which have no dots: no two keys share a file."""
        return self._directory / f"{key.stack}.{key.service}.{key.slot}.json"

    def write(self, record: Record) -> None:
        """Replace the replica's record."""
        path = self.path(record.key)
        temporary = path.with_suffix(".tmp")
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(msgspec.json.encode(record))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)

    def read(self, key: ReplicaKey) -> Record | None:
        """The replica's record; None when there is none, or none that makes sense."""
        return self._read(self.path(key))

    def delete(self, key: ReplicaKey) -> None:
        """Forget the replica, if it is there."""
        self.path(key).unlink(missing_ok=True)

    def all(self) -> list[Record]:
        """Every record there is."""
        with contextlib.suppress(FileNotFoundError):
            found = [self._read(path) for path in sorted(self._directory.glob("*.json"))]
            return [record for record in found if record is not None]
        return []

    def _read(self, path: Path) -> Record | None:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_RECORD_BYTES + 1)
            record = _decoder.decode(data)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None
        return record if path == self.path(record.key) else None
