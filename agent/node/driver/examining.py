"""Runs a host's errands: gets everything ready that a start needs, tries ports of replicas. Shell (sockets, engines).

What to do comes from the ledger (`agent.host.errands`); what is found goes into this host's report. An errand that
stays in the list continues; one that is gone from it is cancelled.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from agent import errors
from agent.host.errands import Endpoint, Preparation, Survey, Task
from agent.host.ports import Held, number_of
from agent.model.errand import MAX_DETAIL_CHARACTERS, MAX_UNREACHED, ErrandFinding, FindingState, Unreached
from agent.model.report import PortConflict
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.stack import RuntimeName
from agent.node.driver.acting import Supplier
from agent.runtime.probes import Answer, probe_http, probe_tcp
from agent.runtime.protocol import Progress, Runtime
from agent.tasks import cancel_and_wait, must_not_fail

DISK_RESERVE_MIB = 256  # a container's logs take 30 MB, a layer often 100; the ledger stops on a full disk
ENGINE_PATIENCE_S = 10.0  # a restart of dockerd takes a few seconds
ENGINE_ASKED_EVERY_S = 1.0
CONFLICT_KEPT_S = 60.0  # a rollout has settled on another port by then, or has failed for want of one
MAX_PARALLEL_PREPARATIONS = 4  # pulls share one line; more would only starve each other
MAX_PARALLEL_PROBES = 32  # sockets at once; on a LAN they take milliseconds
ROUNDS = 2  # requests go round all replicas; a second one shows that each answers more than once
REACH_PATIENCE_S = 20.0  # a program without a health check may take as long to listen; slower ones need a check
WORKING_AFTER_S = 0.05  # most preparations are done sooner, and then only that is told
SURVEY_AGAIN_S = 30.0  # after a survey that failed; somebody may be mending what it was about
PROBE_TIMEOUT_S = 2.0
PROBE_PAUSE_FIRST_S = 0.1
PROBE_PAUSE_MAX_S = 2.0


class Examiner:
    """`held` gives the ports that our own workloads have; `on_change`: a finding changed. On the event loop."""

    def __init__(
        self,
        runtimes: Mapping[RuntimeName, Runtime],
        *,
        held: Callable[[], Held],
        on_change: Callable[[], None],
        supplier: Supplier | None = None,
    ) -> None:
        self._runtimes = runtimes
        self._held = held
        self._on_change = on_change
        self._supplier = supplier
        self._running: dict[str, asyncio.Task[None]] = {}
        self._soon: asyncio.TimerHandle | None = None
        self._findings: dict[str, ErrandFinding] = {}
        self._conflicts: dict[tuple[ReplicaKey, int], tuple[PortConflict, float]] = {}
        self._preparing = asyncio.Semaphore(MAX_PARALLEL_PREPARATIONS)
        self._probing = asyncio.Semaphore(MAX_PARALLEL_PROBES)

    @property
    def findings(self) -> tuple[ErrandFinding, ...]:
        """The findings of the errands in the list, in their order."""
        return tuple(self._findings[errand] for errand in self._running)

    @property
    def conflicts(self) -> tuple[PortConflict, ...]:
        """Ports that couldn't be bound for a replica lately."""
        now = time.monotonic()
        self._conflicts = {name: item for name, item in self._conflicts.items() if item[1] > now}
        return tuple(conflict for conflict, _ in self._conflicts.values())

    def set(self, tasks: Iterable[Task]) -> None:
        """Do exactly these from now on."""
        wanted = {task.errand: task for task in tasks}
        for errand in self._running.keys() - wanted.keys():
            self._running.pop(errand).cancel()
            del self._findings[errand]
        for errand, task in wanted.items():
            if errand not in self._running:
                self._running[errand] = asyncio.create_task(self._run(task), name=f"errand {errand}")
                self._running[errand].add_done_callback(must_not_fail)
                self._note(task, "working")
        if self._soon is None:
            self._soon = asyncio.get_running_loop().call_later(WORKING_AFTER_S, self._tell)

    async def close(self) -> None:
        """Cut everything under way."""
        if self._soon is not None:
            self._soon.cancel()
        running = list(self._running.values())
        self._running.clear()
        await cancel_and_wait(*running)

    async def _run(self, task: Task) -> None:
        if isinstance(task, Survey):
            await self._survey(task)
            return
        async with self._preparing:
            try:
                await self._prepare(task)
            except errors.MusterError as error:
                self._found(task, "failed", f"{error.what} ({error.fix})" if error.fix else error.what)
            except OSError as error:  # e.g. the disk is full
                self._found(task, "failed", error.strerror or "input/output error")

    def _found(
        self, task: Task, state: FindingState, detail: str = "", *, unreached: tuple[Unreached, ...] = ()
    ) -> None:
        if task.errand in self._running:  # else cut meanwhile; an engine may still tell how far it was
            self._note(task, state, detail, unreached=unreached)
            self._tell()

    def _tell(self) -> None:
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        self._on_change()

    def _note(
        self, task: Task, state: FindingState, detail: str = "", *, unreached: tuple[Unreached, ...] = ()
    ) -> None:
        self._findings[task.errand] = ErrandFinding(
            errand=task.errand,
            kind="prepare" if isinstance(task, Preparation) else "reach",
            stack=task.stack,
            service=task.service if isinstance(task, Preparation) else "",
            state=state,
            detail=detail[:MAX_DETAIL_CHARACTERS],
            unreached=unreached,
        )

    # Preparing

    async def _prepare(self, task: Preparation) -> None:
        """Raises the MusterError that a start would meet."""
        if task.refused:
            raise errors.NotAllowed(task.refused)
        spec = task.specs[0]
        runtime = self._runtimes.get(spec.runtime)
        if runtime is None:
            raise errors.NotFound(f"this host has no {spec.runtime} runtime")
        try:
            await self._have(task, runtime)
        except errors.RuntimeUnavailable:
            await self._answering(runtime, task)
            await self._have(task, runtime)

    async def _have(self, task: Preparation, runtime: Runtime) -> None:
        """Checks the cheapest things first. Raises RuntimeUnavailable when the engine doesn't answer."""
        spec = task.specs[0]
        free = (await runtime.resources()).disk_free_mib
        if free < DISK_RESERVE_MIB:
            fix = "Free some, e.g. by `docker system prune` there."
            raise errors.MusterError(f"{free} MiB of disk are free, {DISK_RESERVE_MIB} are needed", fix=fix)
        if taken := await self._taken(runtime, task.specs):
            # The coordinator learns by the report, and asks for other ports.
            self._found(task, "working", f"port {', '.join(map(str, taken))} is taken, another one is looked for")
            return
        for each in task.specs[:1] if spec.image is not None else task.specs:
            if self._supplier is not None:
                await self._supplier.fetch(each, self._progress(task))
            await runtime.prepare(each, self._progress(task))
        self._found(task, "ready")

    def _progress(self, task: Preparation) -> Progress:
        def told(step: Literal["pulling", "starting"], detail: str) -> None:
            if detail:
                self._found(task, "working", detail)

        return told

    async def _answering(self, runtime: Runtime, task: Preparation) -> None:
        """Reports at once that the engine doesn't answer; raises RuntimeUnavailable when that lasts
        ENGINE_PATIENCE_S.
        """
        until = time.monotonic() + ENGINE_PATIENCE_S
        waited = False
        while not (info := await runtime.info()).available:
            what = f"{runtime.name} isn't available: {info.reason or 'no answer'}"
            fix = f"Look at `systemctl status {runtime.name}` there."
            if time.monotonic() >= until:
                raise errors.RuntimeUnavailable(what, fix=fix)
            self._found(task, "working", f"{what}; it is given {ENGINE_PATIENCE_S:g} s ({fix})")
            waited = True
            await asyncio.sleep(ENGINE_ASKED_EVERY_S)
        if waited:
            self._found(task, "working")

    async def _taken(self, runtime: Runtime, specs: Iterable[ReplicaSpec]) -> list[int]:
        """Ports that something else than our own workloads has; noted for the report."""
        held, found = self._held(), []
        for spec in specs:
            foreign = tuple(port for port in spec.ports if number_of(port) not in held)
            for port in await runtime.taken(foreign) if foreign else ():
                found.append(port)
                conflict = PortConflict(
                    stack=spec.key.stack, service=spec.key.service, slot=spec.key.slot, host_port=port
                )
                self._conflicts[spec.key, port] = conflict, time.monotonic() + CONFLICT_KEPT_S
        return found

    # Reaching

    async def _survey(self, task: Survey) -> None:
        """Tries until all answer: a firewall may be opened, and a program may be late."""
        while not await self._go_round(task):  # noqa: ASYNC110 nothing tells when a firewall opens
            await asyncio.sleep(SURVEY_AGAIN_S)

    async def _go_round(self, task: Survey) -> bool:
        """Requests go round all endpoints, ROUNDS times; each has to answer each time."""
        unreached: dict[Endpoint, Answer] = {}
        for _ in range(ROUNDS):
            left = [endpoint for endpoint in task.endpoints if endpoint not in unreached]
            for endpoint, answer in zip(left, await asyncio.gather(*map(self._visit, left)), strict=True):
                if not answer.ok:
                    unreached[endpoint] = answer
        if unreached:
            told = tuple(
                Unreached(
                    service=each.key.service,
                    slot=each.key.slot,
                    port=each.port,
                    reason=answer.reason[:MAX_DETAIL_CHARACTERS],
                )
                for each, answer in list(unreached.items())[:MAX_UNREACHED]
            )
            detail = f"{len(unreached)} of {len(task.endpoints)} ports don't answer"
            self._found(task, "failed", detail, unreached=told)
            return False
        count = len(task.endpoints)
        self._found(task, "ready", f"{count * ROUNDS} requests to {count} ports, all answered")
        return True

    async def _visit(self, endpoint: Endpoint) -> Answer:
        until, pause = time.monotonic() + REACH_PATIENCE_S, PROBE_PAUSE_FIRST_S
        while True:
            async with self._probing:
                answer = await self._ask(endpoint)
            if answer.ok or time.monotonic() >= until:
                return answer
            await asyncio.sleep(pause)
            pause = min(pause * 2, PROBE_PAUSE_MAX_S)

    async def _ask(self, endpoint: Endpoint) -> Answer:
        address, probe = endpoint.address, endpoint.probe
        if probe is None or probe.kind == "tcp":
            return await probe_tcp(address, endpoint.port, timeout_s=PROBE_TIMEOUT_S)
        timeout_s = max(probe.timeout_ms / 1000, PROBE_TIMEOUT_S)
        return await probe_http(address, endpoint.port, scheme=probe.scheme, path=probe.path, timeout_s=timeout_s)
