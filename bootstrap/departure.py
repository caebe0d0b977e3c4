"""Taking hosts out of a cluster that continues: their replicas move away, then the hosts are expelled one by one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from agent.client import Client, home_client
from agent.client.draining import Left, Look, drain, replicas_on, until_left
from agent.client.majority import check_majority
from agent.errors import Conflict, MusterError
from agent.home import Home
from agent.model.instruction import Expel, Undrain
from agent.model.status import Status
from agent.model.types import AgentId
from bootstrap.progress import Display
from bootstrap.site import Site

HAND_OVER_TIMEOUT_S: Final = 5.0  # for another voter to coordinate; mostly it does within a second
SETTLE_TIMEOUT_S: Final = 20.0  # for the rest to be whole after one voter is gone, before the next goes
SETTLE_ROUND_S: Final = 0.2

_TAKE_FEWER: Final = (
    "Take fewer hosts at a time, other hosts vote half a minute later; or all of them, without --limit."
)

Confirm = Callable[[Sequence[Left]], bool]
"""Whether to go on although these replicas end with their hosts; may ask a person, and runs in a thread."""


class Departure:
    """`run` it once. `failed` gets each host that couldn't be expelled; `wait_s` bounds how long replicas may take to
    move.
    """

    def __init__(
        self,
        home: Home,
        display: Display,
        *,
        failed: Callable[[Site, MusterError], None],
        confirm: Confirm,
        wait_s: float,
    ) -> None:
        self._home, self._display = home, display
        self._failed, self._confirm, self._wait_s = failed, confirm, wait_s
        self._told: dict[str, str] = {}
        self.moved: dict[AgentId, tuple[str, ...]] = {}
        self.lost: dict[AgentId, tuple[Left, ...]] = {}

    async def look(self, sites: Mapping[AgentId, Site]) -> None:
        """What `run` would move and lose, in `moved` and `lost`. Raises as `run`."""
        async with await asyncio.to_thread(home_client, self._home) as client:
            status = await client.status()
            leaving = _members(status, sites)
            check_majority(status, frozenset(leaving), fix=_TAKE_FEWER)
            for host in leaving:
                there = replicas_on(status, host)
                self.moved[host] = tuple(item.replica for item in there if not item.stays)
                self.lost[host] = tuple(item for item in there if item.stays)

    async def run(self, sites: Mapping[AgentId, Site]) -> None:
        """Takes those of the sites out that are members.

        Raises NotAllowed before anything is done when too few voters would stay; Conflict for a no, after undraining
        the hosts.
        """
        async with await asyncio.to_thread(home_client, self._home) as client:
            status = await client.status()
            leaving = _members(status, sites)
            check_majority(status, frozenset(leaving), fix=_TAKE_FEWER)
            if not leaving:
                return
            client.prefer(next(host.name for host in status.hosts if host.id not in leaving and host.state == "alive"))
            await self._empty(client, status, leaving)
            for host, site in leaving.items():
                site.tell("expelling")
                try:
                    await client.submit("expel", f"member:{host}", Expel(reason="bootstrap uninstall"))
                except MusterError as error:
                    self._failed(site, error)
                    continue
                await self._settled(client, host)

    async def _empty(self, client: Client, status: Status, leaving: Mapping[AgentId, Site]) -> None:
        """Drain all of them at once, so that nothing moves to a host that leaves too."""
        before = {host: replicas_on(status, host) for host in leaving}
        for site in leaving.values():
            site.tell("draining")
        await drain(client, leaving)
        try:
            look = await until_left(
                client, leaving, wait_s=self._wait_s, tell=lambda it: self._tell(status, leaving, it)
            )
        except asyncio.CancelledError:
            self._display.note("the hosts stay drained; `agent undrain` lets them be used again")
            raise
        names = {host.id: host.name for host in status.hosts}
        for host in leaving:
            self.lost[host] = tuple(item for item in look.left if item.host == names[host])
            there = {item.replica for item in self.lost[host]}
            self.moved[host] = tuple(item.replica for item in before[host] if item.replica not in there)
        left = [item for items in self.lost.values() for item in items]
        if left and not await asyncio.to_thread(self._confirm, left):
            for host in leaving:
                await client.submit("undrain", f"host:{host}", Undrain())
            raise Conflict("stopped before anything was taken away", fix="The hosts were undrained.")
        await self._handed_over(client, leaving)

    def _tell(self, status: Status, leaving: Mapping[AgentId, Site], look: Look) -> None:
        """Each host's own line: how many replicas are left there, and the first with its reason."""
        names = {host.id: host.name for host in status.hosts}
        for host, site in leaving.items():
            there = [item for item in look.left if item.host == names[host]]
            text = (
                f"draining, {len(there)} left: " + there[0].text + (", …" if there[1:] else "") if there else "drained"
            )
            if self._told.get(host) != text:
                self._told[host] = text
                site.tell(text)

    async def _handed_over(self, client: Client, leaving: Mapping[AgentId, Site]) -> None:
        """A drained coordinator hands over by itself; if it were expelled before that, there would be an election."""
        deadline = time.monotonic() + HAND_OVER_TIMEOUT_S
        while time.monotonic() < deadline:
            status = await _status(client)
            if status is not None and status.coordinator is not None and status.coordinator.id not in leaving:
                return
            await asyncio.sleep(SETTLE_ROUND_S)

    async def _settled(self, client: Client, gone: AgentId) -> None:
        """Waits until the host is gone from the status, or the time is up."""
        deadline = time.monotonic() + SETTLE_TIMEOUT_S
        while time.monotonic() < deadline:
            status = await _status(client)
            if status is not None and not status.stale and all(host.id != gone for host in status.hosts):
                return
            await asyncio.sleep(SETTLE_ROUND_S)


async def _status(client: Client) -> Status | None:
    """None while nobody answers: an election may be under way."""
    try:
        return await client.status()
    except MusterError:
        return None


def _members(status: Status, sites: Mapping[AgentId, Site]) -> dict[AgentId, Site]:
    known = {host.id for host in status.hosts}
    return {host: site for host, site in sites.items() if host in known}
