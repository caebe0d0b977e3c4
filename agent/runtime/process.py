"""The process runtime: plain commands on the host, for hosts without Docker and programs that need none.

| what | where, below the data directory |
|---|---|
| working directory | `stacks/<stack>/`, so a plan's relative paths are found there |
| state | `processes/<stack>.<service>.<slot>.json` (`agent.runtime.records`) |
| output | `logs/<stack>/<service>.<slot>.stdout.log` and `.stderr.log`, 10 MB × 3 each, kept until the stack goes |

A process is told where to listen by `MUSTER_LISTEN_<container port>` (or `${…}` in its arguments): there is no port
mapping. Image, networks and mounts don't apply; limits do under systemd. It must stay in the foreground: what is left
of it when it ends is killed, as systemd does. It survives the agent, killed or stopped, and is adopted by the next one;
its exit code is only known to the agent that started it. Shell (processes, files, threads).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from agent import errors
from agent.model.ledger import AssignedPort
from agent.model.report import HostResources, RuntimeInfo
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.stack import RuntimeName
from agent.model.types import AgentId, ClusterId
from agent.model.workload import Workload
from agent.runtime.hints import Hints
from agent.runtime.logfiles import read_logs, rotate
from agent.runtime.machine import host_resources, session_counters
from agent.runtime.protocol import Counters, Progress, RawLine
from agent.runtime.records import Record
from agent.runtime.sockets import taken_ports
from agent.runtime.supervisor import Supervisor
from agent.runtime.watch import Watch, open_process
from agent.tasks import cancel_and_wait

THREADS = 4  # file and process calls are short; more would only queue at the disk
ROTATE_INTERVAL_S = 5.0  # a program that writes 100 MB/s is cut back within 500 MB
REPLACED_WITHIN_S = 3.0  # between removing a replica and starting its successor; who follows its log stays
KILL_WAIT_S = 5.0  # SIGKILL works at once unless the process hangs in the kernel; then it is reported

T = TypeVar("T")


class ProcessRuntime:
    """Implements `agent.runtime.protocol.Runtime`. One for a data directory; all methods on the event loop.

    `use_systemd` None: scopes where systemd is PID 1, else sessions.
    """

    def __init__(
        self,
        *,
        cluster: ClusterId,
        agent: AgentId,
        data_dir: Path,
        publish_address: str,
        use_systemd: bool | None = None,
    ) -> None:
        self._supervisor = Supervisor(cluster=cluster, agent=agent, data_dir=data_dir, publish_address=publish_address)
        self._data_dir = data_dir
        self._publish_address = publish_address
        self._use_systemd = use_systemd
        self._executor = ThreadPoolExecutor(max_workers=THREADS, thread_name_prefix="process-runtime")
        self._hints = Hints()
        self._watches: dict[str, Watch] = {}
        self._known: set[ReplicaKey] = set()
        self._finishing: set[asyncio.Task[None]] = set()
        self._rotation: asyncio.Task[None] | None = None
        self._closed = False

    @property
    def name(self) -> RuntimeName:
        return "process"

    async def open(self) -> None:
        await self._in_thread(partial(self._supervisor.open, self._use_systemd))
        self._rotation = asyncio.create_task(self._rotate_forever(), name="process log rotation")

    async def close(self) -> None:
        """Let go of everything; the processes go on."""
        self._closed = True
        self._hints.close()
        await cancel_and_wait(self._rotation)
        await asyncio.gather(*self._finishing)
        for watch in self._watches.values():
            watch.close()
        self._watches.clear()
        await asyncio.get_running_loop().run_in_executor(None, self._executor.shutdown)
        self._supervisor.close()

    async def info(self) -> RuntimeInfo:
        version = "systemd scopes" if self._supervisor.systemd else "sessions"
        return RuntimeInfo(name="process", available=True, version=version)

    async def resources(self) -> HostResources:
        return await self._in_thread(partial(host_resources, self._data_dir))

    async def observe(self) -> tuple[Workload, ...]:
        """Read the records; ends that nobody noticed are noticed now."""
        records = await self._in_thread(self._supervisor.look)
        for record in records:
            await self._watch(record)
        self._known = {record.key for record in records}
        return tuple(map(_workload, records))

    async def prepare(self, spec: ReplicaSpec, progress: Progress) -> None:
        await self._in_thread(partial(self._supervisor.prepare, spec))

    async def taken(self, ports: Sequence[AssignedPort]) -> tuple[int, ...]:
        return await self._in_thread(partial(taken_ports, self._publish_address, ports))

    async def start(self, spec: ReplicaSpec, progress: Progress) -> Workload:
        progress("starting", "")
        record = await self._in_thread(partial(self._supervisor.start, spec))
        self._known.add(record.key)
        await self._watch(record)
        return _workload(record)

    async def stop(self, workload_id: str) -> None:
        record = await self._in_thread(partial(self._supervisor.find, workload_id))
        if record is None or record.ended:
            return
        watch = await self._watch(record)
        if watch is None:
            return
        await self._in_thread(partial(self._supervisor.signal, record, signal.SIGTERM))
        if not await _ended_within(watch, record.stop_grace_ms / 1000):
            await self._kill(record, watch)
        await self._finish(record)

    async def remove(self, workload_id: str) -> None:
        """Forget it; if it still runs, it is killed."""
        record = await self._in_thread(partial(self._supervisor.find, workload_id))
        if record is None:
            return
        watch = await self._watch(record)
        if watch is not None:
            await self._kill(record, watch)
            await self._finish(record)
        await self._in_thread(partial(self._supervisor.forget, record))

    async def tidy(self, stacks_in_use: frozenset[str], delete_volumes_of: frozenset[str]) -> bool:
        await self._in_thread(partial(self._supervisor.tidy, stacks_in_use, delete_volumes_of))
        return True

    async def counters(self, workload_ids: Sequence[str]) -> dict[str, Counters]:
        return await self._in_thread(partial(session_counters, workload_ids))

    async def logs(
        self, workload_id: str, *, tail: int | None, since: datetime | None, follow: bool
    ) -> AsyncIterator[RawLine]:
        """The files include earlier runs; `follow` continues over restarts and ends when the replica is removed."""
        record = await self._in_thread(partial(self._supervisor.find, workload_id))
        if record is None:
            return
        key = record.key

        last_seen = time.monotonic()
        before = {
            stream: size
            for stream, (size, written_ms) in record.earlier.items()
            if since is not None and written_ms < since.timestamp() * 1000
        }

        def alive() -> bool:
            nonlocal last_seen
            if key in self._known:
                last_seen = time.monotonic()
            return time.monotonic() - last_seen < REPLACED_WITHIN_S and not self._closed

        paths = self._supervisor.log_paths(key)
        reading = read_logs(paths, self._executor, tail=tail, since=since, before=before, follow=follow, alive=alive)
        async for line in reading:
            yield line

    def changes(self) -> AsyncIterator[ReplicaKey | None]:
        return self._hints.take()

    async def _in_thread(self, work: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._executor, work)

    async def _kill(self, record: Record, watch: Watch) -> None:
        await self._in_thread(partial(self._supervisor.signal, record, signal.SIGKILL))
        if not await _ended_within(watch, KILL_WAIT_S):
            what = f"process {record.pid} doesn't end, not even by SIGKILL"
            raise errors.MusterError(what, where=str(record.key))

    async def _watch(self, record: Record) -> Watch | None:
        """Be told at once when it ends."""
        if record.ended or self._closed:
            return None
        if record.id not in self._watches:
            descriptor = await self._in_thread(partial(open_process, record.pid, record.start))
            if record.id in self._watches or self._closed:  # somebody else was faster
                if descriptor >= 0:
                    os.close(descriptor)
                return self._watches.get(record.id)
            self._watches[record.id] = Watch(descriptor, partial(self._ended, record))
        return self._watches[record.id]

    def _ended(self, record: Record) -> None:
        if not self._closed:
            task = asyncio.create_task(self._finish(record), name=f"end of {record.key}")
            self._finishing.add(task)
            task.add_done_callback(self._finishing.discard)

    async def _finish(self, record: Record) -> None:
        """It ended: record how, clean up after it, report it."""
        await self._in_thread(partial(self._supervisor.end, record, ""))
        if (watch := self._watches.pop(record.id, None)) is not None:
            watch.close()
        self._hints.give(record.key)

    async def _rotate_forever(self) -> None:
        while True:
            await asyncio.sleep(ROTATE_INTERVAL_S)
            for key in sorted(self._known):
                for path in self._supervisor.log_paths(key).values():
                    # A full disk must not end the rotation: it is what frees the disk.
                    with contextlib.suppress(OSError):
                        await self._in_thread(partial(rotate, path))


async def _ended_within(watch: Watch, seconds: float) -> bool:
    try:
        async with asyncio.timeout(seconds):
            await watch.ended.wait()
    except TimeoutError:
        return False
    return True


def _workload(record: Record) -> Workload:
    return Workload(
        id=record.id,
        key=record.key,
        name=record.name,
        runtime="process",
        revision=record.revision,
        spec_hash=record.spec_hash,
        state="exited" if record.ended else "running",
        exit_code=record.exit_code,
        reason=record.reason,
        ports=record.ports,
        started_at=record.started_at,
    )
