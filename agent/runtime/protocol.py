"""What a runtime can do: one small Protocol, two real runtimes (`docker`, `process`), one fake in the tests.

The runtime itself is the record of what runs: `observe` finds, after any restart of the agent, everything this agent
ever started, by labels (docker) or by state files beside the process (process). Every method is idempotent and safe to
cut anywhere; a failed `start` leaves nothing behind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Literal, Protocol

from msgspec import Struct

from agent.model.report import HostResources, RuntimeInfo
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.stack import RuntimeName
from agent.model.workload import Workload


class RawLine(Struct, frozen=True, kw_only=True):
    at: str
    stream: Literal["stdout", "stderr"]
    line: str


class Progress(Protocol):
    """Told while a start takes long, e.g. `pulling` with a sentence ("3 of 7 layers, 41 MB")."""

    def __call__(self, step: Literal["pulling", "starting"], detail: str) -> None: ...


class Runtime(Protocol):
    """Raises RuntimeUnavailable when the engine doesn't answer, and other MusterErrors with what the engine said."""

    name: RuntimeName

    async def open(self) -> None:
        """Connect; doesn't fail when the engine is down, `info` tells."""

    async def close(self) -> None:
        """Let go of connections and threads. Workloads keep running."""

    async def info(self) -> RuntimeInfo: ...

    async def resources(self) -> HostResources: ...

    async def observe(self) -> tuple[Workload, ...]:
        """Everything of this cluster and this agent, running or not."""

    async def start(self, spec: ReplicaSpec, progress: Progress) -> Workload:
        """Create and start. Raises PortTaken(ports) when a host port can't be bound; nothing is left behind then."""

    async def stop(self, workload_id: str, grace_ms: int) -> None:
        """SIGTERM, after the grace SIGKILL. Gone already: fine."""

    async def remove(self, workload_id: str) -> None:
        """Remove what `stop` left, with its anonymous volumes and own files. Gone already: fine."""

    def logs(
        self, workload_id: str, *, tail: int | None, since: datetime | None, follow: bool
    ) -> AsyncIterator[RawLine]: ...

    def changes(self) -> AsyncIterator[ReplicaKey]:
        """A key each time something may have changed with it; only a hint, `observe` is the truth."""
