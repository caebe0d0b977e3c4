"""Carries out a plan: each replica's actions in order, replicas in parallel within a bound. Shell.

An action that fails ends the rest of its replica's plan; the next plan begins from what is there then.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Protocol

from msgspec import Struct

from agent import errors
from agent.host.reconcile import Action, Prepare, Remove, Start, Stop
from agent.host.states import Doing
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.stack import RuntimeName
from agent.model.workload import Workload
from agent.runtime.protocol import Progress, Runtime
from agent.tasks import cancel_and_wait

MAX_PARALLEL_REPLICAS = 8  # more would only queue at the engine and the disk, and pulls would starve each other
MAX_REASON_CHARACTERS = 500  # an engine's message; longer ones are stack traces


class Started(Struct, frozen=True, kw_only=True):
    """A start worked; `workload` is now the only one of its replica."""

    workload: Workload

    @property
    def key(self) -> ReplicaKey:
        return self.workload.key


class StartFailed(Struct, frozen=True, kw_only=True):
    """A start didn't work. `final`: trying again soon won't help."""

    key: ReplicaKey
    reason: str
    final: bool = False
    busy_ports: tuple[int, ...] = ()


class ActionFailed(Struct, frozen=True, kw_only=True):
    """A stop or remove didn't work, or the engine is away."""

    key: ReplicaKey
    reason: str


Result = Started | StartFailed | ActionFailed


class Supplier(Protocol):
    """The part of agent.node.driver.supplies.Supplies that is used here."""

    async def fetch(self, spec: ReplicaSpec, progress: Progress) -> None: ...

    async def lay(self, spec: ReplicaSpec, progress: Progress) -> None: ...


class Executor:
    """`on_result` gets each start and each failure, `on_change` is called whenever progress was made. On the event
    loop.

    `on_change` gets the runtime that has to be looked at, None if there is nothing that it would show. `supplier`
    brings what replicas need beside their images; None: nothing can be had.
    """

    def __init__(
        self,
        runtimes: Mapping[RuntimeName, Runtime],
        on_result: Callable[[Result], None],
        on_change: Callable[[RuntimeName | None], None],
        supplier: Supplier | None = None,
    ) -> None:
        self._runtimes = runtimes
        self._supplier = supplier
        self._on_result = on_result
        self._on_change = on_change
        self._slots = asyncio.Semaphore(MAX_PARALLEL_REPLICAS)
        self._tasks: dict[ReplicaKey, tuple[tuple[Action, ...], asyncio.Task[bool]]] = {}
        self._unseen: set[ReplicaKey] = set()
        self.doing: dict[ReplicaKey, Doing] = {}

    @property
    def busy(self) -> frozenset[ReplicaKey]:
        """Replicas with actions under way, or whose actions ended after the last look began, which may not show that
        yet.
        """
        return frozenset(self._tasks) | self._unseen

    def look_begins(self) -> None:
        """The look that begins now shows what has ended so far."""
        self._unseen.clear()

    def execute(self, actions: Iterable[Action]) -> None:
        """Begin; none of these replicas may be busy."""
        plans: dict[ReplicaKey, list[Action]] = {}
        for action in actions:
            plans.setdefault(action.key, []).append(action)
        for key, plan in plans.items():
            if key in self._tasks:
                raise errors.InvariantBroken(f"{key} has actions under way")
            task = asyncio.create_task(self._run(key, tuple(plan)), name=f"actions for {key}")
            self._tasks[key] = (tuple(plan), task)
            task.add_done_callback(partial(self._done, key))

    def abandon(self, wanted: Mapping[ReplicaKey, str]) -> None:
        """Cancel starts of what is no longer wanted (`wanted`: spec hashes); a pull may take long."""
        for key, (plan, task) in self._tasks.items():
            starts = [action.spec.hash for action in plan if isinstance(action, Start | Prepare)]
            if starts and wanted.get(key) != starts[0]:
                task.cancel()

    async def close(self) -> None:
        """Cancel everything under way; nothing half-made stays that the next agent wouldn't see."""
        tasks = [task for _, task in self._tasks.values()]
        await cancel_and_wait(*tasks)

    def _done(self, key: ReplicaKey, task: asyncio.Task[bool]) -> None:
        plan, _ = self._tasks.pop(key)
        self.doing.pop(key, None)
        self._unseen.add(key)
        is_told = not task.cancelled() and task.exception() is None and task.result()
        self._on_change(None if is_told else _runtime_of(plan[0]))
        if not task.cancelled() and (error := task.exception()) is not None:
            # Not one of ours: a bug. The loop's handler ends the process (a broken invariant is never gone over).
            asyncio.get_running_loop().call_exception_handler(
                {"message": f"acting on {key} failed", "exception": error, "task": task}
            )

    async def _run(self, key: ReplicaKey, plan: tuple[Action, ...]) -> bool:
        """Runs a plan. Whether the rest of the replica was reported: the workload of a start that ends the plan."""
        async with self._slots:
            for action in plan:
                try:
                    await self._act(action)
                except errors.PortTaken as error:
                    self._on_result(StartFailed(key=key, reason=_reason(error), busy_ports=error.ports))
                    return False
                except errors.RuntimeUnavailable as error:
                    self._on_result(ActionFailed(key=key, reason=_reason(error)))
                    return False
                except errors.MusterError as error:
                    self._on_result(_failure(action, error))
                    return False
                except OSError as error:  # e.g. the disk is full
                    self._on_result(_failure(action, errors.MusterError(error.strerror or "input/output error")))
                    return False
        return isinstance(plan[-1], Start)

    async def _act(self, action: Action) -> None:
        runtime = self._runtimes.get(_runtime_of(action))
        if runtime is None:
            raise errors.NotFound(f"this host has no {_runtime_of(action)} runtime")
        key = action.key

        def progress(step: str, detail: str) -> None:
            self._show(key, Doing(state="pulling" if step == "pulling" else "starting", detail=detail))

        match action:
            case Prepare(spec=spec):
                if self._supplier is not None:
                    await self._supplier.fetch(spec, progress)
                await runtime.prepare(spec, progress)
            case Start(spec=spec):
                progress("starting", "")
                if self._supplier is not None:
                    await self._supplier.lay(spec, progress)
                self._on_result(Started(workload=await runtime.start(spec, progress)))
            case Stop(workload_id=workload_id):
                self._show(key, Doing(state="stopping"))
                await runtime.stop(workload_id)
            case Remove(workload_id=workload_id):
                await runtime.remove(workload_id)

    def _show(self, key: ReplicaKey, doing: Doing) -> None:
        if self.doing.get(key) != doing:
            self.doing[key] = doing
            self._on_change(None)


def _runtime_of(action: Action) -> RuntimeName:
    return action.spec.runtime if isinstance(action, Start | Prepare) else action.runtime


def _failure(action: Action, error: errors.MusterError) -> Result:
    if isinstance(action, Start | Prepare):
        return StartFailed(key=action.key, reason=_reason(error), final=isinstance(error, errors.NotFound))
    return ActionFailed(key=action.key, reason=_reason(error))


def _reason(error: errors.MusterError) -> str:
    return (f"{error.what} ({error.fix})" if error.fix else error.what)[:MAX_REASON_CHARACTERS]
