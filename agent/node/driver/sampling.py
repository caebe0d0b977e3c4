"""What workloads use: two samples of their engines' counters. Shell (asyncio)."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from agent.model.spec import ReplicaKey
from agent.model.stack import RuntimeName
from agent.model.usage import ReplicaUsage
from agent.model.workload import Workload
from agent.runtime.protocol import Counters, Runtime

SAMPLE_S = 0.5  # between the two looks; a person waits for it, and shorter is mostly noise


async def sample(
    runtimes: Mapping[RuntimeName, Runtime], workloads: Sequence[Workload], host: str, host_bytes: int
) -> tuple[ReplicaUsage, ...]:
    """Samples those that are still there at the second look; `host_bytes`: the host's memory. Raises as an engine."""
    known = {each.id: each for each in workloads}
    before = await _counters(runtimes, workloads)
    await asyncio.sleep(SAMPLE_S)
    after = await _counters(runtimes, [known[each] for each in before])
    used = (usage_of(known[each].key, host, before[each], after[each], host_bytes) for each in after)
    return tuple(sorted(used, key=lambda each: (each.stack, each.service, each.slot)))


async def _counters(runtimes: Mapping[RuntimeName, Runtime], workloads: Sequence[Workload]) -> dict[str, Counters]:
    found: dict[str, Counters] = {}
    for name, runtime in runtimes.items():
        if ids := [each.id for each in workloads if each.runtime == name]:
            found |= await runtime.counters(ids)
    return found


def usage_of(key: ReplicaKey, host: str, before: Counters, after: Counters, host_bytes: int) -> ReplicaUsage:
    """From two samples of the same workload. A counter that went back (it was restarted) counts as nothing used."""
    passed_s = after.at_s - before.at_s
    used_s = max(after.cpu_s - before.cpu_s, 0.0)
    limits = [limit for limit in (after.memory_limit_bytes, host_bytes) if limit > 0]
    return ReplicaUsage(
        stack=key.stack,
        service=key.service,
        slot=key.slot,
        host=host,
        cpu_percent=round(100 * used_s / passed_s, 1) if passed_s > 0 else 0.0,
        memory_bytes=after.memory_bytes,
        memory_limit_bytes=min(limits, default=0),
    )
