"""The hosting loop: observe → reconcile → act, at once on a change, and now and then in any case. Shell (asyncio).

It knows nothing of consensus: it keeps running and healing the last set that was wanted, with or without a majority.
Before there is one it touches nothing. A clean `close` leaves every workload running.

    hosting = Hosting(runtimes, publish_address=…, data_dir=…, on_observed=…)
    await hosting.open()
    hosting.set_desired(effect)     # the node core's `Reconcile`, on every change; the last one counts
    …
    await hosting.close()
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from msgspec.structs import replace

from agent import errors
from agent.host import life
from agent.host.desired import Desired
from agent.host.life import ReconcileMemory
from agent.host.observation import HostObservation
from agent.host.ports import conflicts, held_ports
from agent.host.reconcile import current_of, reconcile
from agent.host.states import replica_states
from agent.model.report import HostResources, ObservedReplica, PortConflict, RuntimeInfo
from agent.model.spec import ReplicaKey
from agent.model.stack import RuntimeName
from agent.model.types import Label
from agent.model.usage import MAX_USED, ReplicaUsage
from agent.model.workload import Workload
from agent.node.driver.acting import ActionFailed, Executor, Result, Started, StartFailed
from agent.node.driver.checking import Checker
from agent.node.driver.compose_files import ComposeFiles
from agent.node.driver.endpoint_files import EndpointFiles
from agent.node.driver.examining import Examiner
from agent.node.driver.sampling import sample
from agent.node.driver.supplies import Supplies
from agent.node.effects import Examine, Reconcile
from agent.runtime.protocol import KeepsVolumes, LoadsImages, RawLine, Runtime
from agent.tasks import cancel_and_wait, must_not_fail

SWEEP_INTERVAL_S = 5.0  # a lost hint is made good within this; an observation costs a few milliseconds
COMPOSE_AFTER_S = 1.0  # people wait for starts, and nobody for the file of what was started
RESOURCES_INTERVAL_S = 10.0  # load and free disk are only shown
ENGINE_TIMEOUT_S = 20.0  # an engine that takes longer to list its workloads hangs, and others must not wait for it
LOG_RUN_INTERVAL_S = 0.2  # while somebody follows a replica between two of its runs; nobody reads faster
LAST_WORDS_TIMEOUT_S = 2.0  # the reason is shown without them then


class Hosting:
    """All methods on the event loop. `on_observed` is called there whenever the observation changed."""

    def __init__(
        self,
        runtimes: Iterable[Runtime],
        *,
        publish_address: str,
        data_dir: Path,
        on_observed: Callable[[HostObservation], None],
        supplies: Supplies | None = None,
    ) -> None:
        self._runtimes: Mapping[RuntimeName, Runtime] = {runtime.name: runtime for runtime in runtimes}
        self._on_observed = on_observed
        self._wake = asyncio.Event()
        self._checker = Checker(publish_address=publish_address, data_dir=data_dir, on_change=self._wake.set)
        self._compose = ComposeFiles(data_dir, publish_address=publish_address)
        self._endpoints = EndpointFiles(data_dir / "endpoints")
        self._executor = Executor(self._runtimes, self._result, self._progress, supplies)
        self._supplies = supplies
        self._examiner = Examiner(
            self._runtimes,
            held=lambda: held_ports(self._everything()),
            on_change=self._wake.set,
            supplier=supplies,
        )
        self._desired: Desired | None = None
        self._applied = 0
        self._memory = ReconcileMemory()
        self._workloads: dict[RuntimeName, tuple[Workload, ...]] = {}
        self._infos: dict[RuntimeName, RuntimeInfo] = {}
        self._unasked: set[RuntimeName] = set()
        self._resources = HostResources()
        self._dirty: set[RuntimeName] = set(self._runtimes)
        self._looking: set[RuntimeName] = set()
        self._sweep_at = 0.0
        self._resources_at = 0.0
        self._compose_from = self._compose_by = 0.0
        self._tidied: dict[RuntimeName, tuple[frozenset[str], frozenset[str]]] = {}
        self._doomed: frozenset[str] = frozenset()
        self._swept: frozenset[str] | None = None
        self._words: dict[ReplicaKey, asyncio.Task[None]] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self.observation = HostObservation()

    async def open(self) -> None:
        """Open the runtimes and begin."""
        for runtime in self._runtimes.values():
            await runtime.open()
        self._tasks = [asyncio.create_task(self._run(), name="hosting")]
        for runtime in self._runtimes.values():
            self._tasks.append(asyncio.create_task(self._follow(runtime), name=f"changes of {runtime.name}"))
        for task in self._tasks:
            task.add_done_callback(must_not_fail)

    async def close(self) -> None:
        """Stop looking and acting. Workloads keep running."""
        await cancel_and_wait(*self._tasks)
        await self._examiner.close()
        await self._executor.close()
        await self._checker.close()
        words = list(self._words.values())
        await cancel_and_wait(*words)
        for runtime in self._runtimes.values():
            await runtime.close()

    def set_desired(self, wanted: Reconcile) -> None:
        """What this host has to run from now on."""
        desired = wanted.desired
        self._applied = wanted.applied
        now = time.monotonic()
        before = self._desired.specs if self._desired is not None else ()
        begins = {(spec.key, spec.hash) for spec in desired.specs} - {(spec.key, spec.hash) for spec in before}
        if begins and now >= self._compose_from:
            self._compose_from = now + COMPOSE_AFTER_S
        self._compose_by = now + SWEEP_INTERVAL_S
        self._desired = desired
        # A stack goes from the ledger as soon as its replicas are gone; its volumes are deleted here all the same.
        self._doomed = (self._doomed | desired.delete_volumes_of) - desired.stacks
        if self._supplies is not None:
            self._supplies.want(desired)
        self._executor.abandon({spec.key: spec.hash for spec in desired.specs})
        self._wake.set()

    def examine(self, wanted: Examine) -> None:
        """What the coordinator wants to know of this host from now on; findings are part of the observation."""
        self._examiner.set(wanted.tasks)

    async def load_image(self, archive: Path) -> tuple[str, ...] | None:
        """The names of the images that an engine here has loaded; None when no engine here takes any.

        Raises RuntimeUnavailable, or Unprocessable with the engine's words.
        """
        for runtime in self._runtimes.values():
            if isinstance(runtime, LoadsImages):
                return await runtime.load_image(archive)
        return None

    @property
    def takes_images(self) -> bool:
        """Whether `load_image` has somewhere to load them."""
        return any(isinstance(runtime, LoadsImages) for runtime in self._runtimes.values())

    async def volume_path(self, stack: Label, volume: str, *, make: bool = False) -> Path | None:
        """Where a stack's named volume is on this host; None when there is none. Raises RuntimeUnavailable and the
        like.

        If it is to be created and no engine here has volumes, raises Unprocessable.
        """
        for runtime in self._runtimes.values():
            if isinstance(runtime, KeepsVolumes):
                return await runtime.volume_path(stack, volume, make=make)
        if make:
            raise errors.Unprocessable("no engine on this host keeps volumes", where=f"{stack}/{volume}")
        return None

    def runs(self, stack: Label) -> bool:
        """Whether anything of the stack ran when this host was looked at last, or is about to."""
        workloads = (each for known in self._workloads.values() for each in known)
        return any(each.key.stack == stack and each.state != "exited" for each in workloads)

    async def logs(
        self, key: ReplicaKey, *, tail: int | None = None, since: datetime | None = None, follow: bool = False
    ) -> AsyncGenerator[RawLine]:
        """The replica's output here; `follow` continues over its restarts and successors until it is no longer wanted.

        Raises NotFound when this host has nothing of it and, when following, isn't going to.
        """
        workload = self._workload_of(key)
        if workload is None and not (follow and self._wants(key)):
            placed = self._desired is not None and any(spec.key == key for spec in self._desired.stopped)
            never = placed or self._wants(key)
            raise errors.NotFound(f"{key} hasn't run here yet" if never else f"this host doesn't run {key}")
        run: tuple[str, int] | None = None
        seen = ""
        begun = datetime.now(UTC)
        while workload is not None or (follow and self._wants(key)):
            if workload is not None and (workload.id, workload.started_at) != run:
                run, before = (workload.id, workload.started_at), seen
                found = self._runtimes[workload.runtime].logs(workload.id, tail=tail, since=since, follow=follow)
                async for line in found:
                    if not line.at or line.at > before:
                        seen = max(line.at, seen)
                        yield line
                # The next run: from the last line on where lines have times, else from when this one was read out.
                tail, since = None, _moment_of(seen) or (datetime.now(UTC) if workload.runtime == "process" else begun)
            if not follow:
                return
            await asyncio.sleep(LOG_RUN_INTERVAL_S)
            workload = self._workload_of(key)

    async def usage(self, stack: Label | None, host: str) -> tuple[ReplicaUsage, ...]:
        """What replicas of the stack, or all, use here. Raises as their engines."""
        running = (each for each in self._everything() if each.state == "running")
        chosen = [each for each in running if stack in (None, each.key.stack)][:MAX_USED]
        return await sample(self._runtimes, chosen, host, self._resources.memory_mib * 1024 * 1024)

    # The loop

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            now = time.monotonic()
            if now >= self._sweep_at:
                self._dirty |= self._runtimes.keys()
                self._unasked |= self._runtimes.keys()
                self._sweep_at = now + SWEEP_INTERVAL_S
            await self._observe()
            if self._desired is not None:
                await self._endpoints.keep(self._desired)
            self._plan()
            await asyncio.sleep(0)  # what begins is told with what it was begun for
            await self._keep_compose(now)
            self._publish()
            await self._tidy()
            await self._pause()

    async def _keep_compose(self, now: float) -> None:
        """Waits for the starts that it describes, which people wait for; for a pull no longer than a sweep."""
        held_up = self._executor.busy and now < self._compose_by
        if self._desired is not None and now >= self._compose_from and not held_up:
            await self._compose.keep(self._desired)

    async def _pause(self) -> None:
        """Until something happens, the next moment that matters, or the next sweep."""
        now = time.monotonic()
        moments = [self._sweep_at, life.wake_at(self._memory, now) or self._sweep_at]
        if self._compose_from > now:
            moments.append(self._compose_from)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(max(min(moments) - now, 0.001)):
                await self._wake.wait()

    async def _follow(self, runtime: Runtime) -> None:
        async for _ in runtime.changes():
            self._dirty.add(runtime.name)
            self._wake.set()

    async def _observe(self) -> None:
        dirty, self._dirty = self._dirty, set()
        self._executor.look_begins()
        await asyncio.gather(*(self._look(self._runtimes[name]) for name in sorted(dirty)))
        now = time.monotonic()
        if now >= self._resources_at and self._runtimes:
            self._resources_at = now + RESOURCES_INTERVAL_S
            with contextlib.suppress(errors.RuntimeUnavailable):
                self._resources = await next(iter(self._runtimes.values())).resources()

    async def _look(self, runtime: Runtime) -> None:
        """An engine that doesn't answer says nothing about its workloads: the last observation stays."""
        self._looking.add(runtime.name)
        try:
            async with asyncio.timeout(ENGINE_TIMEOUT_S):
                self._workloads[runtime.name] = await runtime.observe()
                # An engine that shows its workloads is there; which one it is needn't be asked at every change.
                if runtime.name in self._unasked or not self._available(runtime.name):
                    self._infos[runtime.name] = await runtime.info()
                    self._unasked.discard(runtime.name)
        except TimeoutError:
            reason = f"no answer within {ENGINE_TIMEOUT_S:g} s"
        except errors.MusterError as error:
            reason = error.what
        except OSError as error:
            reason = error.strerror or "input/output error"
        else:
            return
        finally:
            self._looking.discard(runtime.name)
        self._infos[runtime.name] = RuntimeInfo(name=runtime.name, available=False, reason=reason)

    def _everything(self) -> tuple[Workload, ...]:
        workloads = (workload for found in self._workloads.values() for workload in found)
        return tuple(map(self._checker.judged, workloads))

    def _plan(self) -> None:
        """Reconcile and begin to act; only on engines that answer."""
        desired = self._desired
        if desired is None:
            return
        specs = {spec.key: spec for spec in desired.specs}
        self._checker.watch(specs, tuple(workload for found in self._workloads.values() for workload in found))
        workloads = self._everything()
        away = {name for name in self._runtimes if not self._available(name)}
        held = {workload.key for workload in workloads if workload.runtime in away}
        for key, spec in specs.items():
            if spec.runtime in away and key not in held:
                held.add(key)
                info = self._infos.get(spec.runtime)
                reason = f"{spec.runtime} isn't available: {info.reason if info else 'not asked yet'}"
                self._memory = life.waiting(self._memory, spec, reason)
        before = self._memory
        busy = self._executor.busy | held
        actions, self._memory = reconcile(desired, workloads, before, time.monotonic(), busy=busy)
        self._ask_last_words(before)
        self._executor.execute(actions)

    def _available(self, name: RuntimeName) -> bool:
        info = self._infos.get(name)
        return name in self._workloads and info is not None and info.available

    def _publish(self) -> None:
        """Report what changed since the last time."""
        now = time.monotonic()
        replicas: tuple[ObservedReplica, ...] = ()
        desired = self._desired
        if desired is not None:
            found = replica_states(desired, self._everything(), self._memory, self._executor.doing, now)
            replicas = tuple(map(self._with_words, found))
        observation = HostObservation(
            applied=self._applied if desired is not None else 0,
            replicas=replicas,
            busy_ports=self._busy_ports(),
            findings=self._examiner.findings,
            runtimes=tuple(self._infos[name] for name in sorted(self._infos)),
            resources=self._resources,
        )
        if observation != self.observation:
            self.observation = observation
            self._on_observed(observation)

    def _with_words(self, replica: ObservedReplica) -> ObservedReplica:
        """Reports a failure once the replica's last words are here: what is rolled back is gone soon."""
        key = ReplicaKey(stack=replica.stack, service=replica.service, slot=replica.slot)
        asked = self._words.get(key)
        if replica.state == "failed" and asked is not None and not asked.done():
            return replace(replica, state="backoff")
        return replica

    def _busy_ports(self) -> tuple[PortConflict, ...]:
        wanted = self._desired.specs if self._desired is not None else ()
        return tuple(dict.fromkeys((*conflicts(self._memory.lives, wanted), *self._examiner.conflicts)))

    async def _tidy(self) -> None:
        """Once nothing is left to do, remove what stacks that are gone have left behind."""
        desired = self._desired
        if desired is None or self._executor.busy:
            return
        there = {workload.key.stack for workload in self._everything()}
        wanted = (desired.stacks | there, self._doomed - there)
        for runtime in self._runtimes.values():
            if self._is_tidy(runtime.name, *wanted):
                self._tidied[runtime.name] = wanted
            elif self._available(runtime.name):
                with contextlib.suppress(errors.MusterError):  # tried again at the next round; nothing depends on it
                    if await runtime.tidy(*wanted):
                        self._tidied[runtime.name] = wanted
        if all(self._tidied.get(name) == wanted for name in self._runtimes):
            self._doomed -= wanted[1] - desired.delete_volumes_of
        if self._supplies is not None and self._swept != wanted[0]:
            with contextlib.suppress(errors.MusterError, OSError):
                await self._supplies.sweep(wanted[0])
                self._swept = wanted[0]

    def _is_tidy(self, name: RuntimeName, kept: frozenset[str], doomed: frozenset[str]) -> bool:
        """Whether nothing can have been left behind since the last time."""
        before = self._tidied.get(name)
        return before is not None and before[0] <= kept and doomed <= before[1]

    # Results

    def _progress(self, runtime: RuntimeName | None) -> None:
        if runtime is not None and runtime in self._runtimes:
            self._dirty.add(runtime)
        self._wake.set()

    def _result(self, result: Result) -> None:
        now = time.monotonic()
        match result:
            case Started(key=key, workload=workload):
                self._take_in(workload)
                self._memory = life.started(self._memory, key)
            case StartFailed(key=key):
                self._memory = life.start_failed(
                    self._memory, key, result.reason, now, final=result.final, busy_ports=result.busy_ports
                )
            case ActionFailed(key=key):
                self._memory = life.action_failed(self._memory, key, result.reason, now)
        self._wake.set()

    def _take_in(self, workload: Workload) -> None:
        """The replica has nothing else now, so the engine needn't be asked for everything that it runs."""
        for name, known in self._workloads.items():
            self._workloads[name] = tuple(each for each in known if each.key != workload.key)
        self._workloads[workload.runtime] = (*self._workloads.get(workload.runtime, ()), workload)
        self._dirty |= self._looking  # a look that is under way may be from before

    # Logs

    def _workload_of(self, key: ReplicaKey) -> Workload | None:
        found = [workload for workload in self._everything() if workload.key == key]
        spec = next((spec for spec in self._desired.specs if spec.key == key), None) if self._desired else None
        return (current_of(spec, found) if spec else None) or max(found, key=lambda w: w.started_at, default=None)

    def _wants(self, key: ReplicaKey) -> bool:
        return self._desired is not None and any(spec.key == key for spec in self._desired.specs)

    def _ask_last_words(self, before: ReconcileMemory) -> None:
        """Fetch the last log lines of what has just ended by itself, was restarted, or became unhealthy."""
        for key, after in self._memory.lives.items():
            if after.counted == before.life(key).counted or not after.counted:
                continue
            workload = self._workload_of(key)
            if workload is not None:
                if (asked := self._words.pop(key, None)) is not None:
                    asked.cancel()
                task = asyncio.create_task(self._last_words(workload, after.counted), name=f"last words of {key}")
                task.add_done_callback(lambda _: self._wake.set())
                self._words[key] = task

    async def _last_words(self, workload: Workload, counted: str) -> None:
        lines: list[str] = []
        with contextlib.suppress(TimeoutError, errors.MusterError):
            async with asyncio.timeout(LAST_WORDS_TIMEOUT_S):
                runtime = self._runtimes[workload.runtime]
                async for line in runtime.logs(workload.id, tail=life.MAX_LOG_LINES, since=None, follow=False):
                    lines.append(line.line)
        if self._memory.life(workload.key).counted == counted and lines:
            self._memory = life.with_log(self._memory, workload.key, tuple(lines))


def _moment_of(at: str) -> datetime | None:
    """A line's time, to the microsecond."""
    return datetime.fromisoformat(at) if at else None
