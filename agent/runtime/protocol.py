"""What a runtime can do: one small Protocol, two real runtimes (`docker`, `process`), one fake in the tests.

The runtime itself is the record of what runs: after any restart of the agent, `observe` finds everything that this
host ever started, by labels (docker) or by state files beside the process (process). Every method is idempotent and
safe to interrupt; a failed `start` leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from msgspec import Struct

from agent.model.ledger import AssignedPort
from agent.model.report import HostResources, RuntimeInfo
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.stack import RuntimeName
from agent.model.workload import Workload


class RawLine(Struct, frozen=True, kw_only=True):
    """One line of output. `at` is RFC 3339 where the runtime keeps times (docker), else empty (process)."""

    at: str
    stream: Literal["stdout", "stderr"]
    line: str


class Counters(Struct, frozen=True, kw_only=True):
    """Of a running workload: CPU time since its start, memory without the page cache.

    `at_s`: when, by the monotonic clock. `memory_limit_bytes` 0: none of its own.
    """

    at_s: float
    cpu_s: float
    memory_bytes: int
    memory_limit_bytes: int = 0


class Progress(Protocol):
    """Told while a start takes long, e.g. `pulling` and "3 of 7 layers, 41 MB". Called on the event loop."""

    def __call__(self, step: Literal["pulling", "starting"], detail: str) -> None: ...


@runtime_checkable
class LoadsImages(Protocol):
    """A runtime whose images can be brought to it."""

    async def load_image(self, archive: Path) -> tuple[str, ...]:
        """Load a `docker save` archive; the names, or else ids, of the images in it.

        Raises Unprocessable with the engine's words, or RuntimeUnavailable.
        """


@runtime_checkable
class KeepsVolumes(Protocol):
    """A runtime with named volumes."""

    async def volume_path(self, stack: str, volume: str, *, make: bool = False) -> Path | None:
        """Where the volume's content lies on this host; None when there is none, and it isn't to be made.

        Raises Unprocessable for a volume that isn't a plain directory here, Conflict when it is another cluster's.
        """


class Runtime(Protocol):
    """Raises RuntimeUnavailable when the engine doesn't answer, and other MusterErrors with what the engine said."""

    @property
    def name(self) -> RuntimeName: ...

    async def open(self) -> None:
        """Connect; doesn't fail when the engine is down, `info` says so."""

    async def close(self) -> None:
        """Let go of connections and threads. Workloads keep running."""

    async def info(self) -> RuntimeInfo: ...

    async def resources(self) -> HostResources: ...

    async def observe(self) -> tuple[Workload, ...]:
        """Everything that is this host's own, running or not; what others have on the same engine isn't touched.

        Its own is what this agent started, and what the host ran under an earlier identity.
        """

    async def start(self, spec: ReplicaSpec, progress: Progress) -> Workload:
        """Make it run: what is left of an ended run of the same replica is started again or replaced.

        Raises PortTaken when host ports can't be bound, NotFound when the image or program can't be had and trying
        again soon won't help; nothing is left behind then. It may be cancelled, and then leaves nothing that `observe`
        won't show.
        """

    async def prepare(self, spec: ReplicaSpec, progress: Progress) -> None:
        """What `start` needs and can be had before its predecessor stops: the image, the program. Raises as `start`."""

    async def taken(self, ports: Sequence[AssignedPort]) -> tuple[int, ...]:
        """Those of the host ports that can't be bound now, our own workloads' among them."""

    async def stop(self, workload_id: str) -> None:
        """SIGTERM, and SIGKILL after the grace that it was started with. No error if it is gone already."""

    async def remove(self, workload_id: str) -> None:
        """Remove what `stop` left, with its anonymous volumes and own files. No error if it is gone already."""

    async def tidy(self, stacks_in_use: frozenset[str], delete_volumes_of: frozenset[str]) -> bool:
        """Remove networks of stacks no longer in use, and named volumes of the stacks named, once nothing uses them.

        Returns whether that is done: what something still uses stays, until it is asked again.
        """

    async def counters(self, workload_ids: Sequence[str]) -> dict[str, Counters]:
        """What they have used; those that don't run are left out. Two samples make a usage."""

    def logs(
        self, workload_id: str, *, tail: int | None, since: datetime | None, follow: bool
    ) -> AsyncIterator[RawLine]: ...

    def changes(self) -> AsyncIterator[ReplicaKey | None]:
        """A key each time something about it may have changed, None when anything may have (the engine was away).

        Only a hint; `observe` is the truth. Ends with `close`; one reader.
        """
