"""Heartbeats between two agents' networks: by datagram where both directions work, else over the link."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.config import Config
from agent.model.ledger import GenesisEntry, encode_entry
from agent.net.handshake import LocalAgent
from agent.node.context import Peer
from agent.node.driver import network as network_module
from agent.node.driver.network import Network
from agent.node.messages import Frame, RaftFrame
from agent.raft import RaftTiming
from agent.raft.messages import Heartbeat, HeartbeatResponse
from agent.state import ClusterState, genesis_state
from agent.storage.identity import Identity
from agent.swim import SwimMessage
from bootstrap.ports import choose
from tests.support.trust import found, introduction
from tests.support.waiting import wait_for

BEAT_S = RaftTiming.lan().heartbeat_s


class Side:
    """One agent that is nothing but its network: answers heartbeats, and notes what came and what its link carried."""

    def __init__(self, identity: Identity, address: str, port: int) -> None:
        genesis, me = identity.genesis, introduction(identity, peer_port=port)
        self.id, self.address, self.port = identity.id, address, port
        self.state: ClusterState = genesis_state(encode_entry(GenesisEntry(at=genesis.created_at, genesis=genesis)))
        config = Config(listen=address, peer_port=port, timing="lan", seeds=(), discovery_mdns=False)
        self.network = Network(config, identity, me, random.Random(1))
        self.network.inputs = self
        self.linked = False
        self.came: list[Heartbeat | HeartbeatResponse] = []
        self.over_link = 0
        self.round = 0
        self._send = self.network.links.send
        self.network.links.send = self._count  # type: ignore[method-assign]  # watched

    def _count(self, peer: str, frame: Frame, *, hold: bool = False) -> bool:
        self.over_link += 1
        return self._send(peer, frame, hold=hold)

    def link_up(self, peer: Peer) -> None:
        self.linked = True

    def frames_over(self) -> None:
        """Each frame is looked at as it comes."""

    def expelled(self, by: str, token: str, body: bytes) -> None:
        raise AssertionError(f"{by} refuses it")

    def link_down(self, peer: str, reason: str) -> None:
        self.linked = False

    def datagram(self, sender: str, message: SwimMessage) -> None:
        pass

    def frame(self, sender: str, frame: Frame) -> None:
        if isinstance(frame, RaftFrame) and isinstance(frame.message, Heartbeat | HeartbeatResponse):
            self.came.append(frame.message)
            if isinstance(frame.message, Heartbeat):
                answer = HeartbeatResponse(term=1, round=frame.message.round)
                self.network.send(sender, RaftFrame(message=answer))

    async def beat(self, other: Side) -> int:
        """One heartbeat, answered; how many frames its link and the other's carried for it."""
        before = self.over_link + other.over_link
        self.round += 1
        self.network.send(other.id, RaftFrame(message=Heartbeat(term=1, commit=0, round=self.round)))
        answer = HeartbeatResponse(term=1, round=self.round)
        await wait_for(lambda: answer in self.came)
        return self.over_link + other.over_link - before


@pytest.fixture
def identities(tmp_path: Path) -> list[Identity]:
    return found(tmp_path, 2)


@pytest.fixture
async def pair(identities: list[Identity], monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Side, Side]]:
    """Linked."""
    monkeypatch.setattr(network_module, "all_addresses", list)  # of this machine: read from files, and not needed
    addresses = ["127.0.0.1", "127.0.0.2"]
    port = choose(addresses)
    one, other = (Side(who, where, port) for who, where in zip(identities, addresses, strict=True))
    for side in (one, other):
        await side.network.start()
    other.network.want([])  # the driver says it at its start, and then the network knows the members
    one.network.want([other.id])
    one.network.hint(other.id, other.address, port)
    await wait_for(lambda: one.linked and other.linked)
    yield one, other
    for side in (one, other):
        await side.network.stop()


@pytest.fixture
def older(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both sides' hellos are of the version before, which gives no keys."""
    monkeypatch.setattr(LocalAgent, "datagram_key", lambda *_: b"")


async def test_the_first_heartbeat_goes_both_ways_and_those_after_it_by_datagram(pair: tuple[Side, Side]) -> None:
    leader, follower = pair
    assert await leader.beat(follower) > 0
    await wait_for(lambda: follower.came.count(Heartbeat(term=1, commit=0, round=1)) == 2)
    assert [await leader.beat(follower) for _ in range(5)] == [0] * 5
    assert follower.network.links.linked(leader.id)


async def test_datagrams_are_a_sign_of_life_for_the_link(pair: tuple[Side, Side]) -> None:
    leader, follower = pair
    await leader.beat(follower)
    links = [leader.network.links._up[follower.id].link, follower.network.links._up[leader.id].link]
    for link in links:
        link.last_received -= 10.0
        link.last_sent -= 10.0
    began = asyncio.get_running_loop().time()
    assert await leader.beat(follower) == 0
    assert all(link.last_received >= began and link.last_sent >= began for link in links)


async def test_when_datagrams_stop_heartbeats_and_answers_take_the_link(pair: tuple[Side, Side]) -> None:
    leader, follower = pair
    await leader.beat(follower)
    follower.network._datagrams.stop()  # as behind a firewall: nothing comes in
    heard = len(follower.came)
    while len(follower.came) == heard:
        leader.round += 1
        leader.network.send(follower.id, RaftFrame(message=Heartbeat(term=1, commit=0, round=leader.round)))
        await asyncio.sleep(BEAT_S)
    assert [await leader.beat(follower) for _ in range(3)] == [2] * 3


async def test_a_heartbeat_of_whom_there_is_no_link_with_counts_no_more(pair: tuple[Side, Side]) -> None:
    """It may have been on its way since before the link went down, and whoever counts for a leader is linked."""
    leader, follower = pair
    late = Heartbeat(term=1, commit=0, round=99)
    data = leader.network._envelope.seal(follower.id, late)
    leader.network.want([])
    follower.network.links.close(leader.id)
    await wait_for(lambda: not (leader.linked or follower.linked))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as raw:
        raw.sendto(data, (follower.address, follower.port))
    await wait_for(lambda: follower.network.drops["unlinked"] == 1)
    assert late not in follower.came


@pytest.mark.usefixtures("older")
async def test_who_gave_no_key_is_spoken_to_over_the_link(pair: tuple[Side, Side]) -> None:
    leader, follower = pair
    assert [await leader.beat(follower) for _ in range(3)] == [2] * 3
