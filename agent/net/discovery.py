"""Finding the others: beacons and mDNS, either of which suffices. What comes out are addresses to try, nothing more.

discovery = Discovery(settings, key, compose, on_hint, on_beacon, rng)
await discovery.start()        # the first beacons leave at once
discovery.announce()           # after a change of what is announced
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import random
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Struct

from agent.formats.beacon import Beacon
from agent.model.addresses import is_ip
from agent.model.types import AgentId, ClusterId, Label
from agent.net.addresses import LocalAddress, all_addresses, is_loopback, usable_addresses
from agent.net.beacons import Announcer, Beacons, broadcast_targets, peer_address
from agent.tasks import cancel_and_wait, must_not_fail

if TYPE_CHECKING:
    from agent.net.mdns import Mdns

# docs/seed.md "Broadcasting mechanism".
ROUND_INTERVAL_S: Final = 30.0

# Importing zeroconf takes a start 25 ms of a processor, and whoever hears us answers. Seeds and beacons have found
# everybody by then; mDNS is for networks where they don't, and for who browses.
MDNS_AFTER_S: Final = 1.0

# Changes come in bursts (a stack starts twenty replicas, which turn healthy); they share one round, so long after the
# first. All hosts hear it and verify it, while engines there still start what the others run already.
MIN_ROUND_INTERVAL_S: Final = 1.0


class DiscoverySettings(Struct, frozen=True, kw_only=True):
    """`listen` is where the agent listens (an IP address; 0.0.0.0 for all). Both ways can be switched off."""

    id: AgentId
    cluster: ClusterId
    name: Label
    listen: str
    api_port: int
    peer_port: int
    discovery_port: int = 9999
    broadcast_address: str = "255.255.255.255"
    beacons: bool = True
    mdns: bool = True


class Discovery:
    """Runs both. `compose` gives the beacons of a round, without time and signature.

    `on_hint(agent id, host, peer port)` and `on_beacon(beacon, source address)` are called from the event loop; nothing
    they get is verified. `counts` is for metrics.
    """

    def __init__(
        self,
        settings: DiscoverySettings,
        key: Ed25519PrivateKey,
        compose: Callable[[], Sequence[Beacon]],
        on_hint: Callable[[AgentId, str, int], None],
        on_beacon: Callable[[Beacon, str], None],
        *,
        rng: random.Random,
        addresses: Callable[[], tuple[LocalAddress, ...]] = all_addresses,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self._settings = settings
        self._compose = compose
        self._on_hint = on_hint
        self._on_beacon = on_beacon
        self._rng = rng
        self._addresses = addresses
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        announcer = Announcer(id=settings.id, cluster=settings.cluster, key=key)
        self._beacons = Beacons(announcer, self._heard, self.counts) if settings.beacons else None
        self._mdns: Mdns | None = None
        self._mdns_due = False
        self._mdns_timer: asyncio.TimerHandle | None = None
        self._mdns_on: tuple[str, ...] = ()

    async def start(self) -> None:
        """Begin. Raises InputError when the beacons' port can't be had."""
        if self._beacons is not None:
            self._beacons.start(self._settings.listen, self._settings.discovery_port)
        loop = asyncio.get_running_loop()
        if self._settings.mdns:
            self._mdns_timer = loop.call_later(MDNS_AFTER_S if self._beacons is not None else 0.0, self._begin_mdns)
        self._task = loop.create_task(self._run(), name="discovery")
        self._task.add_done_callback(must_not_fail)

    @property
    def heard_mdns(self) -> frozenset[AgentId]:
        """Agents of our cluster that mDNS names now; unauthenticated, like everything from mDNS."""
        return frozenset(self._mdns.heard) if self._mdns is not None else frozenset()

    def announce(self) -> None:
        """What is announced changed: send a round soon."""
        self._wake.set()

    async def stop(self) -> None:
        """End both."""
        if self._mdns_timer is not None:
            self._mdns_timer.cancel()
        await cancel_and_wait(self._task)
        if self._beacons is not None:
            self._beacons.stop()
        if self._mdns is not None:
            await self._mdns.stop()

    async def _run(self) -> None:
        addresses: tuple[LocalAddress, ...] = ()
        while True:
            self._wake.clear()
            try:
                addresses = await asyncio.to_thread(self._addresses)  # interfaces come and go
            except OSError:  # one went while it was looked at: the last look stays
                self.counts["interfaces"] += 1
            if self._beacons is not None:
                targets = broadcast_targets(self._settings.listen, self._settings.broadcast_address, addresses)
                self._beacons.send_round(self._compose(), targets)
            if self._mdns_due:
                await self._follow_interfaces(addresses)
            with contextlib.suppress(TimeoutError):
                # A little random, so that hosts started by one hand don't send in step for ever.
                async with asyncio.timeout(ROUND_INTERVAL_S - MIN_ROUND_INTERVAL_S - self._rng.random()):
                    await self._wake.wait()
            if not self._mdns_due or self._mdns is not None:  # else mDNS is to begin, and nothing changed
                await asyncio.sleep(MIN_ROUND_INTERVAL_S)

    def _begin_mdns(self) -> None:
        self._mdns_due = True
        self._wake.set()

    async def _make_mdns(self) -> Mdns:
        """Imported in a thread: elections may be running, and wait for the event loop."""
        await asyncio.to_thread(importlib.import_module, "agent.net.mdns")
        from agent.net.mdns import Mdns, ServiceText

        settings = self._settings
        text = ServiceText(
            cluster=settings.cluster,
            id=settings.id,
            name=settings.name,
            peer=settings.peer_port,
            api=settings.api_port,
        )
        return Mdns(text, self._on_hint, self.counts)

    async def _follow_interfaces(self, addresses: tuple[LocalAddress, ...]) -> None:
        """mDNS uses named interfaces; when they change it is started again."""
        if self._mdns is None:
            self._mdns = await self._make_mdns()
        listen = self._settings.listen
        if is_loopback(listen):
            wanted: tuple[str, ...] = (listen,)
        else:
            wanted = tuple(a.ip for a in usable_addresses(addresses) if ":" not in a.ip and listen in ("0.0.0.0", a.ip))  # noqa: S104 compared, not bound
        if wanted == self._mdns_on:
            return
        if self._mdns_on:
            await self._mdns.stop()
        self._mdns_on = wanted
        if wanted:
            await self._mdns.start(wanted)

    def _heard(self, beacon: Beacon, source: str) -> None:
        found = peer_address(beacon, self._settings.cluster, self._settings.id)
        if found is not None:
            peer, host, port = found
            if is_ip(host):  # anybody sends beacons: a name would make us ask a resolver of a stranger's choice
                self._on_hint(peer, host, port)
            if source != host:  # a host with many addresses may not know which one leads here
                self._on_hint(peer, source, port)
        self._on_beacon(beacon, source)
