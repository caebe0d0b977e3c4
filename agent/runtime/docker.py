"""The Docker runtime: containers, through the engine's API. Docker itself is the record of what runs (its labels).

Several agents may share one dockerd (a demonstration on one machine): each only sees what is its own by
`containers.is_own`, whatever identity its host had when it was made.
Ports are published on the agent's publish address alone. An ended container of the same spec is started again, so its
log goes on; anything else is made anew. A revision is no part of a spec's hash, so the revision label may lag.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, TypeVar

from agent import errors
from agent.host.endpoints import DIRECTORY, VARIABLE
from agent.host.policy import volume_kind
from agent.model.ledger import AssignedPort
from agent.model.report import HostResources, RuntimeInfo
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.stack import Image, RuntimeName, Volume
from agent.model.types import AgentId, ClusterId, is_label
from agent.model.workload import Workload
from agent.runtime import containers
from agent.runtime.engine import Engine, EngineRefused, NotThere
from agent.runtime.hints import Hints
from agent.runtime.images import ensure_image
from agent.runtime.machine import host_resources
from agent.runtime.protocol import Counters, Progress, RawLine
from agent.runtime.sockets import taken_ports
from agent.tasks import cancel_and_wait

AT_ONCE = 4  # containers inspected or sampled at once; the engine serialises most of it anyway
RECONNECT_FIRST_S = 0.2  # a restart of dockerd takes about a second
RECONNECT_MAX_S = 5.0  # while it is away
PREPARED_S = 10.0  # a start comes within a second or two of its preparation; later the image is looked for again

A = TypeVar("A")
T = TypeVar("T")


class DockerRuntime:
    """Implements `agent.runtime.protocol.Runtime`. `base_url` None: what DOCKER_HOST says, else the usual socket."""

    def __init__(
        self,
        *,
        cluster: ClusterId,
        agent: AgentId,
        data_dir: Path,
        publish_address: str,
        base_url: str | None = None,
    ) -> None:
        self._owner = containers.owner_labels(cluster, agent)
        self._data_dir = data_dir
        self._stacks = data_dir / "stacks"
        self._publish_address = publish_address
        self._engine = Engine(base_url or os.environ.get("DOCKER_HOST") or None)
        self._few = asyncio.Semaphore(AT_ONCE)
        self._hints = Hints()
        self._making_networks = asyncio.Lock()
        self._prepared: dict[Image, tuple[str, float]] = {}
        self._starting: set[ReplicaKey] = set()
        self._there: set[ReplicaKey] | None = None
        self._listening: asyncio.Task[None] | None = None

    @property
    def name(self) -> RuntimeName:
        return "docker"

    async def open(self) -> None:
        self._listening = asyncio.create_task(self._listen(), name="docker events")

    async def close(self) -> None:
        self._hints.close()
        await cancel_and_wait(self._listening)
        await self._engine.close()

    async def info(self) -> RuntimeInfo:
        try:
            version = await self._engine.ping()
        except errors.MusterError as error:
            return RuntimeInfo(name="docker", available=False, reason=error.what)
        return RuntimeInfo(name="docker", available=True, version=version)

    async def resources(self) -> HostResources:
        return await asyncio.to_thread(host_resources, self._data_dir)

    async def observe(self) -> tuple[Workload, ...]:
        self._there = None
        found = await self._observe(containers.OF_ANY_AGENT)
        self._there = {workload.key for workload in found}
        return found

    async def prepare(self, spec: ReplicaSpec, progress: Progress) -> None:
        now = time.monotonic()
        self._prepared = {image: found for image, found in self._prepared.items() if now < found[1]}
        image = await self._image(spec, progress)
        if spec.image is not None:
            self._prepared[spec.image] = image, time.monotonic() + PREPARED_S

    async def taken(self, ports: Sequence[AssignedPort]) -> tuple[int, ...]:
        return await asyncio.to_thread(taken_ports, self._publish_address, ports)

    async def load_image(self, archive: Path) -> tuple[str, ...]:
        try:
            return await self._engine.load(archive)
        finally:
            self._prepared.clear()

    async def start(self, spec: ReplicaSpec, progress: Progress) -> Workload:
        self._starting.add(spec.key)
        try:
            if (prepared := self._prepared_image(spec)) is not None:
                with contextlib.suppress(NotThere):  # it is gone again
                    return await self._start(spec, prepared, progress)
            return await self._start(spec, await self._image(spec, progress), progress)
        finally:
            self._starting.discard(spec.key)

    async def stop(self, workload_id: str) -> None:
        inspected = await self._engine.inspect(workload_id)
        if inspected is not None:
            timeout = inspected["Config"].get("StopTimeout") or containers.DEFAULT_STOP_TIMEOUT_S
            await self._engine.stop(workload_id, int(timeout))

    async def remove(self, workload_id: str) -> None:
        await self._engine.remove(workload_id)

    async def tidy(self, stacks_in_use: frozenset[str], delete_volumes_of: frozenset[str]) -> bool:
        done = await self._engine.remove_networks(self._owner, stacks_in_use)
        for stack in sorted(delete_volumes_of):
            if is_label(stack):
                done &= await self._engine.remove_volumes(self._owner, stack)
                await asyncio.to_thread(shutil.rmtree, self._stack_dir(stack), ignore_errors=True)
        return done

    async def volume_path(self, stack: str, volume: str, *, make: bool = False) -> Path | None:
        return await self._engine.volume_path(containers.scoped_name(stack, volume), self._labels(stack), make=make)

    async def counters(self, workload_ids: Sequence[str]) -> dict[str, Counters]:
        found = zip(workload_ids, await self._each(self._counters, workload_ids), strict=True)
        return {each: counters for each, counters in found if counters is not None}

    async def logs(
        self, workload_id: str, *, tail: int | None, since: datetime | None, follow: bool
    ) -> AsyncIterator[RawLine]:
        """`follow` ends when the container does."""
        with contextlib.suppress(errors.NotFound):
            found = self._engine.logs(workload_id, tail=tail, since=since, follow=follow)
            async with contextlib.aclosing(found) as lines:
                async for line in lines:
                    yield line

    def changes(self) -> AsyncIterator[ReplicaKey | None]:
        return self._hints.take()

    async def _listen(self) -> None:
        """The engine's events as hints; connects again for ever, and after each gap anything may have changed."""
        pause = RECONNECT_FIRST_S
        while True:
            try:
                async with self._engine.events(containers.OF_ANY_AGENT) as messages:
                    self._hints.give(None)
                    async for message in messages:
                        pause = RECONNECT_FIRST_S
                        labels = _labels_of(message)
                        if not self._is_own(labels):
                            continue
                        key = containers.key_of(labels)
                        if key not in self._starting or message["Action"] != "start":  # ours is told by its answer
                            self._hints.give(key)
            except errors.MusterError:
                pass  # away, or its answer broke off: `info` tells, and the next try follows
            self._hints.give(None)
            await asyncio.sleep(pause)
            pause = min(pause * 2, RECONNECT_MAX_S)

    async def _image(self, spec: ReplicaSpec, progress: Progress) -> str:
        if spec.image is None:
            raise errors.Unprocessable("has no image to run with Docker", where=str(spec.key))

        return await ensure_image(self._engine, spec.image, partial(progress, "pulling"))

    def _prepared_image(self, spec: ReplicaSpec) -> str | None:
        """The image that `prepare` has just found."""
        found = self._prepared.get(spec.image) if spec.image is not None else None
        return found[0] if found is not None and time.monotonic() < found[1] else None

    async def _counters(self, workload_id: str) -> Counters | None:
        stats = await self._engine.stats(workload_id)
        return containers.counters_of(stats, time.monotonic()) if stats is not None else None

    async def _observe(self, labels: Mapping[str, str]) -> tuple[Workload, ...]:
        """Those of the containers with these labels that are ours."""
        listed = await self._engine.list_labels(labels)
        found = await self._each(self._engine.inspect, [each for each in listed if self._is_own(listed[each])])
        workloads = (containers.workload_of(inspected) for inspected in found if inspected is not None)
        return tuple(workload for workload in workloads if workload is not None)

    async def _each(self, work: Callable[[A], Awaitable[T]], items: Iterable[A]) -> list[T]:
        async def one(item: A) -> T:
            async with self._few:
                return await work(item)

        tasks = [asyncio.create_task(one(item)) for item in items]
        try:
            return await asyncio.gather(*tasks)
        finally:  # the rest is of no use once one failed, and would hold up what comes next
            await cancel_and_wait(*tasks)

    def _is_own(self, labels: Mapping[str, str]) -> bool:
        return containers.is_own(labels, self._owner, self._stacks)

    def _labels(self, stack: str) -> dict[str, str]:
        """Of a stack's networks and volumes."""
        return {**self._owner, "muster.stack": stack, "com.docker.compose.project": stack}

    def _stack_dir(self, stack: str) -> Path:
        return self._stacks / stack

    async def _start(self, spec: ReplicaSpec, image: str, progress: Progress) -> Workload:
        """Start the ended container of this spec again, else create one. One that can't be started is removed."""
        progress("starting", "")
        async with self._making_networks:  # two replicas that begin together make one network
            for network in containers.network_names(spec):
                await self._engine.ensure_network(network, self._labels(spec.key.stack))
        known = self._there is not None and spec.key not in self._there  # from the last look at all that there is
        found = () if known else await self._observe(containers.key_labels(spec.key))
        present = [each for each in found if each.spec_hash == spec.hash]
        for workload in present:
            if workload.state in ("running", "restarting"):
                return workload
        if taken := await self.taken(spec.ports):
            raise errors.PortTaken(taken, where=str(spec.key))
        container = await self._reusable(spec, present, image)
        for workload in present:
            if workload.id != container:
                await self._engine.remove(workload.id)
        if container is None:
            try:
                container = await self._create(spec, image)
            except errors.Conflict:
                if not known:
                    raise
                self._there = None  # perhaps it came since: look
                return await self._start(spec, image, progress)
        if self._there is not None:
            self._there.add(spec.key)
        try:
            await self._engine.start(container)
            return await self._workload(container)
        except errors.MusterError as error:
            with contextlib.suppress(errors.MusterError):
                await self._engine.remove(container)
            raise await self._start_error(spec, error) from error

    async def _reusable(self, spec: ReplicaSpec, present: list[Workload], image: str) -> str | None:
        for workload in present:
            if workload.state == "exited" and workload.image_id == image:
                inspected = await self._engine.inspect(workload.id)
                labels = (inspected or {}).get("Config", {}).get("Labels") or {}
                if labels.get("muster.facts") == containers.facts_hash(spec):
                    return workload.id
        return None

    async def _create(self, spec: ReplicaSpec, image: str) -> str:
        for name in containers.named_volumes(spec):
            await self._engine.ensure_volume(name, self._labels(spec.key.stack))
        body = containers.configuration(
            spec,
            image=image,
            binds=await asyncio.to_thread(self._binds, spec),
            publish_address=self._publish_address,
            stack_dir=PurePosixPath(self._stack_dir(spec.key.stack)),
        )
        try:
            container = await self._engine.create(spec.container_name, body)
        except EngineRefused as error:
            if error.code == 409:
                what = f"a container named {spec.container_name} is there already and isn't this replica's"
                raise errors.Conflict(
                    what, fix=f"`docker rm {spec.container_name}` there, or another `container_name`."
                ) from error
            raise
        try:
            for network in containers.network_names(spec)[1:]:
                await self._engine.connect(container, network, spec.key.service)
        except errors.MusterError:
            with contextlib.suppress(errors.MusterError):
                await self._engine.remove(container)
            raise
        return container

    def _binds(self, spec: ReplicaSpec) -> list[str]:
        """In a thread: directories that don't exist yet are made."""
        return [*(self._bind(spec, volume) for volume in spec.volumes), *self._endpoints(spec)]

    def _bind(self, spec: ReplicaSpec, volume: Volume) -> str:
        kind, source = volume_kind(volume), volume.source
        if kind == "named":
            source = containers.scoped_name(spec.key.stack, source)
        elif kind == "relative":
            root = self._stack_dir(spec.key.stack)
            root.mkdir(mode=0o750, parents=True, exist_ok=True)
            path = Path(os.path.realpath(root / source))
            # A replica with a writable mount could have put a link there.
            if not path.is_relative_to(os.path.realpath(root)):
                raise errors.NotAllowed(f"volume {volume.source!r} leads out of the stack's directory")
            if not path.exists():
                path.mkdir(parents=True)
            source = str(path)
        return containers.bind(source, volume.container_path, read_only=volume.read_only)

    def _endpoints(self, spec: ReplicaSpec) -> list[str]:
        """The mount of the stack's endpoints, unless the plan mounts something else there."""
        if VARIABLE not in spec.facts:
            return []
        if any(f"{volume.container_path}/".startswith(f"{DIRECTORY}/") for volume in spec.volumes):
            return []
        path = self._data_dir / "endpoints" / spec.key.stack
        path.mkdir(mode=0o755, parents=True, exist_ok=True)
        return [containers.bind(str(path), DIRECTORY, read_only=True)]

    async def _workload(self, container: str) -> Workload:
        inspected = await self._engine.inspect(container)
        workload = containers.workload_of(inspected) if inspected is not None else None
        if workload is None:
            raise errors.MusterError("the container went away while it was started")
        return workload

    async def _start_error(self, spec: ReplicaSpec, error: errors.MusterError) -> errors.MusterError:
        """Another program may have taken the port between our test and Docker's own bind."""
        said = error.what.lower()
        if "port is already allocated" in said or "address already in use" in said:
            taken = await self.taken(spec.ports)
            return errors.PortTaken(taken or tuple(port.host_port for port in spec.ports), where=str(spec.key))
        return error


def _labels_of(message: Any) -> Mapping[str, str]:
    """Of the container that an event is about."""
    found: Mapping[str, str] = message.get("Actor", {}).get("Attributes", {}) if isinstance(message, dict) else {}
    return found
