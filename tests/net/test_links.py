"""Peer links: two agents find, prove, keep and lose each other (ARCHITECTURE.md "Membership and links")."""

from __future__ import annotations

import asyncio
import statistics
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.model.cluster import MAX_VOTERS
from agent.model.instruction import MAX_TOKEN_BYTES
from agent.net import links
from agent.net.dialler import BackOff
from agent.net.frames import HEADER_BYTES, MAX_REFUSAL_BODY_BYTES, Refused, encode_frame
from agent.net.link import MAX_QUEUE_BYTES, PeerInfo
from agent.net.pulse import EARLY_SHARE, LinkTiming
from agent.net.second import judge_second
from agent.node.messages import CallFrame, CancelFrame, Ledger, RaftFrame, ReplyFrame, Submit
from agent.node.versions import FRAME_VERSION
from agent.raft import Configuration, Entry, EntryKind, RaftTiming
from agent.raft.messages import MAX_CHUNK_BYTES, InstallSnapshot
from bootstrap.certificates import certificate_digest
from tests.net.nodes import Node, make_nodes, running
from tests.support.trust import Trust
from tests.support.waiting import wait_for


@pytest.fixture
def pair(tmp_path: Path) -> list[Node]:
    return make_nodes(tmp_path, 2)


@pytest.fixture
def trio(tmp_path: Path) -> list[Node]:
    return make_nodes(tmp_path, 3)


@pytest.fixture
def five(tmp_path: Path) -> list[Node]:
    return make_nodes(tmp_path, 5)


@pytest.fixture
def strangers(tmp_path: Path) -> list[Node]:
    """Two agents of two clusters."""
    return [*make_nodes(tmp_path / "one", 1, Trust()), *make_nodes(tmp_path / "other", 1, Trust())]


@pytest.mark.parametrize("dialler", [0, 1])
async def test_a_link_is_up_on_both_sides_with_what_each_says_of_itself(pair: list[Node], dialler: int) -> None:
    a, b = pair[dialler], pair[1 - dialler]
    async with running(a, b):
        a.knows(b)
        await wait_for(lambda: a.linked(b) and b.linked(a))
        (seen,) = b.ups
        assert seen == PeerInfo(
            id=a.id,
            name="n",
            epoch=1,
            boot=1,
            agent_version="1.2.3",
            frames=FRAME_VERSION,
            datagram_key=a.table.me.datagram_key(b.id),
            host=a.host,
            peer_port=a.port,
            certificate=certificate_digest(a.identity.certificate),
            known=True,
            dialled=False,
        )
        assert a.ups[0].dialled


async def test_frames_arrive_whole_and_in_order_both_ways(pair: list[Node]) -> None:
    a, b = pair
    body = bytes(range(256)) * 4096
    async with running(a, b):
        a.knows(b)
        await wait_for(lambda: a.linked(b) and b.linked(a))
        for number in range(1, 200):
            assert a.table.send(b.id, CancelFrame(id=number))
            assert b.table.send(a.id, CancelFrame(id=number))
        big = CallFrame(id=200, request=Submit(token="t", body=body))
        assert a.table.send(b.id, big)
        await wait_for(lambda: len(b.frames) == 200 and len(a.frames) == 199)
        assert b.frames == [*((a.id, CancelFrame(id=n)) for n in range(1, 200)), (a.id, big)]
        assert a.frames == [(b.id, CancelFrame(id=n)) for n in range(1, 200)]


async def test_the_end_of_frames_that_came_together_is_told_behind_them(pair: list[Node]) -> None:
    a, b = pair
    async with running(a, b):
        a.knows(b)
        await wait_for(lambda: a.linked(b) and b.linked(a))
        for number in range(1, 4):
            assert a.table.send(b.id, CancelFrame(id=number))  # in one turn of the loop: one write
        await wait_for(lambda: 3 in b.reads)
        assert not {1, 2} & set(b.reads)


async def test_what_is_sent_at_once_by_link_up_arrives(pair: list[Node]) -> None:
    """The server's first frames may come in one piece with its hello."""
    a, b = pair

    def greet(peer: PeerInfo) -> None:
        b.ups.append(peer)
        b.table.send(peer.id, CancelFrame(id=7))

    b.link_up = greet  # type: ignore[method-assign]  # this node greets whoever comes
    async with running(a, b):
        a.knows(b)
        await wait_for(lambda: a.frames == [(b.id, CancelFrame(id=7))])


async def test_all_find_each_other_when_all_dial_at_once_and_nobody_sees_a_link_fall(five: list[Node]) -> None:
    nodes = five
    async with running(*nodes):
        for node in nodes:
            node.knows(*(other for other in nodes if other is not node))
        await wait_for(lambda: all(len(node.table.peers()) == 4 for node in nodes))
        for node in nodes:
            assert sorted(up.id for up in node.ups) == sorted(other.id for other in nodes if other is not node)
            for other in nodes:
                if other is not node:
                    node.table.send(other.id, CancelFrame(id=1))
        await wait_for(lambda: all(node.count(CancelFrame) == 4 for node in nodes))
        await asyncio.sleep(1.2)  # longer than DRAIN_S: the losing ones of double links are closed by now
        assert [node.downs for node in nodes] == [[]] * 5
        assert all(len(node.table._all) == 4 for node in nodes)


async def test_an_address_without_a_name_is_enough(pair: list[Node]) -> None:
    a, b = pair
    async with running(a, b):
        a.table.want([b.id])
        a.table.hint(None, b.host, b.port)
        await wait_for(lambda: a.linked(b))


async def test_a_seed_that_is_a_wanted_peers_address_too_costs_one_handshake(pair: list[Node]) -> None:
    a, b = pair
    async with running(a, b):
        a.table.hint(None, b.host, b.port, firm=True)
        a.knows(b)
        await wait_for(lambda: a.linked(b) and b.linked(a))
        await wait_for(lambda: not a.table._dialler._under_way, what="nothing is dialled any more")
        assert a.table.counts["refused-busy"] + a.table.counts["told-busy"] + b.table.counts["refused-busy"] == 0
        assert sum(count for what, count in (a.table.counts + b.table.counts).items() if "second" in what) == 0


async def test_a_linked_seed_needs_no_timer_and_is_dialled_again_once_its_link_is_gone(pair: list[Node]) -> None:
    a, b = pair
    async with running(a, b):
        a.table.hint(None, b.host, b.port, firm=True)
        await wait_for(lambda: a.linked(b))
        (seed,) = a.table._dialler._anonymous.values()
        waits, clear = 0, seed.wake.clear

        def begin_to_wait() -> None:
            nonlocal waits
            waits += 1
            clear()

        seed.wake.clear = begin_to_wait  # type: ignore[method-assign]  # it comes before each wait
        await asyncio.sleep(5 * a.timing.back_off.max_s)
        assert waits <= 1
        await b.table.stop()
        await wait_for(lambda: not a.linked(b))
        await b.start()
        await wait_for(lambda: a.linked(b))


async def test_a_host_name_is_enough(pair: list[Node]) -> None:
    a, b = pair
    b.host = "127.0.0.1"
    await a.start()
    await b.start()
    a.table.want([b.id])
    a.table.hint(b.id, "localhost", b.port)
    await wait_for(lambda: a.linked(b))
    await a.table.stop()
    await b.table.stop()


async def test_the_own_address_is_recognised(pair: list[Node]) -> None:
    a, b = pair
    async with running(a, b):
        a.table.want([b.id])
        a.table.hint(None, a.host, a.port, firm=True)
        await wait_for(lambda: a.table.counts["refused-self"] >= 1)
        await wait_for(lambda: not a.table._dialler._anonymous, what="the own address is forgotten")
        assert a.ups == []


async def test_another_agent_at_a_members_address_isnt_taken_for_it(trio: list[Node]) -> None:
    a, b, c = trio
    async with running(a, b, c):
        a.table.want([b.id])
        a.table.hint(b.id, c.host, c.port)
        await wait_for(lambda: a.table.counts["refused-identity"] >= 1)
        assert not a.linked(b)
        assert c.ups == []


async def test_a_clean_stop_is_noticed_at_once_and_the_peer_found_again(pair: list[Node]) -> None:
    a, b = pair
    async with running(a, b):
        a.knows(b)
        await wait_for(lambda: a.linked(b))
        await b.table.stop()
        await wait_for(lambda: a.downs == [(b.id, "closed")])
        b.boot = 2
        await b.start()
        await wait_for(lambda: a.linked(b))
        assert [up.boot for up in a.ups] == [1, 2]


async def test_a_peer_that_falls_silent_is_given_up(pair: list[Node]) -> None:
    """As with a pulled cable: TCP says nothing."""
    a, b = pair
    async with running(a, b):
        a.knows(b)
        await wait_for(lambda: a.linked(b))
        assert b.table._pulse._timer is not None
        b.table._pulse._timer.cancel()  # b says nothing any more, its kernel still acknowledges
        held = b.table._up[a.id].link._transport
        assert held is not None
        held.pause_reading()
        assert b.table._listener is not None
        await b.table._listener.close()  # and takes no new connection
        started = asyncio.get_running_loop().time()
        await wait_for(lambda: a.downs == [(b.id, "silent")])
        assert asyncio.get_running_loop().time() - started < 3 * a.timing.silence_timeout_s


async def test_an_idle_link_stays_up(pair: list[Node]) -> None:
    a, b = pair
    async with running(a, b):
        a.knows(b)
        await wait_for(lambda: a.linked(b) and b.linked(a))
        await asyncio.sleep(2 * a.timing.silence_timeout_s)
        assert (a.downs, b.downs) == ([], [])


async def test_who_hears_that_a_peer_lives_says_so_as_well_and_needs_no_timer_for_it(pair: list[Node]) -> None:
    a, b = pair
    async with running(a, b):
        a.knows(b)
        await wait_for(lambda: a.linked(b) and b.linked(a))
        assert b.table._pulse._timer is not None
        b.table._pulse._timer.cancel()
        b.table._pulse._timer = None  # nor does b speak because something else came
        await asyncio.sleep(2 * a.timing.silence_timeout_s)
        assert (a.downs, b.downs) == ([], [])
        # One answer for each: two that answer each other without end would send hundreds.
        assert 0 < a.alives <= 2 * 2 * a.timing.silence_timeout_s / a.timing.alive_interval_s


async def test_what_comes_from_one_peer_lets_the_links_with_others_speak(trio: list[Node]) -> None:
    """A frame has woken the agent anyway; then no timer has to."""
    a, b, c = trio
    async with running(a, b, c):
        a.knows(b, c)
        await wait_for(lambda: a.linked(b, c) and b.linked(a) and c.linked(a))
        for node in (a, c):
            assert node.table._pulse._timer is not None
            node.table._pulse._timer.cancel()
        c.table._pulse._timer = None  # which only answers
        a.table._pulse._timer = asyncio.get_running_loop().call_later(1000, lambda: None)
        heard = c.alives
        b.table.send(a.id, CancelFrame(id=1))
        await wait_for(lambda: a.count(CancelFrame) == 1)
        assert c.alives == heard  # it was too early
        await asyncio.sleep(a.timing.alive_interval_s)
        b.table.send(a.id, CancelFrame(id=2))
        await wait_for(lambda: c.alives > heard)
        assert a.table._pulse._timer.when() - asyncio.get_running_loop().time() <= a.timing.alive_interval_s


@pytest.mark.parametrize("timing", ["lan", "wan"])
def test_links_are_due_long_enough_for_a_heartbeat_to_find_them_so(timing: str) -> None:
    link, raft = getattr(LinkTiming, timing)(), getattr(RaftTiming, timing)()
    assert link.alive_interval_s * EARLY_SHARE > raft.heartbeat_s
    assert link.alive_interval_s <= link.silence_timeout_s / 3


async def test_a_stall_of_our_own_is_not_a_peers_silence(pair: list[Node]) -> None:
    """After a stall, what the peers said meanwhile is still in the sockets (ARCHITECTURE.md "Threads and the event
    loop")."""
    a, b = pair
    async with running(a, b):
        a.knows(b)
        await wait_for(lambda: a.linked(b) and b.linked(a))
        a.table._pulse._timer_due -= 1.0  # as if the loop had been away for a second
        for up in a.table._up.values():
            up.link.last_received -= 10.0
        a.table._pulse._timer.cancel()  # type: ignore[union-attr]  # a started table has one
        a.table._pulse._on_timer()
        assert a.downs == []


async def test_a_frame_judges_no_other_link_whose_bytes_may_have_come_with_it(pair: list[Node]) -> None:
    """The timer does, which comes behind all that the sockets brought, and isn't put off by frames."""
    a, b = pair
    async with running(a, b):
        a.knows(b)
        await wait_for(lambda: a.linked(b) and b.linked(a))
        for up in a.table._up.values():
            up.link.last_received -= 10.0
        pulse = a.table._pulse
        for _ in range(3):
            pulse._early_due = 0.0  # as after a stall, in which all links got due
            a.table.ride_along()
            assert a.downs == []
        assert pulse._timer_due <= asyncio.get_running_loop().time()
        pulse._timer.cancel()  # type: ignore[union-attr]  # a started table has one
        pulse._on_timer()
        assert a.downs == [(b.id, "silent")]


async def test_a_restarted_peer_replaces_its_old_link_before_anybody_missed_it(pair: list[Node]) -> None:
    """Its old connection is still up for us: the process died, its host didn't say so yet."""
    a, b = pair
    async with running(a, b):
        b.knows(a)
        await wait_for(lambda: a.linked(b))
        second = Node(b.identity, boot=2)
        await second.start()
        second.knows(a)
        await wait_for(lambda: [up.boot for up in a.ups] == [1, 2])
        assert a.downs == [(b.id, "restarted")]
        b.table.want([])
        await second.table.stop()


async def test_an_earlier_life_never_replaces_a_later_one(pair: list[Node]) -> None:
    a, b = pair
    b.boot = 5
    async with running(a, b):
        b.knows(a)
        await wait_for(lambda: a.linked(b))
        earlier = Node(b.identity, boot=4)
        await earlier.start()
        earlier.knows(a)
        await wait_for(lambda: a.table.counts["second-keep"] >= 1)
        assert (len(a.ups), a.downs) == (1, [])
        await earlier.table.stop()


async def test_an_expelled_peer_is_cut_and_stays_out(pair: list[Node]) -> None:
    a, b = pair
    async with running(a, b):
        b.knows(a)
        await wait_for(lambda: a.linked(b) and b.linked(a))
        a.standing[b.id] = "expelled"
        a.table.review()
        assert a.downs == [(b.id, "expelled")]
        assert not a.table.send(b.id, CancelFrame(id=1))
        await wait_for(lambda: (a.id, a.expelling) in b.refusals)
        assert not a.linked(b)
        assert a.table.counts["refused-expelled"] >= 1


async def test_an_expelled_peer_is_told_by_which_instruction(pair: list[Node]) -> None:
    a, b = pair
    a.standing[b.id] = "expelled"
    a.expelling = Refused(reason="expelled", token="t" * MAX_TOKEN_BYTES, body=b"b" * MAX_REFUSAL_BODY_BYTES)
    async with running(a, b):
        b.knows(a)
        await wait_for(lambda: (a.id, a.expelling) in b.refusals)


def test_an_earlier_agent_takes_such_a_refusal_for_one_without() -> None:
    class Earlier(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
        reason: str

    told = encode_frame(Refused(reason="expelled", token="t", body=b"b"))
    assert msgspec.msgpack.decode(told[HEADER_BYTES + 1 :], type=Earlier) == Earlier(reason="expelled")


async def test_an_expelled_peer_isnt_dialled_into_either(pair: list[Node]) -> None:
    a, b = pair
    a.standing[b.id] = "expelled"
    async with running(a, b):
        a.knows(b)
        await wait_for(lambda: a.table.counts["refused-expelled"] >= 2)
        assert b.ups == []


async def test_an_unknown_peer_with_a_good_certificate_is_up_but_not_known(pair: list[Node]) -> None:
    """Raft §4.1: else a returning voter and a new one shut each other out for ever."""
    a, b = pair
    a.standing[b.id] = "unknown"
    async with running(a, b):
        b.knows(a)
        await wait_for(lambda: a.linked(b))
        assert not a.ups[0].known
        assert a.table.review() == ()
        a.standing[b.id] = "member"
        assert a.table.review() == (b.id,)
        assert a.table.peers()[b.id].known
        assert (len(a.ups), a.downs) == (1, [])


async def test_unknown_peers_are_bounded(trio: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(links, "MAX_UNKNOWN_LINKS", 1)
    a, b, c = trio
    a.standing = {b.id: "unknown", c.id: "unknown"}
    async with running(a, b, c):
        b.knows(a)
        await wait_for(lambda: a.linked(b))
        c.knows(a)
        await wait_for(lambda: (a.id, Refused(reason="busy")) in c.refusals)
        assert not a.linked(c)


async def test_a_peer_no_longer_wanted_while_it_is_dialled_leaves_nothing_open(pair: list[Node]) -> None:
    a, b = pair
    async with running(a, b):
        a.knows(b)
        await wait_for(lambda: a.table._all)
        a.table.want([])
        await wait_for(lambda: len(a.table._all) == len(a.table.peers()))


async def test_a_peer_of_another_epoch_is_linked_and_its_epoch_told(pair: list[Node]) -> None:
    """What it may say then is the node core's affair (agent.node.epochs)."""
    a, b = pair
    async with running(a):
        b.host = "127.0.0.2"
        await b.start(epoch=2)
        b.knows(a)
        await wait_for(lambda: a.linked(b) and b.linked(a))
        assert (a.table.peers()[b.id].epoch, b.table.peers()[a.id].epoch) == (2, 1)
        await b.table.stop()


async def test_another_cluster_doesnt_get_through_tls(strangers: list[Node]) -> None:
    a, stranger = strangers
    async with running(a, stranger):
        stranger.knows(a)
        await wait_for(lambda: a.table.counts["tls"] >= 1 or stranger.table.counts["dial-failed"] >= 1)
        assert (a.ups, stranger.ups) == ([], [])


async def test_a_peer_no_longer_wanted_keeps_its_link_for_a_while_and_isnt_dialled_again(pair: list[Node]) -> None:
    a, b = pair
    async with running(a, b):
        a.knows(b)
        await wait_for(lambda: a.linked(b))
        a.table.want([])
        assert a.linked(b)
        a.table.close(b.id)
        assert a.downs == [(b.id, "asked")]
        await asyncio.sleep(0.3)
        assert not a.linked(b)


async def test_a_link_that_is_no_longer_wanted_is_closed_by_who_dialled(
    trio: list[Node], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each voter would else keep a link with every host that ever asked it something."""
    monkeypatch.setattr(links, "LINGER_S", 0.2)
    a, b, c = trio
    async with running(a, b, c):
        a.knows(b, c)
        await wait_for(lambda: a.linked(b) and a.linked(c))
        await asyncio.sleep(1.0)  # several ticks
        assert b.linked(a), "b didn't dial, and leaves it to a, which wants it"
        a.table.want([c.id])
        await wait_for(lambda: not a.linked(b) and not b.linked(a))
        assert a.downs == [(b.id, "asked")]
        assert a.linked(c)
        a.table.want([b.id, c.id])
        await wait_for(lambda: a.linked(b) and b.linked(a))


async def test_a_stranger_isnt_left_though_nobody_wants_it(pair: list[Node], monkeypatch: pytest.MonkeyPatch) -> None:
    """It may know the members that our ledger doesn't name yet."""
    monkeypatch.setattr(links, "LINGER_S", 0.2)
    a, b = pair
    async with running(a, b):
        a.standing[b.id] = "unknown"
        a.table.hint(None, b.host, b.port)
        await wait_for(lambda: a.linked(b))
        await asyncio.sleep(1.0)  # several ticks
        assert a.linked(b)


async def test_who_looks_for_one_peer_dials_nobody_elses_address(trio: list[Node]) -> None:
    """All hosts are each other's seeds: of a thousand that lost their voter each would be linked with all."""
    a, away, c = trio
    async with running(a, c):
        a.table.want([away.id])
        a.table.hint(away.id, "127.0.0.9", c.port, firm=True)
        a.table.hint(c.id, c.host, c.port, firm=True)
        a.table.hint(None, c.host, c.port, firm=True)
        await wait_for(lambda: a.table.counts["dial-failed"] >= 3)
        assert not a.linked(c)
        a.table.want([away.id, c.id])
        await wait_for(lambda: a.linked(c))


async def test_a_hint_ends_a_long_wait(pair: list[Node]) -> None:
    a, b = pair
    a.timing = replace(a.timing, back_off=BackOff(first_s=60.0, max_s=60.0))
    async with running(a, b):
        port, address = b.port, b.host
        await b.table.stop()
        a.table.want([b.id])
        a.table.hint(b.id, address, port)
        await wait_for(lambda: a.table.counts["dial-failed"] >= 1)
        await b.start()
        await asyncio.sleep(0.3)  # longer than HINT_INTERVAL_S
        assert not a.linked(b)
        a.table.hint(b.id, address, port)
        await wait_for(lambda: a.linked(b))


async def test_a_part_of_a_snapshot_has_a_place_of_its_own_behind_a_full_queue(pair: list[Node]) -> None:
    a, b = pair
    large, small = (
        ReplyFrame(id=1, reply=Ledger(entries=(Entry(1, 1, EntryKind.NORMAL, bytes(size)),)))
        for size in (1_000_000, 10_000)
    )
    a.timing = b.timing = replace(a.timing, silence_timeout_s=20.0)
    async with running(a, b):
        a.knows(b)
        await wait_for(lambda: a.linked(b) and b.linked(a))
        b.table._up[a.id].link._transport.pause_reading()  # type: ignore[union-attr]  # b's host is too slow
        await wait_for(lambda: not a.table.send(b.id, large))
        while a.table.send(b.id, small):
            pass
        assert a.table.send(b.id, LARGEST_PART)
        assert not a.table.send(b.id, LARGEST_PART), "it is for one"
        b.table._up[a.id].link._transport.resume_reading()  # type: ignore[union-attr]  # and comes round again
        await wait_for(lambda: b.count(RaftFrame) == 1)


LARGEST_PART = RaftFrame(
    message=InstallSnapshot(
        term=1,
        index=2,
        snapshot_term=1,
        configuration=Configuration.of([f"{number:026}" for number in range(MAX_VOTERS)]),
        offset=0,
        total=2 * MAX_CHUNK_BYTES,
        data=bytes(MAX_CHUNK_BYTES),
    )
)


async def test_a_queue_that_is_full_drops_and_counts(pair: list[Node]) -> None:
    a, b = pair
    frame = ReplyFrame(
        id=1, reply=Ledger(entries=tuple(Entry(i, 1, EntryKind.NORMAL, bytes(1_000_000)) for i in range(1, 8)))
    )
    a.timing = b.timing = replace(a.timing, silence_timeout_s=20.0)  # nor is the link given up meanwhile
    async with running(a, b):
        a.knows(b)
        await wait_for(lambda: a.linked(b) and b.linked(a))
        b.table._up[a.id].link._transport.pause_reading()  # type: ignore[union-attr]  # b's host is too slow
        sent = 0
        while a.table.send(b.id, frame):
            sent += 1
            await asyncio.sleep(0.01)
            assert sent < 20
        assert a.table.counts["send-queue-full"] == 1
        assert a.table._up[b.id].link.queued_bytes <= MAX_QUEUE_BYTES
        b.table._up[a.id].link._transport.resume_reading()  # type: ignore[union-attr]  # and comes round again
        await wait_for(lambda: b.count(ReplyFrame) == sent)
        assert (a.downs, b.downs) == ([], [])


async def test_dialling_and_address_hints_obey_the_policy(pair: list[Node]) -> None:
    a, _ = pair
    async with running(a):
        for host, port in [("0.0.0.0", 9998), ("224.0.0.1", 9998), ("255.255.255.255", 9998), ("127.0.0.9", 0)]:
            a.table.hint(None, host, port)
        assert a.table.counts["address-refused"] == 4


async def test_a_round_trip_on_loopback_is_quick(pair: list[Node]) -> None:
    """The bound is generous for a busy machine; about 0.2 ms is usual here."""
    a, b = pair
    b.answers[CancelFrame] = CallFrame(id=1, request=Submit(token="", body=b""))
    loop = asyncio.get_running_loop()
    async with running(a, b):
        a.knows(b)
        await wait_for(lambda: a.linked(b) and b.linked(a))
        times = []
        for number in range(1, 200):
            answered = loop.create_future()
            a.frame = lambda *_, done=answered: done.done() or done.set_result(None)  # type: ignore[method-assign]  # only the time counts
            began = loop.time()
            a.table.send(b.id, CancelFrame(id=number))
            await answered
            times.append(loop.time() - began)
        print(f"round trip: median {statistics.median(times) * 1000:.3f} ms")
        assert statistics.median(times) < 0.005


def info(own: str, peer: str, *, boot: int, dialled: bool) -> PeerInfo:
    """One side's record of a link."""
    return PeerInfo(
        id=peer,
        name="n",
        epoch=1,
        boot=boot,
        agent_version="",
        frames=FRAME_VERSION,
        datagram_key=b"",
        host="127.0.0.1",
        peer_port=1,
        certificate="0" * 64,
        known=True,
        dialled=dialled,
    )


@given(seen_first_at_a=st.booleans(), seen_first_at_b=st.booleans())
def test_of_two_links_dialled_at_once_both_sides_keep_the_same(seen_first_at_a: bool, seen_first_at_b: bool) -> None:
    """Whichever each side saw first, the one dialled by the smaller id stays, and nobody hears of a loss."""
    a, b = "a" * 26, "b" * 26

    def kept(own: str, peer: str, *, a_dialled_came_first: bool) -> bool:
        by_a = info(own, peer, boot=1, dialled=own == a)
        by_b = info(own, peer, boot=1, dialled=own == b)
        old, new = (by_a, by_b) if a_dialled_came_first else (by_b, by_a)
        verdict = judge_second(own, old, new, 0.1, 4.0)
        assert verdict in ("keep", "switch")
        return (old if verdict == "keep" else new) is by_a

    assert kept(a, b, a_dialled_came_first=seen_first_at_a)
    assert kept(b, a, a_dialled_came_first=seen_first_at_b)


def test_a_link_that_comes_late_or_from_the_same_side_means_that_the_peer_lost_the_first() -> None:
    a, b = "a" * 26, "b" * 26
    mine, theirs = info(a, b, boot=1, dialled=True), info(a, b, boot=1, dialled=False)
    assert judge_second(a, mine, theirs, 9.0, 4.0) == "replaced"
    assert judge_second(a, theirs, theirs, 0.1, 4.0) == "replaced"


def test_another_boot_decides_before_anything_else() -> None:
    a, b = "a" * 26, "b" * 26
    old, new = info(a, b, boot=1, dialled=True), info(a, b, boot=2, dialled=False)
    assert judge_second(a, old, new, 0.1, 4.0) == "restarted"
    assert judge_second(a, new, old, 9.0, 4.0) == "keep"
