"""The TTL table of beacons (docs/seed.md "Discovery process"), its bounds, and what a stranger can't do to it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from msgspec.structs import replace

from agent.formats.beacon import Beacon
from agent.formats.beacon_table import (
    BEACON_TTL_S,
    MAX_FOREIGN_BEACONS,
    MAX_PER_SOURCE,
    BeaconTable,
    Observed,
)

FOREIGN = Beacon(
    service_id="db", type="unknown", host="10.0.0.9", port=1, protocol="tcp", timestamp="2024-01-15T10:30:00Z"
)


def ours(service: str = "web", seq: int = 1, agent: str = "a" * 26, port: int = 8443) -> Beacon:
    """As `verify_beacon` has let it through."""
    return replace(FOREIGN, service_id=service, port=port, agent_id=agent, cluster="c" * 16, seq=seq, sig="0" * 128)


def test_a_service_lives_for_the_ttl_after_its_last_beacon() -> None:
    table = BeaconTable()
    assert table.observe(ours(seq=1), 0.0) is Observed.ADDED
    assert table.observe(ours(seq=2), 30.0) is Observed.RENEWED
    assert table.live(30.0 + BEACON_TTL_S - 0.001) == (ours(seq=2),)
    assert table.live(30.0 + BEACON_TTL_S) == ()
    assert table.expire(30.0 + BEACON_TTL_S) == (ours(seq=2),)
    assert table.expire(30.0 + BEACON_TTL_S) == ()


def test_a_change_is_told_apart_from_a_renewal() -> None:
    table = BeaconTable()
    table.observe(ours(seq=1), 0.0)
    assert table.observe(ours(seq=2, port=8444), 1.0) is Observed.CHANGED
    assert table.live(1.0)[0].port == 8444


def test_a_replayed_beacon_keeps_nothing_alive() -> None:
    table = BeaconTable()
    table.observe(ours(seq=5), 0.0)
    assert table.observe(ours(seq=5), 60.0) is Observed.REPLAYED
    assert table.observe(ours(seq=4), 60.0) is Observed.REPLAYED
    assert table.live(BEACON_TTL_S) == ()


def test_a_replayed_beacon_brings_nothing_back() -> None:
    table = BeaconTable()
    table.observe(ours(seq=5), 0.0)
    table.expire(1000.0)
    assert table.observe(ours(seq=5), 1000.0) is Observed.REPLAYED
    assert table.observe(ours(seq=6), 1000.0) is Observed.ADDED


def test_a_stranger_can_not_speak_for_an_agent() -> None:
    table = BeaconTable()
    table.observe(ours(), 0.0)
    table.observe(replace(FOREIGN, service_id="web", port=666), 0.0, source="10.0.0.66")
    assert {beacon.port for beacon in table.live(0.0)} == {8443, 666}


def test_a_source_has_so_many_places_and_gets_them_back() -> None:
    table = BeaconTable()
    for n in range(MAX_PER_SOURCE):
        assert table.observe(ours(f"s{n}"), 0.0) is Observed.ADDED
    assert table.observe(ours("more"), 0.0) is Observed.TOO_MANY_OF_SOURCE
    assert table.observe(ours("s0", seq=2), 0.0) is Observed.RENEWED
    assert table.observe(ours("more", agent="b" * 26), 0.0) is Observed.ADDED
    assert table.observe(ours("more", seq=2), BEACON_TTL_S) is Observed.ADDED


def test_strangers_never_take_the_agents_places() -> None:
    table = BeaconTable()
    for n in range(MAX_FOREIGN_BEACONS):
        assert table.observe(FOREIGN, 0.0, source=f"10.0.{n // 256}.{n % 256}") is Observed.ADDED
    assert table.observe(FOREIGN, 0.0, source="192.168.0.1") is Observed.FULL
    assert table.observe(ours(), 0.0) is Observed.ADDED


class Table(RuleBasedStateMachine):
    """Against a dumb twin: a list of what was accepted and when."""

    def __init__(self) -> None:
        super().__init__()
        self.table = BeaconTable()
        self.now = 0.0
        self.heard: dict[tuple[str, str], float] = {}
        self.seqs: dict[tuple[str, str], int] = {}

    @rule(seconds=st.floats(0, 60))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule(agent=st.sampled_from("ab"), service=st.integers(0, 20), seq=st.integers(0, 6))
    def hear(self, agent: str, service: int, seq: int) -> None:
        key = (agent * 26, f"s{service}")
        live = {k for k, at in self.heard.items() if self.now < at + BEACON_TTL_S}
        full = key not in live and sum(k[0] == key[0] for k in live) >= MAX_PER_SOURCE
        result = self.table.observe(ours(key[1], seq, key[0]), self.now)
        taken = not full and seq > self.seqs.get(key, -1)
        assert (result in (Observed.ADDED, Observed.RENEWED)) == taken
        if taken:
            self.heard[key], self.seqs[key] = self.now, seq

    @rule()
    def expire(self) -> None:
        self.table.expire(self.now)

    @invariant()
    def lives_what_was_heard_within_the_ttl(self) -> None:
        expected = sorted(k for k, at in self.heard.items() if self.now < at + BEACON_TTL_S)
        assert [(b.agent_id, b.service_id) for b in self.table.live(self.now)] == expected


def test_the_table_does_as_its_dumb_twin() -> None:
    run_state_machine_as_test(Table)


@given(st.lists(st.tuples(st.integers(0, 400), st.integers(0, 30)), max_size=60))
def test_no_flood_grows_the_table_beyond_its_bounds(flood: list[tuple[int, int]]) -> None:
    table = BeaconTable()
    for source, service in flood:
        table.observe(replace(FOREIGN, service_id=f"s{service}"), 0.0, source=str(source))
    live = table.live(0.0)
    assert len(live) <= MAX_FOREIGN_BEACONS
