"""A runtime in memory: keeps workloads as an engine would, and fails where a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from datetime import datetime

from msgspec.structs import replace

from agent import errors
from agent.model.ledger import AssignedPort
from agent.model.report import HostResources, RuntimeInfo
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.stack import RuntimeName
from agent.model.workload import Workload
from agent.runtime.hints import Hints
from agent.runtime.protocol import Counters, Progress, RawLine


class FakeRuntime:
    """Implements `agent.runtime.protocol.Runtime`.

    `calls` lists what was asked of it; `fail_start` errors are raised by the next starts, in order, `fail_prepare` by
    the next preparations; `taken_ports` can't be bound; `still_used` keeps networks and volumes; `away` makes it
    unreachable; `hold` and `hold_prepare` keep starts and preparations waiting until they are set, `slow_look` keeps
    what a look has seen, and `looks` counts them.
    """

    def __init__(self, name: RuntimeName = "docker") -> None:
        self._name: RuntimeName = name
        self.workloads: dict[str, Workload] = {}
        self.calls: list[tuple[str, str]] = []
        self.fail_start: list[errors.MusterError] = []
        self.fail_prepare: list[errors.MusterError] = []
        self.taken_ports: set[int] = set()
        self.has = HostResources(memory_mib=1024, cpu_millis=2000, disk_free_mib=1000)
        self.hold_prepare = asyncio.Event()
        self.hold_prepare.set()
        self.away = False
        self.hold = asyncio.Event()
        self.hold.set()
        self.slow_look = asyncio.Event()
        self.slow_look.set()
        self.looking = self.looks = 0
        self.asked = 0
        self.output: list[RawLine] = []
        self.tidied: list[tuple[frozenset[str], frozenset[str]]] = []
        self.still_used = False
        self.running_at_once = 0
        self.most_at_once = 0
        self._hints = Hints()
        self._count = 0

    @property
    def name(self) -> RuntimeName:
        return self._name

    async def open(self) -> None:
        self._reachable(strict=False)

    async def close(self) -> None:
        self._hints.close()

    async def info(self) -> RuntimeInfo:
        self.asked += 1
        return RuntimeInfo(name=self.name, available=not self.away, version="fake")

    async def resources(self) -> HostResources:
        return self.has

    async def observe(self) -> tuple[Workload, ...]:
        self._reachable()
        seen = tuple(self.workloads.values())
        self.looking, self.looks = self.looking + 1, self.looks + 1
        await self.slow_look.wait()
        self.looking -= 1
        return seen

    async def prepare(self, spec: ReplicaSpec, progress: Progress) -> None:
        self.calls.append(("prepare", str(spec.key)))
        self._reachable()
        progress("pulling", "1 of 1 layers")
        await self.hold_prepare.wait()
        if self.fail_prepare:
            raise self.fail_prepare.pop(0)

    async def taken(self, ports: Sequence[AssignedPort]) -> tuple[int, ...]:
        return tuple(port.host_port for port in ports if port.host_port in self.taken_ports)

    async def start(self, spec: ReplicaSpec, progress: Progress) -> Workload:
        self.calls.append(("start", str(spec.key)))
        self._reachable()
        self.running_at_once += 1
        self.most_at_once = max(self.most_at_once, self.running_at_once)
        try:
            progress("starting", "")
            await self.hold.wait()
        finally:
            self.running_at_once -= 1
        if self.fail_start:
            raise self.fail_start.pop(0)
        return self.put(spec)

    async def stop(self, workload_id: str) -> None:
        self.calls.append(("stop", workload_id))
        self._reachable()
        if workload_id in self.workloads:
            self.workloads[workload_id] = replace(self.workloads[workload_id], state="exited", exit_code=143)

    async def remove(self, workload_id: str) -> None:
        self.calls.append(("remove", workload_id))
        self._reachable()
        self.workloads.pop(workload_id, None)

    async def tidy(self, stacks_in_use: frozenset[str], delete_volumes_of: frozenset[str]) -> bool:
        self.tidied.append((stacks_in_use, delete_volumes_of))
        return not self.still_used

    async def counters(self, workload_ids: Sequence[str]) -> dict[str, Counters]:
        self._reachable()
        now = asyncio.get_running_loop().time()
        running = [each for each in workload_ids if self.workloads[each].state == "running"]
        return {each: Counters(at_s=now, cpu_s=now / 2, memory_bytes=1024 * 1024) for each in running}

    async def logs(
        self, workload_id: str, *, tail: int | None, since: datetime | None, follow: bool
    ) -> AsyncIterator[RawLine]:
        for line in self.output[-tail:] if tail else self.output:
            yield line

    def changes(self) -> AsyncIterator[ReplicaKey | None]:
        return self._hints.take()

    # For tests

    def put(self, spec: ReplicaSpec) -> Workload:
        """A running workload of `spec`; an ended one of the same hash is started again."""
        self._count += 1
        for id_, present in self.workloads.items():
            if (present.key, present.spec_hash) == (spec.key, spec.hash):
                running = replace(present, state="running", exit_code=None, started_at=self._count)
                self.workloads[id_] = running
                return running
        made = Workload(
            id=f"{self._count:064x}",
            key=spec.key,
            name=spec.container_name,
            runtime=self.name,
            revision=spec.revision,
            spec_hash=spec.hash,
            state="running",
            ports=spec.ports,
            started_at=self._count,
        )
        self.workloads[made.id] = made
        return made

    def end(self, key: ReplicaKey, code: int = 1) -> None:
        """The replica ends by itself, and the engine says so."""
        for id_, present in self.workloads.items():
            if present.key == key:
                self.workloads[id_] = replace(present, state="exited", exit_code=code)
        self._hints.give(key)

    def hint(self) -> None:
        """Anything may have changed."""
        self._hints.give(None)

    def running(self) -> list[str]:
        """The names of what runs."""
        return sorted(workload.name for workload in self.workloads.values() if workload.state == "running")

    def _reachable(self, *, strict: bool = True) -> None:
        if self.away and strict:
            raise errors.RuntimeUnavailable("the fake engine is away")
