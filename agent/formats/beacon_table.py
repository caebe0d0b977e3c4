"""The services that beacons announced recently: a TTL table (docs/seed.md "Discovery process").

Pure; `now` is seconds on a monotonic clock.
"""

from __future__ import annotations

from enum import Enum

from msgspec import Struct

from agent.formats.beacon import Beacon

BEACON_TTL_S = 90.0  # SEED: stale after 90 s, three rounds of 30 s
MAX_PER_SOURCE = 16  # what one agent sends per round; more is a flood
MAX_BEACONS = 4096  # 256 hosts with full rounds, about 4 MiB
MAX_FOREIGN_BEACONS = 256  # strangers can't take the members' places

_Key = tuple[str, str]  # source, service id


class Observed(Enum):
    """What became of a beacon. The last three are counted, never answered."""

    ADDED = "added"
    RENEWED = "renewed"
    CHANGED = "changed"
    REPLAYED = "replayed"
    TOO_MANY_OF_SOURCE = "too-many-of-source"
    FULL = "full"


class _Held(Struct, frozen=True):
    beacon: Beacon
    until: float


class BeaconTable:
    """Live beacons by source and service id. Invariant: at most MAX_BEACONS, MAX_PER_SOURCE of each source.

    The source of a signed beacon is its agent, so pass in only those that verified; the source of a foreign one is its
    address.
    """

    def __init__(self, *, ttl_s: float = BEACON_TTL_S) -> None:
        self._ttl_s = ttl_s
        self._held: dict[_Key, _Held] = {}
        self._sequences: dict[_Key, int] = {}

    def observe(self, beacon: Beacon, now: float, *, source: str = "") -> Observed:
        """Takes a beacon in; `source` is the sender's address, used for foreign ones only."""
        key = (f"agent:{beacon.agent_id}" if beacon.signed else f"from:{source or beacon.host}", beacon.service_id)
        held = self._held.get(key)
        if held is None:
            self.expire(now)
            if (refused := self._refusal(key[0], beacon)) is not None:
                return refused
        if beacon.seq is not None:
            if beacon.seq <= self._sequences.get(key, -1):
                return Observed.REPLAYED
            self._remember(key, beacon.seq)
        self._held[key] = _Held(beacon, now + self._ttl_s)
        if held is None or now >= held.until:
            return Observed.ADDED
        return Observed.RENEWED if _same_service(held.beacon, beacon) else Observed.CHANGED

    def expire(self, now: float) -> tuple[Beacon, ...]:
        """Drops the beacons that weren't heard for the TTL, and returns them."""
        stale = [key for key, held in self._held.items() if now >= held.until]
        return tuple(self._held.pop(key).beacon for key in stale)

    def live(self, now: float) -> tuple[Beacon, ...]:
        """The beacons heard within the TTL, in the order of source and service id."""
        return tuple(
            held.beacon for _, held in sorted(self._held.items(), key=lambda item: item[0]) if now < held.until
        )

    def _remember(self, key: _Key, seq: int) -> None:
        """Remembers a beacon's number for longer than the beacon, so that a replayed datagram can't bring a dead
        service back; drops the oldest numbers first.
        """
        self._sequences.pop(key, None)
        self._sequences[key] = seq
        if len(self._sequences) > MAX_BEACONS:
            del self._sequences[next(iter(self._sequences))]

    def _refusal(self, source: str, beacon: Beacon) -> Observed | None:
        if sum(key[0] == source for key in self._held) >= MAX_PER_SOURCE:
            return Observed.TOO_MANY_OF_SOURCE
        foreign = sum(not held.beacon.signed for held in self._held.values())
        if len(self._held) >= MAX_BEACONS or (not beacon.signed and foreign >= MAX_FOREIGN_BEACONS):
            return Observed.FULL
        return None


def _same_service(one: Beacon, other: Beacon) -> bool:
    """Whether the two say the same, apart from when they said it."""
    fields = ("type", "host", "port", "protocol", "capabilities", "cluster")
    return all(getattr(one, name) == getattr(other, name) for name in fields)
