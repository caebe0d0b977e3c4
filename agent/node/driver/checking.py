"""Runs the health checks that the agent makes, one task for each replica that has one. Shell (sockets, processes).

What to ask and what an answer means is `agent.host.checks`; how to ask, `agent.runtime.probes`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from msgspec.structs import replace

from agent.host.checks import CheckPlan, CheckState, answered, begin, check_plan
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.workload import Workload
from agent.runtime import spawn
from agent.runtime.probes import Answer, probe_command, probe_http, probe_tcp
from agent.runtime.sockets import local_address
from agent.tasks import cancel_and_wait

MAX_PARALLEL_CHECKS = 32  # slow answers of one stack must not keep the loop's sockets busy for all others

Run = tuple[str, int, str]
"""(workload id, started at, spec hash): another run is checked from the start."""


class Checker:
    """`on_change` is called when a replica's health changed. All methods on the event loop."""

    def __init__(self, *, publish_address: str, data_dir: Path, on_change: Callable[[], None]) -> None:
        self._address = local_address(publish_address)
        self._data_dir = data_dir
        self._on_change = on_change
        self._slots = asyncio.Semaphore(MAX_PARALLEL_CHECKS)
        self._states: dict[ReplicaKey, CheckState] = {}
        self._tasks: dict[ReplicaKey, tuple[Run, asyncio.Task[None]]] = {}

    def watch(self, specs: Mapping[ReplicaKey, ReplicaSpec], workloads: tuple[Workload, ...]) -> None:
        """Check exactly these from now on: those that run as they are wanted, and have a check."""
        wanted: dict[ReplicaKey, tuple[Run, CheckPlan]] = {}
        for workload in workloads:
            spec = specs.get(workload.key)
            if spec is None or workload.state != "running" or workload.spec_hash != spec.hash:
                continue
            if (plan := check_plan(spec)) is not None:
                wanted[workload.key] = ((workload.id, workload.started_at, spec.hash), plan)
        for key in list(self._tasks):
            if key not in wanted or wanted[key][0] != self._tasks[key][0]:
                self._tasks.pop(key)[1].cancel()
                self._states.pop(key, None)
        for key, (run, plan) in wanted.items():
            if key not in self._tasks:
                self._states[key] = begin(time.monotonic())
                task = asyncio.create_task(self._check_forever(specs[key], plan), name=f"check of {key}")
                self._tasks[key] = (run, task)

    def judged(self, workload: Workload) -> Workload:
        """The workload with our health beside the engine's: both must be good."""
        state = self._states.get(workload.key)
        held = self._tasks.get(workload.key)
        if state is None or held is None or held[0][:2] != (workload.id, workload.started_at):
            return workload
        if workload.health == "unhealthy" or (workload.health == "starting" and state.health == "healthy"):
            return workload
        return replace(workload, health=state.health, reason=state.reason or workload.reason)

    async def close(self) -> None:
        """Stop asking."""
        tasks = [task for _, task in self._tasks.values()]
        self._tasks.clear()
        await cancel_and_wait(*tasks)

    async def _check_forever(self, spec: ReplicaSpec, plan: CheckPlan) -> None:
        while True:
            state = self._states[spec.key]
            await asyncio.sleep(max(state.due - time.monotonic(), 0))
            async with self._slots:
                answer = await self._ask(spec, plan)
            after = answered(plan, state, answer.ok, answer.reason, time.monotonic())
            self._states[spec.key] = after
            if (after.health, after.reason) != (state.health, state.reason):
                self._on_change()

    async def _ask(self, spec: ReplicaSpec, plan: CheckPlan) -> Answer:
        if spec.health is None:
            assert spec.health_check is not None
            return await probe_command(
                spec.health_check.test,
                environment=spawn.environment_of(spec, ""),
                directory=self._data_dir / "stacks" / spec.key.stack,
                timeout_s=plan.timeout_s,
            )
        probe = spec.health
        port = _port(spec, probe.container_port)
        if port is None:
            return Answer(False, f"container port {probe.container_port} isn't published, so it can't be checked")
        refused: list[str] = []
        for address in self._addresses(spec):
            if probe.kind == "tcp":
                answer = await probe_tcp(address, port, timeout_s=plan.timeout_s)
            else:
                answer = await probe_http(address, port, scheme=probe.scheme, path=probe.path, timeout_s=plan.timeout_s)
            if not answer.refused:
                return answer
            refused.append(answer.where)
        return Answer(False, f"{' and '.join(refused)}: connection refused")

    def _addresses(self, spec: ReplicaSpec) -> tuple[str, ...]:
        """Where the replica may listen. A plain process binds what it likes: all addresses, or the
        one that it is told.
        """
        told = spec.facts.get("MUSTER_HOST", "")
        if spec.runtime != "process" or not told:
            return (self._address,)
        return tuple(dict.fromkeys((self._address, told)))


def _port(spec: ReplicaSpec, container_port: int) -> int | None:
    for port in spec.ports:
        if port.container_port == container_port and port.protocol == "tcp":
            return port.host_port
    return container_port if spec.runtime == "process" else None
