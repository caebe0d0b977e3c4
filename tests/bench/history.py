"""A ledger with a long past: how soon its agent serves again, and what its disk holds beside the live state."""

from __future__ import annotations

import asyncio
import os

from agent.config import read_config
from agent.model.stack import Stack
from agent.node.driver.agent import Agent
from agent.state import encode_snapshot
from bootstrap.local import LocalCluster
from tests.bench.figures import Figure
from tests.bench.measures import READY_TIMEOUT_S, empty_stack, fresh_cluster, serves, timed
from tests.support.agents import Desk
from tests.support.waiting import wait_for, wait_for_sync

ENTRIES = int(os.environ.get("MUSTER_BENCH_ENTRIES", "100000"))
STACKS = 2000  # what is alive: each with its newest deploy
AT_ONCE = 100  # stacks that change together; more than an agent verifies in a group commit's time
MB = 1_000_000


def history(runs: int) -> list[Figure]:
    """A ledger of 100,000 entries: its agent is started → serves; its disk beside the live state."""
    with fresh_cluster(1) as cluster:
        live = asyncio.run(fill(cluster))
        starts = []
        for _ in range(runs):
            starts.append(timed(lambda: (cluster.start("n1"), wait_for_sync(lambda: serves(cluster, "n1"), 60))))
            cluster.wait_ready(timeout_s=READY_TIMEOUT_S)
            cluster.stop("n1")
        data = cluster.directory / "n1" / "data"
        disk = sum(path.stat().st_size for path in data.glob("ledger.db*"))
    note = f"{live / MB:.1f} MB are {STACKS} stacks as a snapshot; without the audit's segments"
    return [
        Figure(name=f"{ENTRIES} entries: started, serves", unit="s", values=starts, target=2.0),
        Figure(name="ledger on disk beside live state", unit="×", values=[disk / live], target=3.0, note=note),
    ]


async def fill(cluster: LocalCluster) -> int:
    """Deploys through the agent itself, without HTTP, until the ledger is that long; the live state's size in bytes."""
    desk = Desk(cluster)
    template = empty_stack()
    agent = await Agent.start(read_config(str(cluster.directory / "n1" / "agent.toml"), {}, {}))
    try:
        await wait_for(lambda: agent.driver.core.context.leads, what="it coordinates")
        revision, first = 1, 0
        while agent.driver.state.index < ENTRIES:
            names = [f"s{number}" for number in range(first, first + AT_ONCE)]
            await asyncio.gather(*(_deploy(agent, desk, template, name, revision) for name in names))
            first = (first + AT_ONCE) % STACKS
            revision += first == 0
        return len(encode_snapshot(agent.driver.state))
    finally:
        await agent.stop()


async def _deploy(agent: Agent, desk: Desk, template: Stack, name: str, revision: int) -> None:
    stack = Stack(name=name, services=template.services)
    result = await agent.driver.requests.submit(*desk.sign("deploy", f"stack:{name}", revision, stack))
    assert result.outcome == "applied", result
