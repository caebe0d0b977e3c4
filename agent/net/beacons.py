"""UDP beacons: what is here, broadcast every 30 s, at once on start and on change; never answered, never trusted.

docs/seed.md "Discovery process". Every agent of a subnet binds the same port: on loopback the broadcast address itself,
elsewhere all addresses, with SO_REUSEADDR, so that each gets its copy; sending has a socket of its own.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.errors import InputError, TooLarge
from agent.formats.beacon import MAX_BEACON_BYTES, Beacon, decode_beacon, encode_beacon, sign_beacon
from agent.formats.timestamps import rfc3339
from agent.model.types import AgentId, ClusterId
from agent.net.addresses import LocalAddress, is_loopback, usable_addresses
from agent.net.datagrams import TokenBucket

LOOPBACK_BROADCAST: Final = "127.255.255.255"

# One for each instance that a host runs, up to this.
MAX_BEACONS_PER_ROUND: Final = 16

# Whoever floods gets this much of our attention, all senders together; a beacon costs about 60 µs to read.
BEACON_RATE_PER_S: Final = 500.0
# The round of 128 hosts with everything they have, at once.
BEACON_BURST: Final = 2048.0

# Read per turn of the loop: 2 ms.
BEACONS_PER_TICK: Final = 32

# What the agent's own beacon says beside SEED's keys.
PEER_PORT: Final = "peer_port"


class Announcer(msgspec.Struct, frozen=True, kw_only=True):
    """Who signs the beacons. `seq` grows over restarts as well: it begins with the time of the start."""

    id: AgentId
    cluster: ClusterId
    key: Ed25519PrivateKey


def broadcast_targets(listen: str, broadcast_address: str, addresses: tuple[LocalAddress, ...]) -> tuple[str, ...]:
    """Where beacons are sent: the configured address, and each subnet's own (255.255.255.255 leaves
    by one interface).
    """
    if is_loopback(listen):
        return (LOOPBACK_BROADCAST,)
    subnets = [a.broadcast for a in usable_addresses(addresses) if a.broadcast]
    return tuple(dict.fromkeys([broadcast_address, *subnets]))


def agent_beacon(*, name: str, host: str, api_port: int, peer_port: int, version: str, status: str) -> Beacon:
    """The beacon of the agent itself (docs/seed.md "Broadcasting mechanism"); `Beacons` adds the time, the number and
    the signature."""
    return Beacon(
        service_id=name,
        type="unknown",
        host=host,
        port=api_port,
        protocol="https",
        capabilities={"status": status, "version": version, PEER_PORT: peer_port},
        timestamp="",
    )


def peer_address(beacon: Beacon, cluster: ClusterId, own: AgentId) -> tuple[AgentId, str, int] | None:
    """The peer address of the agent that sent this beacon, if it is of our cluster and not ourselves."""
    port = beacon.capabilities.get(PEER_PORT)
    if beacon.agent_id is None or beacon.agent_id == own or beacon.cluster != cluster:
        return None
    if type(port) is not int or not 1 <= port <= 65535:
        return None
    return beacon.agent_id, beacon.host, port


class Beacons:
    """The two sockets. `on_beacon(beacon, source address)` gets beacons that parsed; the caller verifies signatures.

    `counts`: `sent`, `received`, and drops by reason: `rate`, `bad`, `too-many`, `too-large`, `send`.
    """

    def __init__(self, announcer: Announcer, on_beacon: Callable[[Beacon, str], None], counts: Counter[str]) -> None:
        self._announcer = announcer
        self._on_beacon = on_beacon
        self._counts = counts
        self._loop = asyncio.get_running_loop()
        self._seq = int(time.time() * 1000)
        self._bucket = TokenBucket(rate_per_s=BEACON_RATE_PER_S, burst=BEACON_BURST, tokens=BEACON_BURST)
        self._port = 0
        self._sender: socket.socket | None = None
        self._receiver: socket.socket | None = None

    def start(self, listen: str, port: int) -> None:
        """Open both sockets. Raises InputError when the port can't be shared or the address isn't ours."""
        listen = listen if ipaddress.ip_address(listen).version == 4 else "0.0.0.0"  # noqa: S104 broadcast is IPv4's
        heard_at = LOOPBACK_BROADCAST if is_loopback(listen) else "0.0.0.0"  # noqa: S104 the only way to hear broadcasts
        self._port = port
        try:
            self._receiver = _socket(heard_at, port)
            self._sender = _socket(listen, 0)
        except OSError as error:
            self.stop()
            raise InputError(
                f"beacons can't use UDP port {port}: {error.strerror}",
                where=listen,
                fix="Set `discovery_port` to the port that all agents of the cluster share, or switch beacons off.",
            ) from None
        self._loop.add_reader(self._receiver.fileno(), self._drain)

    def stop(self) -> None:
        """Close both."""
        if self._receiver is not None:
            self._loop.remove_reader(self._receiver.fileno())
            self._receiver.close()
            self._receiver = None
        if self._sender is not None:
            self._sender.close()
            self._sender = None

    def send_round(self, beacons: Sequence[Beacon], targets: Sequence[str]) -> None:
        """Stamp, number, sign and broadcast these, the first MAX_BEACONS_PER_ROUND of them."""
        if len(beacons) > MAX_BEACONS_PER_ROUND:
            self._counts["too-many"] += len(beacons) - MAX_BEACONS_PER_ROUND
        now = rfc3339(int(time.time()) * 1000)
        for beacon in beacons[:MAX_BEACONS_PER_ROUND]:
            self._seq += 1
            a = self._announcer
            stamped = msgspec.structs.replace(
                beacon, timestamp=now, agent_id=a.id, cluster=a.cluster, seq=self._seq, sig=None
            )
            try:
                data = encode_beacon(sign_beacon(stamped, a.key))
            except TooLarge:  # an image with a very long name, say
                self._counts["too-large"] += 1
                continue
            for target in targets:
                self._send(data, target)

    def _send(self, data: bytes, target: str) -> None:
        if self._sender is None:
            return
        try:
            self._sender.sendto(data, (target, self._port))
            self._counts["sent"] += 1
        except OSError:  # no network yet, or none that broadcasts: the next round tries again
            self._counts["send"] += 1

    def _drain(self) -> None:
        for _ in range(BEACONS_PER_TICK):
            if self._receiver is None:
                return
            try:
                data, source = self._receiver.recvfrom(MAX_BEACON_BYTES + 1)
            except OSError:  # nothing more (BlockingIOError), or an error of an earlier datagram
                return
            if not self._bucket.take(self._loop.time()):
                self._counts["rate"] += 1
                continue
            try:
                beacon = decode_beacon(data)
            except InputError:
                self._counts["bad"] += 1
                continue
            if beacon.agent_id == self._announcer.id:
                continue  # our own
            self._counts["received"] += 1
            self._on_beacon(beacon, str(source[0]))


def _socket(host: str, port: int) -> socket.socket:
    opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        opened.bind((host, port))
    except OSError:
        opened.close()
        raise
    return opened
