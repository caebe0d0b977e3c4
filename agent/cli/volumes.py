"""Puts volumes back on the hosts where a stack's replicas are placed now."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Collection
from urllib.parse import quote

from agent.cli.options import Options
from agent.cli.restoring import StackPlan, slots_of
from agent.client import Client
from agent.client.backup import put
from agent.client.backup_file import Backup
from agent.errors import Conflict, DeploymentFailed
from agent.formats.backup import Part
from agent.model.spec import ReplicaKey
from agent.model.types import Label
from agent.state import ClusterState

PLACING_TIMEOUT_S = 300.0  # main waits for the services before it, workers for main
ROUND_S = 0.5  # between two looks
TRIES = 20  # ROUND_S apart: a host may still be about to see that its replicas have stopped


async def wait_for_places(client: Client, stack: Label, wanted: Collection[ReplicaKey]) -> dict[ReplicaKey, Label]:
    """The host of each of these replicas, once all of them have one. Raises DeploymentFailed."""
    deadline = time.monotonic() + PLACING_TIMEOUT_S
    while True:
        status = await client.status()
        found = next((each for each in status.stacks if each.name == stack), None)
        places = {
            ReplicaKey(stack=stack, service=service.name, slot=replica.slot): replica.host
            for service in (found.services if found is not None else ())
            for replica in service.replicas
        }
        if set(wanted) <= places.keys():
            return places
        if time.monotonic() > deadline or (found is not None and found.phase == "failed"):
            lacking = ", ".join(sorted(str(key) for key in set(wanted) - places.keys()))
            what = f"no host has {lacking}, so its volumes weren't put back"
            raise DeploymentFailed(what, where=stack, fix="`agent status` says why; then restore with --volumes.")
        await asyncio.sleep(ROUND_S)


def targets(state: ClusterState, plan: StackPlan, places: dict[ReplicaKey, Label]) -> list[tuple[Part, Label]]:
    """Which volume goes to which host: where the replica that had it is now. Raises Conflict for two on one host."""
    found: dict[tuple[str, Label], Part] = {}
    for part in plan.volumes:
        slots = slots_of(state, plan, part) & places.keys()
        for host in sorted({places[slot] for slot in slots}):
            other = found.setdefault((part.volume, host), part)
            if other is not part:
                what = f"volume {part.volume} of {other.host} and of {part.host} would both go to {host}"
                fix = "Restore onto as many hosts as there were, or pin the service's replicas apart."
                raise Conflict(what, where=plan.name, fix=fix)
    return [(part, host) for (_, host), part in sorted(found.items(), key=lambda item: item[0])]


async def place_volumes(
    client: Client, options: Options, found: Backup, plan: StackPlan, chosen: list[tuple[Part, Label]]
) -> None:
    """Send each, one after another, while nothing of the stack runs. Raises as `put`."""
    for part, host in chosen:
        path = f"/api/v1/backup/volumes/{plan.name}/{quote(part.volume, safe='')}"
        for left in range(TRIES, -1, -1):
            content = _told(found.content(part), part, host, options)
            try:
                await put(client, host, path, digest=part.sha256, size=part.size, content=content)
            except Conflict:
                if not left:
                    raise
                await asyncio.sleep(ROUND_S)
            else:
                break


async def _told(content: AsyncIterator[bytes], part: Part, host: Label, options: Options) -> AsyncIterator[bytes]:
    sent, shown = 0, -1
    async for data in content:
        yield data
        sent += len(data)
        percent = sent * 100 // max(part.size, 1)
        if not options.json and percent // 10 > shown:
            shown = percent // 10
            print(f"volume {part.stack}/{part.volume} to {host}: {percent} %", file=sys.stderr)
