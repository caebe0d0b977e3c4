"""Discovery on loopback: beacons and mDNS, either alone, give hints and nothing else (docs/seed.md "Discovery
process")."""

from __future__ import annotations

import asyncio
import gc
import json
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from msgspec.structs import replace
from zeroconf import IPVersion, ServiceStateChange
from zeroconf.asyncio import AsyncZeroconf

from agent.errors import InputError
from agent.formats.beacon import Beacon, verify_beacon
from agent.instruction import new_key
from agent.model.identity import agent_id_of
from agent.net import beacons as beacons_module
from agent.net import discovery as discovery_module
from agent.net.addresses import LocalAddress
from agent.net.beacons import LOOPBACK_BROADCAST, agent_beacon, broadcast_targets, peer_address
from agent.net.discovery import Discovery, DiscoverySettings
from agent.net.mdns import SERVICE_TYPE, Mdns, ServiceText, read_text
from tests.support.trust import random_cluster_id
from tests.support.waiting import wait_for

CLUSTER = random_cluster_id()  # mDNS is one for the whole machine, other test runs included


@dataclass
class Finder:
    """An agent that only looks for others."""

    host: str
    cluster: str = CLUSTER
    beacons: bool = True
    mdns: bool = False
    hints: list[tuple[str, str, int]] = field(default_factory=list)
    heard: list[Beacon] = field(default_factory=list)
    status: str = "starting"

    def __post_init__(self) -> None:
        self.key = new_key()
        self.id = agent_id_of(self.key.public_key().public_bytes_raw())

    def compose(self) -> Sequence[Beacon]:
        return [agent_beacon(name="n", host=self.host, api_port=9999, peer_port=9998, version="1", status=self.status)]

    def discovery(self, port: int) -> Discovery:
        settings = DiscoverySettings(
            id=self.id,
            cluster=self.cluster,
            name="n",
            listen=self.host,
            api_port=9999,
            peer_port=9998,
            discovery_port=port,
            beacons=self.beacons,
            mdns=self.mdns,
        )
        return Discovery(
            settings,
            self.key,
            self.compose,
            lambda *hint: self.hints.append(hint),
            lambda beacon, _: self.heard.append(beacon),
            rng=random.Random(1),
        )


@pytest.fixture
def port() -> int:
    """A UDP port that nobody uses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def looking(port: int, *finders: Finder) -> AsyncIterator[list[Discovery]]:
    made = [finder.discovery(port) for finder in finders]
    try:
        for discovery in made:
            await discovery.start()
        yield made
    finally:
        await asyncio.gather(*(discovery.stop() for discovery in made))


async def test_a_beacon_at_the_start_is_a_hint_for_all_who_listen_already(port: int) -> None:
    first, second, third = Finder("127.0.0.2"), Finder("127.0.0.3"), Finder("127.0.0.4")
    async with looking(port, first, second, third):
        await wait_for(lambda: (third.id, "127.0.0.4", 9998) in first.hints and second.hints)
        assert all(verify_beacon(b, third.key.public_key()) for b in first.heard if b.agent_id == third.id)
        assert first.id not in {hint[0] for hint in first.hints}


async def test_a_change_is_announced_at_once_with_a_growing_number(port: int) -> None:
    first, second = Finder("127.0.0.2"), Finder("127.0.0.3")
    async with looking(port, first, second) as (_, announcer):
        await wait_for(lambda: len(first.heard) == 1)
        second.status = "healthy"
        announcer.announce()
        await wait_for(lambda: len(first.heard) == 2)
        before, after = first.heard
        assert after.capabilities["status"] == "healthy"
        assert after.seq is not None
        assert before.seq is not None
        assert after.seq > before.seq


async def test_a_beacon_too_large_for_a_datagram_keeps_no_other_from_leaving(port: int) -> None:
    """An image with a long name makes one; the agent itself must still be found."""
    listener, sender = Finder("127.0.0.2"), Finder("127.0.0.3")
    (own,) = sender.compose()
    large = replace(own, service_id="large", capabilities={"version": "v" * 1200})
    sender.compose = lambda: [large, own]  # type: ignore[method-assign]  # a fake
    async with looking(port, listener), looking(port, sender) as (discovery,):
        await wait_for(lambda: bool(listener.heard))
        assert discovery.counts["too-large"] == 1
    assert [beacon.service_id for beacon in listener.heard] == ["n"]


async def test_interfaces_that_cant_be_looked_at_stop_nothing(port: int) -> None:
    listener, sender = Finder("127.0.0.2"), Finder("127.0.0.3")
    made = sender.discovery(port)

    def gone() -> tuple[LocalAddress, ...]:
        raise OSError("no such device")

    made._addresses = gone
    async with looking(port, listener):
        await made.start()
        try:
            await wait_for(lambda: bool(listener.heard))
        finally:
            await made.stop()
    assert made.counts["interfaces"] == 1


async def test_one_that_is_stopped_at_once_begins_no_mdns(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(discovery_module, "MDNS_AFTER_S", 0.05)
    made = Finder("127.0.0.3", mdns=True).discovery(port)
    await made.start()
    await made.stop()
    passed = asyncio.Event()
    asyncio.get_running_loop().call_later(0.1, passed.set)
    await passed.wait()
    assert not made._mdns_due


async def test_a_defect_in_a_round_is_told_and_not_just_silence(port: int) -> None:
    errors: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    sender = Finder("127.0.0.3")

    def broken() -> Sequence[Beacon]:
        raise RuntimeError("a bug")

    sender.compose = broken  # type: ignore[method-assign]  # a fake
    async with looking(port, sender):
        await wait_for(lambda: bool(errors))
    assert str(errors[0]["exception"]) == "a bug"


async def test_the_datagram_is_seeds_json(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as ear:
        ear.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        ear.bind((LOOPBACK_BROADCAST, port))
        async with looking(port, Finder("127.0.0.2")):
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(ear, 2000), 5)
    said = json.loads(data)
    assert list(said) == ["service_id", "type", "host", "port", "protocol", "capabilities", "timestamp"]
    assert (said["service_id"], said["type"], said["protocol"]) == ("n", "unknown", "https")
    assert {"agent_id", "cluster", "seq", "sig"} <= said["capabilities"].keys()


async def test_other_clusters_and_foreign_beacons_are_heard_but_no_hints(port: int) -> None:
    first, stranger = Finder("127.0.0.2"), Finder("127.0.0.3", cluster="d" * 16)
    foreign = json.dumps(
        {
            "service_id": "x",
            "type": "worker",
            "host": "10.0.0.1",
            "port": 1,
            "protocol": "http",
            "timestamp": "2024-01-15T10:30:00Z",
        }
    ).encode()
    async with looking(port, first, stranger) as (listening, _):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for data in (foreign, b"not json", b"\xff" * 1500):
                raw.sendto(data, (LOOPBACK_BROADCAST, port))
        await wait_for(lambda: len(first.heard) == 2 and listening.counts["bad"] == 2)
        assert first.hints == []


async def test_a_name_in_a_beacon_is_never_resolved_but_its_source_is_a_hint(port: int) -> None:
    """Anybody may send one; a resolver that doesn't answer holds one of the few threads that all of us share."""
    listener, named = Finder("127.0.0.2"), Finder("nowhere.example")
    async with looking(port, listener):
        sender = Finder("127.0.0.3")
        sender.id, sender.key, sender.compose = named.id, named.key, named.compose  # type: ignore[method-assign]  # a fake
        async with looking(port, sender):
            await wait_for(lambda: bool(listener.heard))
    assert listener.hints == [(named.id, "127.0.0.3", 9998)]


async def test_a_flood_of_beacons_is_read_at_a_bounded_rate(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beacons_module, "BEACON_BURST", 10.0)
    monkeypatch.setattr(beacons_module, "BEACON_RATE_PER_S", 0.001)
    first = Finder("127.0.0.2")
    async with looking(port, first) as (listening,):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            for _ in range(100):
                raw.sendto(b"{}", (LOOPBACK_BROADCAST, port))
        await wait_for(lambda: listening.counts["rate"] >= 80)
        assert listening.counts["bad"] <= 10


async def test_a_port_that_cant_be_shared_is_named(port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((LOOPBACK_BROADCAST, port))
        with pytest.raises(InputError, match=str(port)):
            await Finder("127.0.0.2").discovery(port).start()


async def test_mdns_begins_when_it_is_due_and_gathers_no_changes_first(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(discovery_module, "MDNS_AFTER_S", 0.1)
    monkeypatch.setattr(discovery_module, "MIN_ROUND_INTERVAL_S", 20.0)
    first, second = (Finder(f"127.0.0.{n}", mdns=True) for n in (2, 3))
    async with looking(port, first, second) as (finding, _):
        await wait_for(lambda: second.id in finding.heard_mdns)


async def test_mdns_alone_suffices(port: int) -> None:
    first, second = (Finder(f"127.0.0.{n}", beacons=False, mdns=True) for n in (2, 3))
    stranger = Finder("127.0.0.4", cluster="d" * 16, beacons=False, mdns=True)
    async with looking(port, first, second, stranger):
        await wait_for(
            lambda: (second.id, "127.0.0.3", 9998) in first.hints and (first.id, "127.0.0.2", 9998) in second.hints,
            10.0,
        )
        assert stranger.id not in {hint[0] for hint in (*first.hints, *second.hints)}


@pytest.mark.parametrize("name", ["evil._other._tcp.local.", "...", "a\x00b._muster._tcp.local."])
async def test_a_service_name_that_is_none_is_dropped(name: str) -> None:
    """What a forged PTR record may point at; an error that nobody awaits would end the agent."""
    errors: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    counts: Counter[str] = Counter()
    text = ServiceText(cluster=CLUSTER, id="a" * 26, name="n", peer=9998, api=9999)
    mdns = Mdns(text, lambda *_: None, counts)
    zeroconf = AsyncZeroconf(interfaces=["127.0.0.2"], ip_version=IPVersion.V4Only)
    try:
        mdns._changed(zeroconf.zeroconf, SERVICE_TYPE, name, ServiceStateChange.Added)
        await wait_for(lambda: not mdns._tasks)
        gc.collect()
        await asyncio.sleep(0)
    finally:
        await zeroconf.async_close()
    assert not errors
    assert counts["mdns-error"] == 1


@pytest.mark.parametrize(
    "changed",
    [
        {b"peer": b"0"},
        {b"peer": b"65536"},
        {b"peer": b"x"},
        {b"peer": None},
        {b"id": b"A" * 26},
        {b"id": b"a" * 25},
        {b"cluster": b""},
        {b"name": b"\xff"},
    ],
)
def test_a_txt_record_is_read_whole_or_not_at_all(changed: dict[bytes, bytes | None]) -> None:
    proper: dict[bytes, bytes | None] = {
        b"cluster": b"c" * 16,
        b"id": b"a" * 26,
        b"name": b"n1",
        b"peer": b"9998",
        b"api": b"9999",
    }
    text = read_text({**proper, b"more": b"x"})
    assert text is not None
    assert (text.peer, text.id) == (9998, "a" * 26)
    assert read_text(proper | changed) is None


def test_beacons_leave_by_every_usable_interface() -> None:
    host = (
        LocalAddress("lo", "127.0.0.1", "127.0.0.0/8", "127.255.255.255"),
        LocalAddress("eth0", "192.168.1.7", "192.168.1.0/24", "192.168.1.255"),
        LocalAddress("docker0", "172.17.0.1", "172.17.0.0/16", "172.17.255.255"),
    )
    assert broadcast_targets("0.0.0.0", "255.255.255.255", host) == ("255.255.255.255", "192.168.1.255")
    assert broadcast_targets("0.0.0.0", "192.168.1.255", host) == ("192.168.1.255",)
    assert broadcast_targets("127.0.0.2", "255.255.255.255", host) == (LOOPBACK_BROADCAST,)


@pytest.mark.parametrize("port", [0, 65536, "9998", 9998.0, True, None])
def test_a_peer_port_that_isnt_one_gives_no_address(port: object, beacon_of: Callable[[object], Beacon]) -> None:
    assert peer_address(beacon_of(port), CLUSTER, "z" * 26) is None
    assert peer_address(beacon_of(9998), CLUSTER, "z" * 26) == ("a" * 26, "10.0.0.1", 9998)
    assert peer_address(beacon_of(9998), CLUSTER, "a" * 26) is None


@pytest.fixture
def beacon_of() -> Callable[[object], Beacon]:
    def made(port: object) -> Beacon:
        return Beacon(
            service_id="n",
            type="unknown",
            host="10.0.0.1",
            port=1,
            protocol="https",
            capabilities={"peer_port": port},  # type: ignore[dict-item]  # what a stranger may send
            timestamp="",
            agent_id="a" * 26,
            cluster=CLUSTER,
        )

    return made
