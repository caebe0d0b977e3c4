"""Which of our addresses to advertise, which of others' to dial, and where each peer was last seen.

Addresses are hints from anyone: a record in the ledger, a seed, a beacon, mDNS. Dialling a wrong one costs a failed TLS
handshake, so hints are bounded and never decide anything.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from fnmatch import fnmatchcase
from typing import Final, NamedTuple

import psutil
from msgspec import Struct, field

# Container engines' own networks: the same addresses exist on every host, so they lead to nobody in particular.
CONTAINER_INTERFACES: Final = ("docker*", "veth*", "br-*")

# A host has a few interfaces; more hints than this for one peer are somebody's flood.
MAX_ADDRESSES_PER_PEER: Final = 8

# Of these, the ones that hints can't push out. Half: a host that moves often must not fill its book with where it was.
MAX_FIRM_ADDRESSES_PER_PEER: Final = 4

# Seeds and beacons of agents not known yet: two per host of the largest cluster would do; this is for a LAN of them.
MAX_ANONYMOUS_ADDRESSES: Final = 256

# Peers with an address book: every member of the largest cluster, and as many that are gone.
MAX_PEERS: Final = 2048


class Address(NamedTuple):
    """An IP address or host name, and a TCP port."""

    host: str
    port: int


class LocalAddress(NamedTuple):
    """One address of this host. `broadcast` is the subnet's, or an empty string."""

    interface: str
    ip: str
    network: str
    broadcast: str


def is_loopback(host: str) -> bool:
    """Whether `host` is a loopback IP address or the name localhost."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def all_addresses() -> tuple[LocalAddress, ...]:
    """Every IPv4 and IPv6 address of the interfaces that are up."""
    up = {name for name, stats in psutil.net_if_stats().items() if stats.isup}
    found = []
    for name, addresses in sorted(psutil.net_if_addrs().items()):
        for entry in addresses:
            if name not in up or entry.family.name not in {"AF_INET", "AF_INET6"} or not entry.netmask:
                continue
            ip = entry.address.partition("%")[0]
            network = _network(ip, entry.netmask)
            if network is None:
                continue
            broadcast = str(network.broadcast_address) if network.version == 4 and network.prefixlen < 31 else ""
            found.append(LocalAddress(name, ip, str(network), broadcast))
    return tuple(found)


def usable_addresses(addresses: tuple[LocalAddress, ...]) -> tuple[LocalAddress, ...]:
    """Those that other hosts can reach: not loopback, link-local, or of a container engine's networks."""
    return tuple(
        a
        for a in addresses
        if not _is_container_interface(a.interface)
        and not ipaddress.ip_address(a.ip).is_loopback
        and not ipaddress.ip_address(a.ip).is_link_local
    )


def _is_container_interface(name: str) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in CONTAINER_INTERFACES)


def _network(ip: str, netmask: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        if ":" in netmask:  # psutil gives IPv6 masks as addresses; ipaddress wants a length
            return ipaddress.IPv6Network((ip, int(ipaddress.IPv6Address(netmask)).bit_count()), strict=False)
        return ipaddress.IPv4Network((ip, netmask), strict=False)
    except ValueError:
        return None


class AddressPolicy(Struct, frozen=True):
    """What may be dialled. `loopback`: the agent itself is configured on loopback, so its peers are there as well.

    `refused` are this host's container networks (CIDR); `own` is where this agent itself listens.
    """

    loopback: bool = False
    refused: tuple[str, ...] = ()
    own: frozenset[Address] = frozenset()

    @classmethod
    def of_host(cls, listen: str, port: int, addresses: tuple[LocalAddress, ...]) -> AddressPolicy:
        """The policy of an agent that listens on `listen` (an IP address; 0.0.0.0 or :: for all) on this host."""
        refused = tuple(sorted({a.network for a in addresses if _is_container_interface(a.interface)}))
        wildcard = ipaddress.ip_address(listen).is_unspecified
        own = {Address(a.ip, port) for a in addresses} if wildcard else {Address(listen, port)}
        return cls(loopback=is_loopback(listen), refused=refused, own=frozenset(own))

    def dialable(self, ip: str, port: int) -> bool:
        """Whether a connection to this IP address may be tried."""
        try:
            address = ipaddress.ip_address(ip)
        except ValueError:
            return False
        if address.is_multicast or address.is_unspecified or address.is_link_local or not 1 <= port <= 65535:
            return False
        if ip == "255.255.255.255" or Address(ip, port) in self.own:
            return False
        if address.is_loopback:
            return self.loopback
        return not any(address in ipaddress.ip_network(network) for network in self.refused)


class _Known(Struct):
    """Addresses, the newest last, and whether each is firm: from the ledger, a seed, or a link that was up."""

    addresses: OrderedDict[Address, bool] = field(default_factory=OrderedDict)


class AddressBook:
    """Where each peer may be reached: the newest hint first, firm ones never pushed out by others. Bounded.

    Invariant: no peer has more than MAX_ADDRESSES_PER_PEER addresses, and the newest firm ones stay.
    """

    def __init__(self) -> None:
        self._peers: OrderedDict[str, _Known] = OrderedDict()
        self._owners: dict[Address, str] = {}

    def add(self, peer: str, address: Address, *, firm: bool) -> bool:
        """Note a hint; it becomes the newest. True when the address was not known for that peer."""
        known = self._peers.setdefault(peer, _Known())
        self._peers.move_to_end(peer)
        new = address not in known.addresses
        known.addresses[address] = firm or known.addresses.get(address, False)
        known.addresses.move_to_end(address)
        if firm:
            self._owners[address] = peer
        firm_ones = [a for a, is_firm in known.addresses.items() if is_firm]
        for outdated in firm_ones[:-MAX_FIRM_ADDRESSES_PER_PEER]:
            known.addresses[outdated] = False
        while len(known.addresses) > MAX_ADDRESSES_PER_PEER:
            pushed_out = next(a for a, is_firm in known.addresses.items() if not is_firm)
            del known.addresses[pushed_out]
            self._disown(pushed_out, peer)
        while len(self._peers) > MAX_PEERS:
            oldest, forgotten = self._peers.popitem(last=False)
            for left in forgotten.addresses:
                self._disown(left, oldest)
        return new

    def _disown(self, address: Address, peer: str) -> None:
        if self._owners.get(address) == peer:
            del self._owners[address]

    def owner(self, address: Address) -> str | None:
        """The agent that was there last, by a firm hint."""
        return self._owners.get(address)

    def addresses(self, peer: str) -> tuple[Address, ...]:
        """Every address of the peer, the newest first."""
        known = self._peers.get(peer)
        return tuple(reversed(known.addresses)) if known else ()
