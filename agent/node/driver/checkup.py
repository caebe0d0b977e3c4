"""What this host sees of itself and of the other members, for `agent doctor`. Shell (asyncio).

Every part has a limit of its own and runs beside the others; one that doesn't end in time is reported as not looked at.
Others are tried the way that agents reach them: a TCP connection to the peer port, and a SWIM ping over UDP, whose
answers and whose own pings show which direction works.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import time
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from agent import __version__, errors
from agent.config import Config
from agent.model.addresses import is_ip
from agent.model.cluster import Member
from agent.model.doctor import (
    Connects,
    DockerUse,
    Enrolled,
    Examination,
    LedgerSight,
    PeerSight,
    Protocol,
    PublishedPort,
    WantedPort,
)
from agent.model.types import AgentId
from agent.net.addresses import all_addresses, is_loopback
from agent.node.context import Context
from agent.node.driver.announcing import Announcing
from agent.node.driver.hosting import Hosting
from agent.node.driver.loop import Driver
from agent.node.driver.network import Network
from agent.runtime import holders, look
from agent.state import ClusterState, ports_to_ask, service_of
from agent.swim import Ping
from agent.tasks import cancel_and_wait
from agent.telemetry.recent import RecentLog

PART_TIMEOUT_S = 3.0  # of each part; a command that hangs mustn't hold up the rest
CONNECT_TIMEOUT_S = 1.0  # a host on the same continent answers within 0.2; a lost SYN is sent again after 1
PINGS = 3  # of each member: at 20 % loss all are lost in 1 of 125
PING_INTERVAL_S = 0.25
LISTEN_S = 1.0  # from the first ping until the last answer counts
HEARD_BEFORE_S = 3.0  # what came shortly before counts too: others may have been asked a little earlier
MAX_TRIED_MEMBERS = 128  # each costs a connection and some datagrams; larger clusters are looked at in rings
MAX_TRIED_PORTS = 64  # of replicas: all of them silent take two rounds of CONNECT_TIMEOUT_S, within PART_TIMEOUT_S
CONNECTS_AT_ONCE = 32

UNITS = ("muster-agent", "docker")

T = TypeVar("T")


def displaced_ports(state: ClusterState, host: AgentId) -> tuple[tuple[WantedPort, Protocol], ...]:
    """Ports that plans prefer, but that no replica on `host` has because theirs got others.

    Once for each service: further slots have other ports anyway.
    """
    mine = {key: assignment for key, assignment in state.assignments.items() if assignment.host == host}
    taken = {port.host_port for assignment in mine.values() for port in assignment.ports}
    found: dict[tuple[str, str, int], tuple[WantedPort, Protocol]] = {}
    for key, assignment in sorted(mine.items()):
        service = service_of(state, assignment)
        given = {(port.container_port, port.protocol): port.host_port for port in assignment.ports}
        for preferred in service.ports if service is not None else ():
            instead = given.get((preferred.container_port, preferred.protocol))
            if instead is not None and preferred.host_port not in taken:
                port = WantedPort(replica=str(key), port=preferred.host_port, given=instead)
                found.setdefault((key.stack, key.service, preferred.host_port), (port, preferred.protocol))
    return tuple(found.values())


def published_ports(state: ClusterState, host: AgentId) -> tuple[PublishedPort, ...]:
    """The replicas' ports that the plans let `host` try: its own first, then those of the members after it by id."""
    published = [
        PublishedPort(replica=str(key), host=assignment.host, port=port.host_port, connects="yes")
        for key, assignment in sorted(state.assignments.items())
        if assignment.host in state.members
        if (service := service_of(state, assignment)) is not None
        for port in ports_to_ask(service, assignment, host)
    ]
    published.sort(key=lambda each: (each.host < host, each.host))
    return tuple(published[:MAX_TRIED_PORTS])


class Checkup:
    """Looks when asked; a caller that asks while a look is under way gets its result."""

    def __init__(
        self,
        config: Config,
        driver: Driver,
        network: Network,
        announcing: Announcing,
        hosting: Hosting,
        log: RecentLog,
    ) -> None:
        self._config, self._driver, self._network = config, driver, network
        self._announcing, self._hosting, self._log = announcing, hosting, log
        self._loop = asyncio.get_running_loop()
        self._started = self._loop.time()
        self._under_way: asyncio.Task[Examination] | None = None

    async def examine(self, *, log: bool = False) -> Examination:
        """The host as it is now; `log`: with the agent's newest lines."""
        if self._under_way is None or self._under_way.done():
            self._under_way = asyncio.create_task(self._examine(), name="examination")
        found = await asyncio.shield(self._under_way)
        clock = time.time_ns() // 1_000_000
        return msgspec.structs.replace(found, wall_ms=clock, log=self._log.lines if log else ())

    async def close(self) -> None:
        """Nobody waits any more."""
        await cancel_and_wait(self._under_way)

    async def _examine(self) -> Examination:
        config, context = self._config, self._driver.core.context
        unchecked: dict[str, str] = {}

        async def part(name: str, work: Callable[..., T], *arguments: Any, default: Any, **options: Any) -> T:
            return await _in_time(name, asyncio.to_thread(work, *arguments, **options), default, unchecked)

        member, expelled = self._driver.state.members.get(context.id), self._driver.core.expelled.keeps_out
        addresses = await part("addresses", all_addresses, default=())
        near = tuple(a.network for a in addresses if is_loopback(config.listen) or not is_loopback(a.ip))
        here = asyncio.gather(
            part("ports", holders.port_uses, self._ports(), agent=os.getpid(), address=config.listen, default=()),
            part("replicas' ports", self._wanted_ports(), default=()),
            part("disks", look.disks, (config.data_dir, config.log_dir, "/var/lib/docker", "/"), default=()),
            part("writes", look.syncs_ms, Path(config.data_dir), default=()),
            part("memory", look.memory_mib, default=(0, 0)),
        )
        around = asyncio.gather(
            part("docker", look.docker if "docker" in config.runtimes else _no_docker, default=None),
            part("firewalls", look.closed_firewalls, self._open_ports(), default=()),
            part("units", look.units, UNITS, default=()),
            part("policy", _mode_of, config.policy_file, default=0),
        )
        others = asyncio.gather(
            _in_time("members", self._peers(near), (), unchecked),
            _in_time("published ports", self._closed(), (), unchecked),
        )
        (ports, wanted, disks, syncs, memory), (docker, firewalls, units, mode), (peers, closed) = await asyncio.gather(
            here, around, others
        )
        return Examination(
            id=context.id,
            name=context.own_name,
            agent_version=__version__,
            uptime_s=round(self._loop.time() - self._started, 1),
            config=msgspec.to_builtins(config),
            enrolled=_enrolled(member) if member is not None else None,
            addresses=tuple(a.ip for a in addresses),
            policy_mode=mode,
            ports=ports,
            wanted_ports=wanted,
            disks=disks,
            syncs_ms=syncs,
            memory_mib=memory[0],
            memory_free_mib=memory[1],
            runtimes=self._hosting.observation.runtimes,
            docker=docker,
            firewalls=firewalls,
            units=units,
            peers=peers,
            closed=closed,
            ledger=_ledger(context) if expelled is None else None,
            unchecked=unchecked,
            expelled=expelled,
        )

    def _ports(self) -> tuple[tuple[int, Protocol], ...]:
        """Those that this agent listens on by its configuration."""
        config = self._config
        beacons: tuple[tuple[int, Protocol], ...] = ((config.discovery_port, "udp"),) if config.discovery_beacon else ()
        return ((config.api_port, "tcp"), (config.peer_port, "tcp"), (config.peer_port, "udp"), *beacons)

    def _open_ports(self) -> tuple[tuple[int, str], ...]:
        return (*self._ports(), (5353, "udp")) if self._config.discovery_mdns else self._ports()

    def _wanted_ports(self) -> Callable[[], tuple[WantedPort, ...]]:
        """Of the ports that this host's replicas couldn't have: those that others hold now."""
        state, me = self._driver.state, self._driver.core.context.id
        displaced = displaced_ports(state, me)
        address = self._config.publish_address

        def look_up() -> tuple[WantedPort, ...]:
            uses = holders.port_uses({(port.port, kind) for port, kind in displaced}, agent=None, address=address)
            held = {(use.port, use.protocol): use.holder for use in uses if use.held_by == "other"}
            return tuple(
                msgspec.structs.replace(port, holder=held[port.port, kind])
                for port, kind in displaced
                if (port.port, kind) in held
            )

        return look_up

    # The others

    async def _peers(self, own_networks: tuple[str, ...]) -> tuple[PeerSight, ...]:
        context = self._driver.core.context
        others = self._ring([m for m in self._known() if m.id != context.id])
        began = self._loop.time()
        slots = asyncio.Semaphore(CONNECTS_AT_ONCE)
        places = [self._network.place_of(each.id) or (each.address, each.peer_port) for each in others]
        connecting = [asyncio.create_task(self._connects(*place, slots)) for place in places]
        try:
            for _ in range(PINGS):
                for member in others:
                    self._network.send_datagram(member.id, Ping(0, context.swim.incarnation))
                await asyncio.sleep(PING_INTERVAL_S)
            await asyncio.sleep(LISTEN_S - PINGS * PING_INTERVAL_S)
            connects = await asyncio.gather(*connecting)
        finally:
            await cancel_and_wait(*connecting)
        heard = self._network.heard_since(began - HEARD_BEFORE_S)
        beacons, mdns = self._announcing.heard_beacons(), self._announcing.heard_mdns()
        return tuple(
            PeerSight(
                id=member.id,
                name=member.name,
                address=member.address,
                peer_port=member.peer_port,
                connects=met,
                linked=member.id in context.peers,
                heard_udp=member.id in heard,
                heard_beacon=member.id in beacons,
                heard_mdns=member.id in mdns,
                same_network=_within(member.address, own_networks),
            )
            for member, met in zip(others, connects, strict=True)
        )

    def _ring(self, others: list[Member]) -> list[Member]:
        """The MAX_TRIED_MEMBERS that follow this one by id: so every pair of neighbours is looked at from somewhere."""
        me = self._driver.core.context.id
        ordered = sorted(others, key=lambda member: (member.id < me, member.id))
        return ordered[:MAX_TRIED_MEMBERS]

    def _known(self) -> Collection[Member]:
        """Nobody, if none of them has anything to do with this host any more."""
        return self._driver.state.members.values() if self._driver.core.expelled.keeps_out is None else ()

    async def _closed(self) -> tuple[PublishedPort, ...]:
        """Of the replicas' ports those that no connection can be made to from here."""
        state, me = self._driver.state, self._driver.core.context.id
        published = published_ports(state, me) if self._known() else ()
        slots = asyncio.Semaphore(CONNECTS_AT_ONCE)
        met = await asyncio.gather(
            *(self._connects(state.members[each.host].address, each.port, slots) for each in published)
        )
        tried = (msgspec.structs.replace(each, connects=how) for each, how in zip(published, met, strict=True))
        return tuple(each for each in tried if each.connects != "yes")

    async def _connects(self, host: str, port: int, slots: asyncio.Semaphore) -> Connects:
        """The result of a connection there; it is closed again before anything is sent."""
        source = (self._config.listen, 0) if is_loopback(self._config.listen) else None
        async with slots:
            try:
                async with asyncio.timeout(CONNECT_TIMEOUT_S):
                    _, writer = await asyncio.open_connection(host, port, local_addr=source)
            except TimeoutError:
                return "silent"
            except ConnectionRefusedError:
                return "refused"
            except OSError:
                return "no-route"
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()
            return "yes"


async def _in_time(name: str, work: Awaitable[T], default: T, unchecked: dict[str, str]) -> T:
    """The part's result, or `default` and a line in `unchecked`."""
    try:
        async with asyncio.timeout(PART_TIMEOUT_S):
            return await work
    except TimeoutError:
        unchecked[name] = f"no answer within {PART_TIMEOUT_S:g} s"
    except errors.MusterError as error:
        unchecked[name] = error.what
    except OSError as error:
        unchecked[name] = (error.strerror or "input/output error").lower()
    return default


def _no_docker() -> DockerUse | None:
    return None


def _ledger(context: Context) -> LedgerSight:
    return LedgerSight(
        term=context.raft.term,
        commit=context.raft.commit,
        applied=context.state.index,
        coordinator=context.leader,
    )


def _enrolled(member: Member) -> Enrolled:
    return Enrolled(
        address=member.address, api_port=member.api_port, peer_port=member.peer_port, labels=dict(member.labels)
    )


def _mode_of(path: str) -> int:
    """The file's permission bits; 0 when it isn't there."""
    try:
        return Path(path).stat().st_mode & 0o777
    except FileNotFoundError:
        return 0


def _within(address: str, networks: tuple[str, ...]) -> bool:
    return is_ip(address) and any(ipaddress.ip_address(address) in ipaddress.ip_network(n) for n in networks)
