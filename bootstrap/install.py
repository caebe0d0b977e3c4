"""Installing: all hosts at once, in three rounds with a look at all of them in between.

1. Reach each host and look; send the agent's files, which stay beside their place until it is known that no two lines
   lead to one host; then put them there and start the agent, which makes its keys and waits. Who is slow to answer
   holds up only what needs all hosts.
2. The genesis is made of the hosts reached, or the new ones are enrolled; identities go out, agents go on.
3. Wait until all of them see each other.

A host that fails is left where it is, and says why; the others go on.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from agent.errors import DeploymentFailed, InputError, MusterError, Unreachable
from agent.home import GENESIS_FILE, Home, KnownMember, open_home, remember
from agent.model.decode import convert
from agent.model.instruction import Act, Body, Relabel
from agent.model.types import AgentId, Labels
from agent.tasks import cancel_and_wait
from bootstrap.bundle import Bundle, Target, build, resource
from bootstrap.connection import Connection
from bootstrap.genesis import enrol_body, grant, make_genesis, remember_members
from bootstrap.inventory import InventoryHost
from bootstrap.plan import Options, check_room, config_text, is_ours, make_plan, needs_restart, seeds_of
from bootstrap.progress import Display
from bootstrap.site import CONFIG_FILE, UNIT_FILE, Site, check_unique, member_of
from bootstrap.ssh import SshSettings, key_file

CONNECTING_AT_ONCE: Final = 16  # a handshake is a burst of CPU on both sides; a bastion's sshd takes 10 to 100
SLOW_LOOK_S: Final = 5.0  # since the last host was looked at: the others are slow, or don't answer for ssh's 10 s
RESTART_TIMEOUT_S: Final = 10.0  # until a restarted agent knows the coordinator again; then the next one's turn comes
MAX_CHECKED_HOSTS: Final = 32  # each new host tries each other one: a thousand connections
TOLD_TIMEOUT_S: Final = 3.0  # until an agent knows a coordinator, or is told that it was expelled: both at once
READY_TIMEOUT_S: Final = 30.0  # agents that reach each other are ready within two


class HostResult(Struct, frozen=True, kw_only=True):
    """The outcome for a host: installed, changed, unchanged, planned (a dry run) or failed."""

    host: str
    name: str | None
    address: str | None
    state: str
    changed: tuple[str, ...]
    notes: tuple[str, ...]
    what: str = ""
    where: str = ""
    fix: str = ""


class Installation:
    """`run` it once. The home must exist; a genesis is made when it has none."""

    def __init__(
        self,
        home: Home,
        hosts: Sequence[InventoryHost],
        *,
        settings: SshSettings,
        options: Options,
        display: Display,
        cache: Path,
        password: str | None = None,
        dry: bool = False,
    ) -> None:
        self._home = home
        self._settings, self._options, self._display = settings, options, display
        self._cache, self._password, self._dry = cache, password, dry
        self._own = Target.own()
        self._bundles: dict[Target, asyncio.Task[Bundle]] = {}
        self._sending: dict[str, asyncio.Task[tuple[Bundle, bool]]] = {}
        self._connecting = asyncio.Semaphore(CONNECTING_AT_ONCE)
        self._restarting = asyncio.Semaphore(1)
        self._restart: dict[str, bool] = {}
        self.sites = [self._site(host) for host in hosts]

    async def run(self) -> list[HostResult]:
        """Raises MusterError only for what concerns all hosts; what concerns one is in its result."""
        try:
            self._bundle(self._own)  # while ssh connects
            await self._look_and_prepare()
            check_unique(self.sites)
            if self._dry:
                await self._each(self.sites, self._foresee)
            else:
                await self._join()
            for site in self.sites:
                if site.error is None:
                    self._display.done(site.host.alias, self._told(site))
            return [self._result(site) for site in self.sites]
        finally:
            tasks = [*self._sending.values(), *self._bundles.values()]
            await cancel_and_wait(*tasks)
            await asyncio.gather(*(site.close() for site in self.sites))

    @property
    def home(self) -> Home:
        """As it is after the run."""
        return self._home

    # Round 1

    async def _look_and_prepare(self) -> None:
        """Looks at all before any is changed, except for slow ones: if two lines lead to one host, a late one is
        refused alone.
        """
        looking = {asyncio.create_task(self._each([site], self._look)): site for site in self.sites}
        try:
            late, waited_s = set(looking), None
            while late:
                done, late = await asyncio.wait(late, timeout=waited_s, return_when=asyncio.FIRST_COMPLETED)
                if not done:
                    break
                waited_s = SLOW_LOOK_S

            async def prepare_late(task: asyncio.Task[None]) -> None:
                await task
                self._check_addresses([looking[task]])
                await self._each([looking[task]], self._prepare)

            await asyncio.gather(*(task for task in looking if task not in late))  # what concerns all hosts ends it
            early = [site for task, site in looking.items() if task not in late]
            self._check_addresses(early)
            await asyncio.gather(self._each(early, self._prepare), *map(prepare_late, late))
        finally:
            await cancel_and_wait(*looking)

    async def _look(self, site: Site) -> None:
        """Finds out what is there, and what has to be done."""
        async with self._connecting:
            site.tell("connecting")
            site.connection = await Connection.open(site.host, self._settings, self._password)
        facts = await site.probe(site.host.python)
        site.plan = plan = make_plan(site.host, facts, self._options, self._own, time.time())
        site.notes += plan.notes
        if facts.installed.certificate is not None:
            site.id = member_of(facts.installed.certificate, self._home.cluster.id)
            site.keep_name(next((known.name for known in self._home.cluster.members if known.id == site.id), plan.name))
        # While others are looked at.
        self._sending[site.host.alias] = asyncio.create_task(self._send(site, plan.target))

    async def _send(self, site: Site, target: Target) -> tuple[Bundle, bool]:
        """Send the agent's files that the host lacks, beside their final place; whether those there were damaged."""
        building = self._bundle(target)
        if not building.done():
            site.tell("waiting for the files to send: they are put together, once for each version")
        bundle = await asyncio.shield(building)
        looked = await site.look(bundle)
        if not looked.present or looked.damaged:
            assert site.facts is not None
            check_room(site.facts)
            site.changed.append(f"version {bundle.version}" if not looked.present else "damaged files")
            if not self._dry:
                await site.unpack(bundle)
        return bundle, bool(looked.damaged)

    async def _prepare(self, site: Site) -> None:
        """Everything that needs no other host."""
        plan, facts = site.plan, site.facts
        assert plan is not None
        assert facts is not None
        bundle, damaged = await self._sending[site.host.alias]
        unit = {"path": UNIT_FILE, "text": resource("systemd/muster-agent.service").read_text("utf-8"), "mode": 0o644}
        changed = await site.apply(
            version=bundle.version,
            launcher=plan.launcher,
            docker=plan.docker,
            firewall=plan.firewall,
            files=(unit,),
            dry=self._dry,
        )
        stale = any("/opt/muster" in each or each == UNIT_FILE for each in changed)
        self._restart[site.host.alias] = damaged or stale
        if not facts.installed.granted or site.id not in self._members():
            site.fresh = True
            if not self._dry:
                await site.ask_identity()

    def _check_addresses(self, arrived: Sequence[Site]) -> None:
        """Of lines that lead to one address under names that don't show it, those that have just arrived are refused,
        since any of them may be the one that is meant.
        """
        sharing: dict[str, list[Site]] = {}
        for site in self.sites:
            if site.ok and site.plan is not None:
                sharing.setdefault(site.plan.address, []).append(site)
        for site in arrived:
            if not site.ok or site.plan is None:
                continue
            other = next((other for other in sharing[site.plan.address] if other is not site), None)
            if other is None:
                continue
            fix = f"See {site.host.where} and {other.host.where}. Of two hosts one needs another: advertise=ADDRESS"
            site.error = InputError(f"{other.host.alias} has its address too, {site.plan.address}", fix=fix)
            self._display.failed(site.host.alias, site.error)

    # Round 2

    async def _join(self) -> None:
        """Hosts that are members already, or become members by the genesis, start first; then the
        others are enrolled.
        """
        reached = [site for site in self.sites if site.ok]
        if not reached:
            return
        if not (self._home.path / GENESIS_FILE).exists():
            await asyncio.to_thread(self._found, reached)
        members = self._members()
        old = [site for site in reached if site.id in members]
        await asyncio.gather(self._each(old, self._bring_up), asyncio.to_thread(self._remember_ways, reached))
        await self._each([site for site in old if not site.fresh], self._renew_if_told)
        new = [site for site in reached if site.id not in members]
        if new and not old:
            await self._check_lives(new)
        if new:
            await self._each(new, self._enrol)
            await self._each([site for site in new if site.ok], self._bring_up)
        await self._wait([site for site in self.sites if site.ok])

    def _found(self, sites: Sequence[Site]) -> None:
        """The genesis with the hosts that were reached; stored before anybody gets it."""
        requests = {site.id: site.request for site in sites if site.request is not None and site.id is not None}
        labels = {site.id: dict(site.host.labels) for site in sites if site.id is not None}
        genesis = make_genesis(
            self._home,
            [request for request in requests.values() if request is not None],
            now_ms=time.time_ns() // 1_000_000,
            labels=labels,
        )
        self._home = remember_members(self._home, genesis.members)

    def _remember_ways(self, sites: Sequence[Site]) -> None:
        """Notes how ssh reaches them, for commands that can't reach an agent's API."""
        from agent.client.ssh import SshDestination, write_destinations

        ways = {}
        for site in sites:
            if site.plan is not None and not site.host.local:
                key = key_file(site.host, self._settings)
                fields = {"host": site.host.host, "user": site.host.user, "port": site.host.port, "key": key}
                ways[site.plan.name] = convert(fields, SshDestination, f"{site.host.alias}: its destination")
        write_destinations(self._home, ways)

    async def _check_lives(self, sites: Sequence[Site]) -> None:
        """A member has to answer, to take the new ones in: a home never gets a second genesis."""
        from agent.client import home_client

        async def ask() -> None:
            async with await asyncio.to_thread(home_client, self._home) as client:
                await client.health()

        asked = asyncio.create_task(ask())

        async def check(_site: Site) -> None:
            try:
                await asyncio.shield(asked)
            except Unreachable:
                what = f"no member of cluster {self._home.cluster.name} answers that could take it in"
                fix = (
                    "Start one of its agents, or name another cluster: --name NAME. If this one is over for good, "
                    "--new-cluster makes another in its place."
                )
                raise Unreachable(what, fix=fix) from None

        await self._each(sites, check)

    async def _enrol(self, site: Site) -> None:
        """Make the host a member, then note it in the home."""
        assert site.facts is not None
        if site.facts.installed.granted and await self._was_expelled(site):
            await self._renew(site)
        assert site.request is not None
        site.tell("enrolling")
        body = await asyncio.to_thread(enrol_body, self._home, site.request, dict(site.host.labels))
        await self._sign("enrol", f"member:{site.request.id}", body)
        self._home = await asyncio.to_thread(remember_members, self._home, [body.member])

    async def _renew_if_told(self, site: Site) -> None:
        """An agent learns of its expulsion as soon as it runs, from whoever knows. The cluster has to confirm it."""
        seen = await site.wait([], TOLD_TIMEOUT_S)
        if seen.expelled and await self._was_expelled(site):
            await self._renew(site)

    async def _was_expelled(self, site: Site) -> bool:
        from agent.client import home_client

        async with await asyncio.to_thread(home_client, self._home) as client:
            return (await client.target(f"member:{site.id}")).act == "expel"

    async def _renew(self, site: Site) -> None:
        """An expelled id never returns, so the host becomes another agent, under the name that it has."""
        await site.retire(self._home.cluster.id)
        await site.ask_identity()
        site.fresh, self._restart[site.host.alias] = True, False
        site.notes.append("it had been expelled: it comes back as a new member, and its volumes are as they were")

    async def _sign(self, act: Act, target: str, body: Body) -> None:
        """Submit a signed instruction to any member."""
        from agent.client import home_client  # a third of all imports; most runs sign nothing

        client = await asyncio.to_thread(home_client, self._home)
        async with client:
            await client.submit(act, target, body)

    async def _bring_up(self, site: Site) -> None:
        """Configuration, identity, start."""
        await self._configure(site)
        if site.request is not None:
            made = await asyncio.to_thread(grant, self._home, site.request)
            await site.accept(msgspec.json.encode(made))
        assert site.facts is not None
        if not self._restart[site.host.alias] or site.facts.installed.active != "active":
            await site.start(restart=False)
            return
        async with self._restarting:  # one after another: all at once would be a cluster without a majority
            await site.start(restart=True)
            await site.wait([], RESTART_TIMEOUT_S)

    async def _configure(self, site: Site) -> None:
        """Write agent.toml, unless somebody edited it."""
        assert site.plan is not None
        assert site.facts is not None
        held = site.facts.installed.config
        if not is_ours(held):
            site.notes.append(f"{CONFIG_FILE} was edited there, so it stays as it is")
            return
        text = config_text(site.plan, seeds_of(self._addresses(), site.plan.name), site.host.labels)
        file: dict[str, object] = {"path": CONFIG_FILE, "text": text, "mode": 0o644}
        await site.apply(files=(file,), dry=self._dry)
        if needs_restart(held, text):
            self._restart[site.host.alias] = True

    async def _foresee(self, site: Site) -> None:
        """What the second and third rounds would change on it."""
        await self._configure(site)
        assert site.facts is not None
        installed = site.facts.installed
        expelled = installed.granted and site.fresh and site.id is not None and await self._was_expelled(site)
        if site.id in self._members() and installed.active == "active":
            seen = await site.wait([], 0.0)
            expelled = seen.expelled
            _note_address(site, seen.address)
            await self._relabel(site, seen.labels)
        if expelled:
            site.changed.append("identity (it was expelled)")
        if installed.active == "active" and self._restart[site.host.alias]:
            site.changed.append("restarted")
        elif installed.active != "active":
            site.changed.append("started")
        elif installed.enabled != "enabled":
            site.changed.append("enabled")

    # Round 3

    async def _wait(self, sites: Sequence[Site]) -> None:
        """Wait until each of these agents sees all the others. For one that doesn't, say whom it lacks and what is
        blocked.
        """
        names = {site.id: site for site in sites if site.id is not None}

        async def wait(site: Site) -> None:
            seen = await site.wait(sorted(names), READY_TIMEOUT_S)
            if not seen.unseen and not seen.reason:
                _note_address(site, seen.address)
                await self._relabel(site, seen.labels)
                return
            unseen = [names[AgentId(each)] for each in seen.unseen if each in names and each != site.id]
            if not seen.answers:
                unseen = []  # its own trouble comes first
            raise await self._unseen(site, unseen, seen.reason)

        await self._each(sites, wait)
        well = [site for site in sites if site.ok]
        if len(well) <= MAX_CHECKED_HOSTS:
            await self._each(well, lambda site: self._check_reach(site, well))

    async def _relabel(self, site: Site, held: Labels | None) -> None:
        """Bring the list's labels into the ledger, which placement goes by; `held` are its present ones, None if there
        are none.
        """
        wanted = dict(site.host.labels)
        if held is None or dict(held) == wanted:
            return
        if not wanted:  # `agent invite` may have given them; replicas would move
            site.notes.append(f"it keeps its labels ({_listed(held)}), as {site.host.where} has none")
            return
        if not self._dry:
            site.tell("changing its labels")
            await self._sign("relabel", f"host:{site.id}", Relabel(labels=wanted))
        site.changed.append(f"labels ({_listed(wanted)}; were {_listed(held)})")

    async def _check_reach(self, site: Site, sites: Sequence[Site]) -> None:
        """All see each other, perhaps through others: note pairs that can't connect directly, where
        one of them is new.
        """
        others = [other for other in sites if other is not site and other.plan is not None and site.fresh | other.fresh]
        if others:
            peers = [(other.plan.name, other.plan.address, 9998) for other in others if other.plan is not None]
            for name in await site.reach(peers):
                what = f"it can't connect to {name} on 9998/tcp: only others carry what they say to each other"
                site.notes.append(what)

    async def _unseen(self, site: Site, unseen: Sequence[Site], reason: str) -> MusterError:
        if not unseen:
            return DeploymentFailed(reason, fix="`journalctl -u muster-agent` there says more.")
        peers = [(other.plan.name, other.plan.address, 9998) for other in unseen if other.plan is not None]
        closed = await site.reach(peers)
        listed = ", ".join(name for name, _, _ in peers)
        if closed:
            what = f"it can't reach {', '.join(closed)} on 9998/tcp"
            return DeploymentFailed(what, fix="Let 9998/tcp, 9998/udp and 9999/tcp through between these hosts.")
        fix = "9998/tcp is open to them; is 9998/udp too? `journalctl -u muster-agent` says more."
        return DeploymentFailed(f"it doesn't see {listed}", fix=fix)

    # All rounds

    async def _each(self, sites: Sequence[Site], act: Callable[[Site], Awaitable[None]]) -> None:
        """Does it on all of them that are well, at once; an error ends it for that host alone."""

        async def one(site: Site) -> None:
            try:
                await act(site)
            except MusterError as error:
                site.error = error
                self._display.failed(site.host.alias, error)

        await asyncio.gather(*(one(site) for site in sites if site.ok))

    def _site(self, host: InventoryHost) -> Site:
        return Site(host=host, tell=lambda text: self._display.step(host.alias, text))

    def _bundle(self, target: Target) -> asyncio.Task[Bundle]:
        if target not in self._bundles:
            self._bundles[target] = asyncio.create_task(asyncio.to_thread(build, target, self._cache))
        return self._bundles[target]

    def _members(self) -> frozenset[AgentId]:
        """Those of the genesis and those enrolled since."""
        return frozenset(member.id for member in self._home.cluster.members)

    def _addresses(self) -> dict[str, tuple[str, int]]:
        """Name → (address, peer port) of all members, and of the hosts that are to become members."""
        known = {member.name: (member.address, member.peer_port) for member in self._home.cluster.members}
        known |= {site.plan.name: (site.plan.address, 9998) for site in self.sites if site.plan is not None and site.ok}
        return known

    def _state(self, site: Site) -> str:
        if self._dry:
            return "planned"
        if site.fresh:
            return "installed"
        return "changed" if site.changed else "unchanged"

    def _told(self, site: Site) -> str:
        """Reports how it ended and, for a host that was there already, what changed."""
        state = self._state(site)
        return f"{state}: {', '.join(site.changed)}" if state == "changed" else state

    def _result(self, site: Site) -> HostResult:
        error = site.error
        return HostResult(
            host=site.host.alias,
            name=site.plan.name if site.plan is not None else site.host.name,
            address=site.plan.address if site.plan is not None else None,
            state="failed" if error is not None else self._state(site),
            changed=tuple(site.changed),
            notes=tuple(site.notes),
            what=error.what if error is not None else "",
            where=error.where if error is not None else "",
            fix=error.fix if error is not None else "",
        )


def forget_members(home: Home, gone: frozenset[AgentId]) -> Home:
    """The home without these."""
    home = open_home(home.path)
    kept: list[KnownMember] = [member for member in home.cluster.members if member.id not in gone]
    return remember(home, members=kept)


def _note_address(site: Site, held: str | None) -> None:
    """The cluster keeps the address that a host was enrolled with, and tells it to replicas elsewhere."""
    assert site.plan is not None
    if held is not None and held != site.plan.address:
        again = f"`bootstrap uninstall` and `bootstrap install` with --limit {site.host.alias} enrol it anew"
        what = f"its address here is {site.plan.address}, and {held} in the cluster"
        site.notes.append(f"{what}: {again}, advertise={held} in {site.host.where} keeps it")


def _listed(labels: Mapping[str, str]) -> str:
    return " ".join(f"{key}={value}" for key, value in sorted(labels.items())) or "none"
