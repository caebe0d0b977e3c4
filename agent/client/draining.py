"""Drains hosts and watches until what may leave them has arrived elsewhere."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection

from msgspec import Struct

from agent.client.client import Client
from agent.errors import NoMajority, TimedOut, Unreachable
from agent.model.instruction import Drain, InstructionResult
from agent.model.status import ReplicaStatus, ServiceStatus, StackStatus, Status
from agent.model.types import AgentId

LOOK_EVERY_S = 0.5  # a replica moves in a second or more


class Left(Struct, frozen=True, kw_only=True):
    """A replica (`web/web.1`) that was found on a drained host and isn't healthy elsewhere yet.

    `host`: where it is now. `stays`: it can't leave. `why` it stays, or what it waits for; empty when nothing is known.
    `next`: the host of its successor, which isn't healthy yet or only just. `alone`: why it stops before its successor
    starts; empty: it doesn't.
    """

    replica: str
    host: str
    stays: bool
    why: str = ""
    next: str = ""
    alone: str = ""

    @property
    def text(self) -> str:
        """For people, without the host."""
        return f"{self.replica} ({self.why})" if self.why else self.replica


class Look(Struct, frozen=True, kw_only=True):
    """`over`: nothing will leave any more by itself, and what left is healthy. `left` is by replica."""

    over: bool
    left: tuple[Left, ...] = ()


class Evacuation:
    """What one status after another says of the replicas that were seen on `hosts`."""

    def __init__(self, hosts: Collection[AgentId]) -> None:
        self._hosts = frozenset(hosts)
        self._left: set[str] = set()

    def look(self, status: Status) -> Look:
        """How far it is."""
        drained = [host for host in status.hosts if host.id in self._hosts]
        names = {host.name for host in drained}
        left: list[Left] = []
        for stack in status.stacks:
            for service in stack.services:
                for replica in service.replicas:
                    item = self._judge(stack, service, replica, names)
                    left += [item] if item is not None else []
        known = not status.stale and all(host.cordoned for host in drained)
        return Look(over=known and all(item.stays for item in left), left=tuple(left))

    def _judge(
        self, stack: StackStatus, service: ServiceStatus, replica: ReplicaStatus, names: set[str]
    ) -> Left | None:
        name = f"{stack.name}/{service.name}.{replica.slot}"
        if replica.host in names:
            self._left.add(name)
            why = replica.stays or _waits_for(stack, service, replica)
            return Left(replica=name, host=replica.host, stays=bool(replica.stays), why=why, alone=replica.alone)
        if replica.predecessor in names:
            self._left.add(name)
            return Left(
                replica=name,
                host=replica.predecessor,
                stays=False,
                why=_how(replica),
                next=replica.host,
                alone=replica.alone,
            )
        if name in self._left and service.wanted and replica.state != "healthy":
            return Left(replica=name, host=replica.host, stays=False, why=_how(replica))
        return None


def _how(replica: ReplicaStatus) -> str:
    return replica.state + (f": {replica.reason}" if replica.reason else "")


def _waits_for(stack: StackStatus, service: ServiceStatus, leaving: ReplicaStatus) -> str:
    """What a replica waits for: they leave one by one, while the others are healthy, to a host that is ready."""
    others = (other for other in service.replicas if other.slot != leaving.slot and other.state != "healthy")
    sick = next(others, None) if service.wanted else None
    if sick is not None:
        return f"waits for {stack.name}/{service.name}.{sick.slot} on {sick.host} ({sick.state})"
    checks = (check for check in stack.checks if check.service == service.name and check.state != "ready")
    return next((f"{check.host} isn't ready for it: {check.detail or check.state}" for check in checks), "")


def replicas_on(status: Status, host: AgentId) -> tuple[Left, ...]:
    """All replicas there; `stays` says what is known before a drain."""
    names = {each.name for each in status.hosts if each.id == host}
    return tuple(
        Left(
            replica=f"{stack.name}/{service.name}.{replica.slot}",
            host=replica.host,
            stays=bool(replica.stays),
            why=replica.stays,
            alone=replica.alone,
        )
        for stack in status.stacks
        for service in stack.services
        for replica in service.replicas
        if replica.host in names
    )


async def drain(client: Client, hosts: Collection[AgentId]) -> dict[AgentId, InstructionResult]:
    """Sign it for all hosts at once, so that nothing moves from one of them to another. Raises as `Client.submit`."""
    wanted = sorted(hosts)
    results = await asyncio.gather(*(client.submit("drain", f"host:{host}", Drain()) for host in wanted))
    return dict(zip(wanted, results, strict=True))


async def until_left(
    client: Client, hosts: Collection[AgentId], *, wait_s: float, tell: Callable[[Look], None]
) -> Look:
    """The last look: when it is over, or after `wait_s`. Raises as `Client.status` when nobody answers in that time."""
    evacuation, deadline = Evacuation(hosts), time.monotonic() + wait_s
    newest: Look | None = None
    while True:
        try:
            newest = evacuation.look(await client.status())
        except (Unreachable, NoMajority, TimedOut):  # the coordinator may be the one that is drained
            if newest is None and time.monotonic() >= deadline:
                raise
        else:
            tell(newest)
        if newest is not None and (newest.over or time.monotonic() >= deadline):
            return newest
        await asyncio.sleep(LOOK_EVERY_S)
