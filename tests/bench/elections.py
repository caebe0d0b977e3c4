"""Changes of coordinator: one that is planned, and those that nothing but a busy machine could cause."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from agent.client import Client, home_client
from agent.errors import MusterError
from agent.home import open_home
from agent.model.instruction import Cancel
from bootstrap.local import LocalCluster
from tests.bench.figures import Figure
from tests.bench.measures import READY_TIMEOUT_S, SETTLE_S, coordinator_of, pause, ready_cluster

BUSY_S = float(os.environ.get("MUSTER_BENCH_BUSY_S", "60"))  # 600 for the figure that is promised
HOGS_PER_CORE = 2
TARGET = "stack:bench"


def handover(runs: int) -> list[Figure]:
    """The coordinator is stopped cleanly while an operator writes without a pause → the longest wait for an answer."""
    waits, refused = [], 0
    with ready_cluster() as cluster:
        for _ in range(max(runs, 5)):
            lost = coordinator_of(cluster, "n1") or coordinator_of(cluster, "n2")
            assert lost is not None
            through = next(name for name in cluster.names if name != lost)
            longest, failed = asyncio.run(_write_through(cluster, through, lost))
            waits.append(longest)
            refused += failed
            cluster.start(lost)
            cluster.wait_ready(timeout_s=READY_TIMEOUT_S)
            pause(2.0)  # else the next run would measure an agent that is still catching up
    return [
        Figure(name="hand-over, longest wait for an instruction", unit="s", values=waits, target=0.1, digits=3),
        Figure(name="hand-over, instructions refused", unit="", values=[refused], target=0, digits=0),
    ]


async def _write_through(cluster: LocalCluster, through: str, lost: str) -> tuple[float, int]:
    """One instruction after another while `lost` stops: the longest took so long, and so many were refused."""
    longest, failed = 0.0, 0
    async with home_client(open_home(cluster.home), via=through) as client:
        await client.submit("cancel", TARGET, Cancel())
        stopping = asyncio.create_task(asyncio.to_thread(cluster.stop, lost))
        while not stopping.done():
            took, accepted = await _timed_submit(client)
            longest, failed = max(longest, took), failed + (not accepted)
        await stopping
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
