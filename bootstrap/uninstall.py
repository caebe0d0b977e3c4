"""Uninstalling: a whole cluster, or some of its hosts while the rest continues."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

from msgspec import Struct

from agent.errors import MusterError, NotAllowed
from agent.home import Home
from bootstrap.connection import Connection
from bootstrap.departure import Confirm, Departure
from bootstrap.install import CONNECTING_AT_ONCE, forget_members
from bootstrap.inventory import InventoryHost
from bootstrap.progress import Display
from bootstrap.site import Removed, Site, member_of
from bootstrap.ssh import SshSettings


class RemovalResult(Struct, frozen=True, kw_only=True):
    """The outcome for a host; `what` is empty when it went well.

    `moved` are replicas that went elsewhere, `lost` those that ended with the host, and why they had to. What is `kept`
    is removed with --delete-volumes; what is `left` can't be removed.
    """

    host: str
    moved: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    kept: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    what: str = ""
    where: str = ""
    fix: str = ""


class Removal:
    """`run` it once. `whole`: the cluster ends; else the hosts are drained and expelled, and the rest continues."""

    def __init__(
        self,
        home: Home,
        hosts: Sequence[InventoryHost],
        *,
        settings: SshSettings,
        display: Display,
        whole: bool,
        delete_volumes: bool = False,
        password: str | None = None,
        dry: bool = False,
        confirm: Confirm,
        wait_s: float,
    ) -> None:
        self._home, self._settings, self._display = home, settings, display
        self._whole, self._delete_volumes, self._password, self._dry = whole, delete_volumes, password, dry
        self._connecting = asyncio.Semaphore(CONNECTING_AT_ONCE)
        self._sites = [Site(host=host, tell=self._teller(host.alias)) for host in hosts]
        self._removed: dict[str, Removed] = {}
        self._departure = Departure(home, display, failed=self._fail, confirm=confirm, wait_s=wait_s)

    async def run(self) -> list[RemovalResult]:
        """Raises MusterError for what concerns all, e.g. NotAllowed when too few voters would be left."""
        try:
            await self._each(self._reach)
            if not self._whole:
                leaving = {site.id: site for site in self._sites if site.ok and site.id is not None}
                await (self._departure.look(leaving) if self._dry else self._departure.run(leaving))
            await self._each(self._remove)
            if not self._dry:
                gone = frozenset(site.id for site in self._sites if site.ok and site.id is not None)
                if not self._whole:
                    self._home = await asyncio.to_thread(forget_members, self._home, gone)
            return [self._result(site) for site in self._sites]
        finally:
            await asyncio.gather(*(site.close() for site in self._sites))

    async def _reach(self, site: Site) -> None:
        async with self._connecting:
            site.tell("connecting")
            site.connection = await Connection.open(site.host, self._settings, self._password)
        facts = await site.probe(site.host.python)
        if not facts.root:
            raise NotAllowed("the helper isn't root there", fix="Use root@, or a user that may use sudo.")
        if facts.installed.certificate is not None:
            site.id = member_of(facts.installed.certificate, self._home.cluster.id)

    async def _remove(self, site: Site) -> None:
        self._removed[site.host.alias] = await site.remove(
            cluster=self._home.cluster.id, delete_volumes=self._delete_volumes, dry=self._dry
        )
        self._display.done(site.host.alias, "looked at" if self._dry else "uninstalled")

    async def _each(self, act: Callable[[Site], Awaitable[None]]) -> None:
        async def one(site: Site) -> None:
            try:
                await act(site)
            except MusterError as error:
                self._fail(site, error)

        await asyncio.gather(*(one(site) for site in self._sites if site.ok))

    def _fail(self, site: Site, error: MusterError) -> None:
        site.error = error
        self._display.failed(site.host.alias, error)

    def _teller(self, alias: str) -> Callable[[str], None]:
        return lambda text: self._display.step(alias, text)

    def _result(self, site: Site) -> RemovalResult:
        error, removed = site.error, self._removed.get(site.host.alias, Removed())
        moved, lost = self._departure.moved, self._departure.lost
        return RemovalResult(
            host=site.host.alias,
            moved=moved.get(site.id, ()) if site.id is not None else (),
            lost=tuple(item.text for item in lost.get(site.id, ())) if site.id is not None else (),
            removed=removed.removed,
            kept=removed.kept,
            left=removed.left,
            what=error.what if error is not None else "",
            where=error.where if error is not None else "",
            fix=error.fix if error is not None else "",
        )
