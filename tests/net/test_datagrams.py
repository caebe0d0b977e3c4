"""Datagrams: proved, for one receiver, counted once; every check in its order."""

from __future__ import annotations

import asyncio
import hmac
import socket
from collections import Counter

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import InvariantBroken, PortTaken
from agent.instruction import new_key
from agent.model.identity import agent_id_of
from agent.net import datagrams
from agent.net.beats import Beat
from agent.net.datagrams import (
    BUCKET_BURST,
    KEYED_BURST,
    KEYED_RATE_PER_S,
    MIN_DATAGRAM_BYTES,
    WINDOW_DATAGRAMS,
    Datagrams,
    Envelope,
    ReplayWindow,
    TokenBucket,
)
from agent.raft.messages import Heartbeat, HeartbeatResponse
from agent.swim import MAX_DATAGRAM_BYTES, Ack, Claim, Gossip, Ping, Update
from agent.swim.messages import MAX_ID_BYTES, MAX_UPDATES_PER_MESSAGE
from tests.support.waiting import wait_for

CLUSTER = "c" * 16


class Agent:
    """An envelope and its key."""

    def __init__(
        self, boot: int = 1, cluster: str = CLUSTER, epoch: int = 1, key: Ed25519PrivateKey | None = None
    ) -> None:
        self.key = key or new_key()
        self.public = self.key.public_key().public_bytes_raw()
        self.id = agent_id_of(self.public)
        self.drops: Counter[str] = Counter()
        self.secret = self.key.private_bytes_raw()
        self.envelope = Envelope(self.id, cluster, epoch, boot, self.key, self.drops, key_for=self.key_for)

    def key_for(self, peer: str) -> bytes:
        return hmac.digest(self.secret, peer.encode(), "sha256")

    def linked(self, other: Agent, boot: int = 1) -> None:
        self.envelope.linked(other.id, boot, other.key_for(self.id))

    def knows(self, *others: Agent) -> None:
        self.envelope.set_members({other.id: other.public for other in others})


@pytest.fixture
def a() -> Agent:
    return Agent()


@pytest.fixture
def b(a: Agent) -> Agent:
    made = Agent()
    made.knows(a, made)
    return made


def test_a_members_datagram_is_opened_with_its_sender(a: Agent, b: Agent) -> None:
    assert b.envelope.open(a.envelope.seal(b.id, Ping(1, 0)), 0.0) == (a.id, Ping(1, 0))
    assert not b.drops


@pytest.mark.parametrize(
    "message", [Ping(1, 0), Heartbeat(term=1, commit=2, round=3), HeartbeatResponse(term=1, round=3)]
)
def test_linked_members_need_no_signatures(
    a: Agent, b: Agent, message: Ping | Beat, monkeypatch: pytest.MonkeyPatch
) -> None:
    a.linked(b)
    monkeypatch.setattr(Ed25519PrivateKey, "sign", lambda *_: pytest.fail("signed"), raising=False)
    data = a.envelope.seal(b.id, message)
    assert len(data) < MIN_DATAGRAM_BYTES + 60
    assert b.envelope.open(data, 0.0) == (a.id, message)
    assert b.envelope.open(data, 0.0) is None
    assert b.drops == {"replay": 1}


def test_a_heartbeat_is_never_sent_to_whom_there_is_no_key_for(a: Agent, b: Agent) -> None:
    assert not a.envelope.takes_beats(b.id)
    with pytest.raises(KeyError):
        a.envelope.seal(b.id, Heartbeat(term=1, commit=2, round=3))
    a.envelope.linked(b.id, 1, b"")  # an agent that knows only signed ones
    assert not a.envelope.takes_beats(b.id)
    assert b.envelope.open(a.envelope.seal(b.id, Ping(1, 0)), 0.0) == (a.id, Ping(1, 0))
    a.linked(b)
    a.envelope.unlinked(b.id)
    assert not a.envelope.takes_beats(b.id)


def test_a_key_is_for_one_sender_one_receiver_and_one_start(a: Agent, b: Agent) -> None:
    other, beat = Agent(), Heartbeat(term=1, commit=2, round=3)
    b.knows(a, other)
    other.envelope.linked(b.id, 1, b.key_for(a.id))  # a's, in other hands
    assert b.envelope.open(other.envelope.seal(b.id, beat), 0.0) is None
    a.linked(b)
    a.linked(other)
    assert b.envelope.open(a.envelope.seal(other.id, beat), 0.0) is None
    b.secret = b"another start"
    b.knows(other)
    b.knows(a)
    assert b.envelope.open(a.envelope.seal(b.id, beat), 0.0) is None
    assert b.drops == {"signature": 3}


def test_the_key_of_a_member_that_was_removed_proves_nothing(a: Agent, b: Agent) -> None:
    a.linked(b)
    b.knows()
    assert b.envelope.open(a.envelope.seal(b.id, Heartbeat(term=1, commit=2, round=3)), 0.0) is None
    assert b.drops == {"unknown": 1}


def test_what_is_proved_by_a_key_is_no_other_form(a: Agent, b: Agent) -> None:
    """A SWIM message taken for a heartbeat would be one that nobody sent."""
    a.linked(b)
    for form in (datagrams.SIGNED_SWIM, datagrams.KEYED_BEAT):
        data = a.envelope.seal(b.id, Ping(1, 0, (Update("m" * 26, "o" * 26, Claim.ALIVE, 0),)))
        assert b.envelope.open(bytes([form]) + data[1:], 0.0) is None
    assert b.drops == {"signature": 2}


def test_a_flood_of_forged_signatures_holds_no_heartbeat_up(a: Agent, b: Agent) -> None:
    forged = bytearray(a.envelope.seal(b.id, Ping(1, 0)))
    forged[-1] ^= 1
    for _ in range(2 * BUCKET_BURST):
        b.envelope.open(bytes(forged), 0.0)
    a.linked(b)
    for number in range(2 * BUCKET_BURST):  # as reads send, many a second
        beat = Heartbeat(term=1, commit=2, round=number)
        assert b.envelope.open(a.envelope.seal(b.id, beat), 0.0) == (a.id, beat)


@pytest.mark.parametrize("message", [Ping(1, 0), Heartbeat(term=1, commit=2, round=3)])
def test_what_a_member_sends_by_its_key_has_a_bound_of_its_own(a: Agent, b: Agent, message: Ping | Beat) -> None:
    other = Agent()
    b.knows(a, other)
    for sender in (a, other):
        sender.linked(b)
    taken = [b.envelope.open(a.envelope.seal(b.id, message), 0.0) is not None for _ in range(KEYED_BURST + 10)]
    assert taken == [True] * KEYED_BURST + [False] * 10
    assert b.drops == {"rate": 10}
    assert b.envelope.open(other.envelope.seal(b.id, message), 0.0) is not None, "nobody else pays for it"
    assert b.envelope.open(a.envelope.seal(b.id, message), 1 / KEYED_RATE_PER_S) is not None


def test_what_others_send_under_a_members_name_costs_it_nothing(a: Agent, b: Agent) -> None:
    """Whoever is on the network can write any name into a datagram, and repeat one that passed."""
    a.linked(b)
    data = a.envelope.seal(b.id, Ping(1, 0))
    forged = bytearray(data)
    forged[-1] ^= 1
    assert b.envelope.open(data, 0.0) is not None
    for flood in (bytes(forged), data):
        for _ in range(KEYED_BURST + 1):
            b.envelope.open(flood, 0.0)
    assert b.drops == {"signature": KEYED_BURST + 1, "replay": KEYED_BURST + 1}
    assert b.envelope.open(a.envelope.seal(b.id, Ping(2, 0)), 0.0) is not None


def test_who_was_heard_is_known_of_members_only(a: Agent, b: Agent) -> None:
    assert b.envelope.heard_since(0.0) == frozenset()
    assert b.envelope.open(a.envelope.seal(b.id, Ping(1, 0)), 5.0) is not None
    assert b.envelope.heard_since(5.0) == {a.id}
    assert b.envelope.heard_since(5.1) == frozenset()
    b.knows()
    assert b.envelope.heard_since(0.0) == frozenset()


def test_the_largest_swim_message_fits() -> None:
    a, b = Agent(), Agent()
    b.knows(a)
    update = Update("m" * MAX_ID_BYTES, "o" * MAX_ID_BYTES, Claim.SUSPECT, 2**63 - 1)
    message = Gossip(2**63 - 1, (update,) * MAX_UPDATES_PER_MESSAGE)
    data = a.envelope.seal(b.id, message)
    assert len(data) <= MAX_DATAGRAM_BYTES
    assert b.envelope.open(data, 0.0) == (a.id, message)


@pytest.mark.parametrize("size", [0, 1, MIN_DATAGRAM_BYTES - 1, MAX_DATAGRAM_BYTES + 1, 65507])
def test_a_wrong_length_is_dropped_first(b: Agent, size: int) -> None:
    assert b.envelope.open(bytes(size), 0.0) is None
    assert b.drops == {"length": 1}


def test_a_stranger_is_dropped_before_its_signature_costs_anything(b: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Envelope, "_covered", lambda *_: pytest.fail("verified a stranger"))
    stranger = b"\x01" + b"z" * 26 + bytes(100)
    assert b.envelope.open(stranger, 0.0) is None
    assert b.drops == {"unknown": 1}


def test_our_own_datagram_sent_back_is_a_strangers(b: Agent) -> None:
    assert b.envelope.open(b.envelope.seal(b.id, Ping(1, 0)), 0.0) is None
    assert b.drops == {"unknown": 1}


def test_a_flood_under_a_members_name_is_stopped_before_signatures(a: Agent, b: Agent) -> None:
    forged = bytearray(a.envelope.seal(b.id, Ping(1, 0)))
    forged[-1] ^= 1
    for _ in range(500):
        b.envelope.open(bytes(forged), 0.0)
    assert b.drops == {"signature": BUCKET_BURST, "rate": 500 - BUCKET_BURST}


@given(st.booleans(), st.integers(min_value=1), st.integers(0, 7))
def test_a_single_changed_bit_is_noticed(linked: bool, position: int, bit: int) -> None:
    a, b = Agent(), Agent()
    b.knows(a)
    if linked:
        a.linked(b)
    data = bytearray(a.envelope.seal(b.id, Ping(1, 0)))
    data[position % len(data)] ^= 1 << bit
    assert b.envelope.open(bytes(data), 0.0) is None
    assert sum(b.drops.values()) == 1


@pytest.mark.parametrize(("cluster", "epoch"), [("d" * 16, 1), (CLUSTER, 2)])
def test_another_cluster_or_epoch_doesnt_verify(b: Agent, cluster: str, epoch: int) -> None:
    other = Agent(cluster=cluster, epoch=epoch)
    b.knows(other)
    assert b.envelope.open(other.envelope.seal(b.id, Ping(1, 0)), 0.0) is None
    assert b.drops == {"signature": 1}


def test_a_datagram_for_another_member_doesnt_verify(a: Agent, b: Agent) -> None:
    """Or whoever overhears one could hand it to somebody who has not seen it."""
    assert b.envelope.open(a.envelope.seal("z" * 26, Ping(1, 0)), 0.0) is None
    assert b.drops == {"signature": 1}


def test_a_replayed_datagram_counts_once(a: Agent, b: Agent) -> None:
    data = a.envelope.seal(b.id, Ping(1, 0))
    assert b.envelope.open(data, 0.0) is not None
    assert b.envelope.open(data, 1.0) is None
    assert b.drops == {"replay": 1}


def test_an_earlier_lifes_datagrams_are_replays_once_a_later_ones_came(a: Agent, b: Agent) -> None:
    old = [a.envelope.seal(b.id, Ping(n, 0)) for n in range(3)]
    later = Agent(boot=2, key=a.key)
    assert b.envelope.open(old[0], 0.0) is not None
    assert b.envelope.open(later.envelope.seal(b.id, Ping(9, 0)), 0.0) is not None
    assert b.envelope.open(old[1], 0.0) is None


def test_what_a_link_says_of_the_peers_start_overrules_the_memory(a: Agent, b: Agent) -> None:
    """A host whose disk was set back counts its starts anew."""
    again = Agent(boot=1, key=a.key)
    ahead = Agent(boot=9, key=a.key)
    assert b.envelope.open(ahead.envelope.seal(b.id, Ping(1, 0)), 0.0) is not None
    b.linked(again)
    assert b.envelope.open(again.envelope.seal(b.id, Ping(1, 0)), 0.0) is not None


def test_a_signed_message_that_isnt_swim_is_dropped(a: Agent, b: Agent) -> None:
    class Nonsense(Ping, frozen=True, array_like=True, tag=99):  # a later version's message
        pass

    assert b.envelope.open(a.envelope.seal(b.id, Nonsense(1, 0)), 0.0) is None
    assert b.drops == {"message": 1}


def test_a_member_that_left_is_a_stranger_again(a: Agent, b: Agent) -> None:
    b.knows()
    assert b.envelope.open(a.envelope.seal(b.id, Ping(1, 0)), 0.0) is None
    assert b.drops == {"unknown": 1}


def test_naming_the_members_again_keeps_their_windows(a: Agent, b: Agent) -> None:
    data = a.envelope.seal(b.id, Ping(1, 0))
    b.envelope.open(data, 0.0)
    b.knows(a, Agent())
    assert b.envelope.open(data, 0.0) is None


@given(st.binary(max_size=MAX_DATAGRAM_BYTES + 10))
def test_hostile_bytes_are_dropped_and_counted(data: bytes) -> None:
    a, b = Agent(), Agent()
    b.knows(a)
    for attempt in (data, *((bytes([form]) + a.id.encode() + data)[:MAX_DATAGRAM_BYTES] for form in range(5))):
        assert b.envelope.open(attempt, 0.0) is None
    assert b.drops.total() == 6


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2 * WINDOW_DATAGRAMS)), max_size=200))
def test_the_window_takes_no_pair_twice_and_nothing_of_an_earlier_boot(pairs: list[tuple[int, int]]) -> None:
    """RFC 4303 §3.4.3, against a set that remembers everything."""
    window, seen, newest = ReplayWindow(), set[tuple[int, int]](), (-1, -1)
    for boot, sequence in pairs:
        fresh = (
            (boot, sequence) not in seen
            and boot >= newest[0]
            and (boot > newest[0] or sequence > newest[1] - WINDOW_DATAGRAMS)
        )
        assert window.accept(boot, sequence) == fresh
        if fresh:
            seen.add((boot, sequence))
            newest = max(newest, (boot, sequence))


@given(st.lists(st.floats(0.0, 3.0), max_size=100))
def test_a_bucket_lets_no_more_through_than_rate_and_burst(gaps: list[float]) -> None:
    bucket, now, passed = TokenBucket(rate_per_s=2.0, burst=5.0, tokens=5.0), 0.0, 0
    for gap in gaps:
        now += gap
        passed += bucket.take(now)
        assert 0.0 <= bucket.tokens <= 5.0
        assert passed <= 5.0 + 2.0 * now + 1e-6


def test_a_clock_that_goes_back_gives_no_tokens() -> None:
    bucket = TokenBucket(rate_per_s=1.0, burst=1.0, tokens=1.0, at=10.0)
    assert bucket.take(5.0)
    assert not bucket.take(4.0)


# --- the socket ---


@pytest.fixture
def pair() -> tuple[Agent, Agent]:
    a, b = Agent(), Agent()
    a.knows(b)
    b.knows(a)
    return a, b


async def test_datagrams_arrive_over_the_socket(pair: tuple[Agent, Agent]) -> None:
    a, b = pair
    got: list[tuple[str, object]] = []
    at_a = Datagrams(a.envelope, lambda *m: got.append(m))
    at_b = Datagrams(b.envelope, lambda *m: got.append(m))
    at_a.start("127.0.0.1", 0)
    port = at_b.start("127.0.0.2", 0)
    for sequence in range(1, 51):
        assert at_a.send(b.id, "127.0.0.2", port, Ack(sequence, 0))
    await wait_for(lambda: len(got) == 50)
    assert got == [(a.id, Ack(n, 0)) for n in range(1, 51)]
    at_a.stop()
    at_b.stop()
    assert not at_a.send(b.id, "127.0.0.2", port, Ack(1, 0))


async def test_one_turn_of_the_loop_reads_a_bounded_number(
    pair: tuple[Agent, Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datagrams, "DATAGRAMS_PER_TICK", 4)
    a, b = pair
    got: list[object] = []
    at_b = Datagrams(b.envelope, lambda *m: got.append(m))
    port = at_b.start("127.0.0.2", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        for sequence in range(10):
            raw.sendto(a.envelope.seal(b.id, Ack(sequence, 0)), ("127.0.0.2", port))
        at_b.drain()
        assert len(got) == 4
        await wait_for(lambda: len(got) == 10)
    at_b.stop()


async def test_a_flood_is_left_to_the_kernel_and_costs_no_more_than_its_share(pair: tuple[Agent, Agent]) -> None:
    """Of what nobody can prove as of what a member sends."""
    a, b = pair
    got: list[object] = []
    at_b = Datagrams(b.envelope, lambda *m: got.append(m), TokenBucket(rate_per_s=0.0, burst=8.0, tokens=8.0))
    port = at_b.start("127.0.0.2", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        for sequence in range(4):
            raw.sendto(b"\x02" + a.id.encode() + bytes(80), ("127.0.0.2", port))
            raw.sendto(a.envelope.seal(b.id, Ack(sequence, 0)), ("127.0.0.2", port))
        for sequence in range(4, 14):
            raw.sendto(a.envelope.seal(b.id, Ack(sequence, 0)), ("127.0.0.2", port))
        for _ in range(3):
            at_b.drain()  # as before a timer
        assert (len(got), b.drops) == (4, {"signature": 4, "flood": 1})
        await wait_for(lambda: b.drops["flood"] == 3)
    assert len(got) == 4
    at_b.stop()


async def test_behind_a_flood_datagrams_are_taken_again(pair: tuple[Agent, Agent]) -> None:
    a, b = pair
    got: list[object] = []
    at_b = Datagrams(b.envelope, lambda *m: got.append(m), TokenBucket(rate_per_s=1000.0, burst=4.0, tokens=4.0))
    port = at_b.start("127.0.0.2", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        for sequence in range(20):
            raw.sendto(a.envelope.seal(b.id, Ack(sequence, 0)), ("127.0.0.2", port))
        await wait_for(lambda: len(got) + b.drops["flood"] == 20)
        raw.sendto(a.envelope.seal(b.id, Ack(20, 0)), ("127.0.0.2", port))
        await wait_for(lambda: got[-1:] == [(a.id, Ack(20, 0))])
    assert len(got) > 4
    at_b.stop()


async def test_oversized_and_foreign_datagrams_are_counted(pair: tuple[Agent, Agent]) -> None:
    _, b = pair
    at_b = Datagrams(b.envelope, lambda *_: pytest.fail("taken"))
    port = at_b.start("127.0.0.2", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        for data in (b"", b"x", bytes(9000), b"\x09" + bytes(200), b"\x01" + bytes(200)):
            raw.sendto(data, ("127.0.0.2", port))
        await wait_for(lambda: b.drops.total() == 5)
    assert b.drops == {"length": 3, "version": 1, "unknown": 1}
    at_b.stop()


async def test_a_host_name_is_not_looked_up_on_the_event_loop(
    pair: tuple[Agent, Agent], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`sendto` would ask the resolver, and everything here would stand still until it answers or gives up."""
    a, b = pair
    sent: list[object] = []
    sending = Datagrams(a.envelope, lambda *_: None)
    sending.start("127.0.0.1", 0)
    try:
        monkeypatch.setattr(socket.socket, "sendto", lambda *args: sent.append(args))
        assert not sending.send(b.id, "localhost", 9998, Ping(1, 0))
    finally:
        sending.stop()
    assert not sent
    assert a.drops["name"] == 1


async def test_a_port_in_use_is_named(pair: tuple[Agent, Agent]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.2", 0))
        with pytest.raises(PortTaken):
            Datagrams(pair[0].envelope, lambda *_: None).start("127.0.0.2", taken.getsockname()[1])
    await asyncio.sleep(0)


def test_an_oversized_message_is_our_own_fault(a: Agent, b: Agent) -> None:
    huge = Gossip(0, (Update("m" * 900, "o" * 900, Claim.SUSPECT, 0),))
    with pytest.raises(InvariantBroken):
        a.envelope.seal(b.id, huge)
