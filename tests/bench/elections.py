"""Changes of coordinator: one that is planned, and those that nothing but a busy machine could cause."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

from agent.client import Client, home_client
from agent.errors import MusterError
from agent.home import open_home
from agent.model.instruction import Act, Cancel, Drain, Undrain
from bootstrap.local import LocalCluster
from tests.bench.figures import Figure
from tests.bench.measures import READY_TIMEOUT_S, SETTLE_S, coordinator_of, pause, ready_cluster
from tests.support.waiting import wait_for_sync

BUSY_S = float(os.environ.get("MUSTER_BENCH_BUSY_S", "60"))  # 600 for the figure that is promised
HOGS_PER_CORE = 2
TARGET = "stack:bench"


def handover(runs: int) -> list[Figure]:
    """The coordinator is stopped cleanly, or drained, while an operator writes → the longest wait for an answer."""
    figures: list[Figure] = []
    with ready_cluster() as cluster:
        for how, resign, back in (("stopped", LocalCluster.stop, LocalCluster.start), ("drained", _drain, _undrain)):
            waits, refused = [], 0
            for _ in range(max(runs, 5)):
                lost = coordinator_of(cluster, "n1") or coordinator_of(cluster, "n2")
                assert lost is not None
                through = next(name for name in cluster.names if name != lost)
                longest, failed = asyncio.run(_write_through(cluster, through, partial(resign, cluster, lost)))
                waits.append(longest)
                refused += failed
                back(cluster, lost)
                cluster.wait_ready(timeout_s=READY_TIMEOUT_S)
                pause(2.0)  # else the next run would measure an agent that is still catching up
            name = f"hand-over, {how}"
            figures += [
                Figure(name=f"{name}: longest wait for an instruction", unit="s", values=waits, target=0.1, digits=3),
                Figure(name=f"{name}: instructions refused", unit="", values=[refused], target=0, digits=0),
            ]
    return figures


def _drain(cluster: LocalCluster, name: str) -> None:
    """To the end of its coordinating: a drained host goes on voting."""
    through = next(other for other in cluster.names if other != name)
    _sign(cluster, "drain", name, Drain())
    wait_for_sync(
        lambda: coordinator_of(cluster, through) not in (None, name), READY_TIMEOUT_S, what="another coordinator"
    )


def _undrain(cluster: LocalCluster, name: str) -> None:
    _sign(cluster, "undrain", name, Undrain())


def _sign(cluster: LocalCluster, act: Act, name: str, body: Drain | Undrain) -> None:
    host = next(member.id for member in cluster.members(name) if member.name == name)

    async def sign() -> None:
        async with home_client(open_home(cluster.home)) as client:
            await client.submit(act, f"host:{host}", body)

    asyncio.run(sign())


async def _write_through(cluster: LocalCluster, through: str, resign: Callable[[], None]) -> tuple[float, int]:
    """One instruction after another while the coordinator resigns: the longest took so long; so many were refused."""
    longest, failed = 0.0, 0
    async with home_client(open_home(cluster.home), via=through) as client:
        await client.submit("cancel", TARGET, Cancel())
        resigning = asyncio.create_task(asyncio.to_thread(resign))
        while not resigning.done():
            took, accepted = await _timed_submit(client)
            longest, failed = max(longest, took), failed + (not accepted)
        await resigning
        took, accepted = await _timed_submit(client)
    return max(longest, took), failed + (not accepted)


async def _timed_submit(client: Client) -> tuple[float, bool]:
    began = time.perf_counter()
    try:
        await client.submit("cancel", TARGET, Cancel())
    except MusterError:
        return time.perf_counter() - began, False
    return time.perf_counter() - began, True


def false_elections(_: int) -> list[Figure]:
    """All cores are kept busy by others → terms that began although every agent was well."""
    with ready_cluster() as cluster:
        pause(SETTLE_S)
        before = cluster.status("n1").term
        with busy_cores():
            pause(BUSY_S)
            after = cluster.status("n1").term
    hogs = HOGS_PER_CORE * (os.cpu_count() or 1)
    note = f"{hogs} processes that never sleep beside three agents, for {BUSY_S:.0f} s; MUSTER_BENCH_BUSY_S sets it"
    return [Figure(name="false elections", unit="", values=[after - before], target=0, digits=0, note=note)]


@contextmanager
def busy_cores() -> Iterator[None]:
    """Nothing is left of any core."""
    context = multiprocessing.get_context("spawn")
    hogs = [context.Process(target=_spin, daemon=True) for _ in range(HOGS_PER_CORE * (os.cpu_count() or 1))]
    for hog in hogs:
        hog.start()
    try:
        yield
    finally:
        for hog in hogs:
            hog.kill()
            hog.join()


def _spin() -> None:
    while True:
        pass
