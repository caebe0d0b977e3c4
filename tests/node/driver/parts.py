"""A driver with a real core, and everything around it in memory: the test does what network and disk would."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from agent.host import HostContext
from agent.instruction import encode_body, sign_instruction
from agent.model.cluster import Member
from agent.model.instruction import Act, Body, Expel
from agent.model.stack import Stack
from agent.model.types import AgentId
from agent.node.context import Peer
from agent.node.core import NodeCore, NodeSettings
from agent.node.driver.loop import Driver, now
from agent.node.effects import Examine, Reconcile
from agent.node.messages import CallFrame, CancelFrame, FollowLogs, Frame, RaftFrame
from agent.raft import Entry, EntryKind, Persist, RaftTiming, Snapshot
from agent.raft.messages import Append, AppendResponse, PreVote, PreVoteResponse, Vote, VoteResponse
from agent.swim import SwimConfig, SwimMessage
from tests.support.ledger import CLUSTER, genesis_entry, key_of_person, member
from tests.support.memory_disk import MemoryDisk
from tests.support.waiting import wait_for
from tests.support.words import signing_as

QUIET = RaftTiming(heartbeat_s=20.0, election_timeout_min_s=50.0, election_timeout_max_s=60.0)
"""No timer of consensus fires in a test that doesn't want it."""


ASKED = FollowLogs(stack="shop", service="web", slot=1)
"""Something that one member may ask of another."""


@dataclass(slots=True)
class FakeDisk:
    """`hold` keeps writes waiting; `error` is what they meet."""

    disk: MemoryDisk
    log: list[object]
    error: Exception | None = None
    open: asyncio.Event = field(default_factory=asyncio.Event)
    writes: list[asyncio.Task[None]] = field(default_factory=list)
    verified_through: int = 0

    def __post_init__(self) -> None:
        self.open.set()

    def set_verified_through(self, index: int) -> None:
        self.verified_through = index

    def put(self, persist: Persist, told: Callable[[Exception | None], None]) -> None:
        self.log.append("write")
        self.writes.append(asyncio.create_task(self._write(persist, told)))

    async def _write(self, persist: Persist, told: Callable[[Exception | None], None]) -> None:
        await self.open.wait()
        if self.error is None:
            self.disk.write(persist, self.verified_through)
            self.log.append("written")
        told(self.error)

    async def begin_epoch(self, snapshot: Snapshot) -> None:
        await self.open.wait()
        self.disk.begin_epoch(snapshot)
        self.log.append("begun")


@dataclass(slots=True)
class FakeWire:
    """`room` False: the queue to the peer is full. `drained` happens when the driver wants the sockets heard first."""

    log: list[object]
    wants: list[frozenset[AgentId]] = field(default_factory=list)
    sent: list[tuple[AgentId, Frame]] = field(default_factory=list)
    expelled: list[AgentId] = field(default_factory=list)
    room: bool = True
    drained: Callable[[], None] = lambda: None

    def want(self, peers: Iterable[AgentId]) -> None:
        self.wants.append(frozenset(peers))

    def send(self, peer: AgentId, frame: Frame, *, hold: bool = False) -> bool:
        self.sent.append((peer, frame))
        self.log.append(frame)
        return self.room

    def flush(self) -> None:
        """What was sent has left."""

    def send_datagram(self, to: AgentId, message: SwimMessage) -> None:
        self.log.append(message)

    def expel(self, peer: AgentId) -> None:
        self.expelled.append(peer)

    def drain(self) -> None:
        self.log.append("drain")
        self.drained()


@dataclass(slots=True)
class FakeHands:
    wanted: list[Reconcile] = field(default_factory=list)
    examined: list[Examine] = field(default_factory=list)

    def set_desired(self, wanted: Reconcile) -> None:
        self.wanted.append(wanted)

    def examine(self, wanted: Examine) -> None:
        self.examined.append(wanted)


@dataclass(slots=True)
class Bench:
    """n1's driver. `log`: what it did outside, in order."""

    driver: Driver
    disk: FakeDisk
    wire: FakeWire
    hands: FakeHands
    members: dict[str, Member]
    log: list[object]

    def id(self, name: str) -> AgentId:
        return self.members[name].id

    async def coordinate(self) -> None:
        """Started, n1 becomes the coordinator; it needs no other voter for that."""
        self.driver.start()
        await wait_for(lambda: self.driver.core.context.leads, what="n1 coordinates")

    def link(self, name: str) -> None:
        self.driver.link_up(Peer(id=self.id(name), known=True))

    def unlink(self, name: str) -> None:
        self.driver.link_down(self.id(name), "lost")

    def says(self, name: str, frame: Frame) -> None:
        self.driver.frame(self.id(name), frame)
        self.driver.frames_over()

    def frames_to(self, name: str, kind: type[Any]) -> list[Any]:
        return [frame for to, frame in self.wire.sent if to == self.id(name) and isinstance(frame, kind)]

    def calls_to(self, name: str) -> list[CallFrame]:
        return self.frames_to(name, CallFrame)

    def cancelled(self, name: str) -> list[int]:
        return [frame.id for frame in self.frames_to(name, CancelFrame)]

    def vote_for_it(self, name: str) -> None:
        """`name` says yes to whatever n1's consensus asked so far."""
        for frame in [frame.message for frame in self.frames_to(name, RaftFrame)]:
            if isinstance(frame, PreVote):
                self.says(name, RaftFrame(message=PreVoteResponse(term=frame.term, granted=True)))
            elif isinstance(frame, Vote):
                self.says(name, RaftFrame(message=VoteResponse(term=frame.term, granted=True)))
            elif isinstance(frame, Append):
                last = frame.prev_index + len(frame.entries)
                self.says(name, RaftFrame(message=AppendResponse(term=frame.term, accepted=True, index=last)))


def signed_deploy(wanted: Stack) -> tuple[str, bytes]:
    """Token and body of ann's first instruction for `shop`."""
    return _signed("deploy", "stack:shop", wanted)


def signed_expulsion(agent: str, reason: str = "") -> tuple[str, bytes]:
    """Token and body of ann's instruction that expels a founder."""
    return _signed("expel", f"member:{agent}", Expel(reason=reason))


def _signed(act: Act, target: str, wanted: Body) -> tuple[str, bytes]:
    body = encode_body(wanted)
    token = sign_instruction(
        key_of_person("ann"),
        operator_name="ann",
        cluster=CLUSTER,
        epoch=1,
        act=act,
        target=target,
        revision=1,
        body_bytes=body,
        now_s=time.time(),
    )
    return token, body


@asynccontextmanager
async def bench(*, voters: int = 1, members: int = 3, timing: RaftTiming = QUIET) -> AsyncIterator[Bench]:
    """n1 of `members`, the first `voters` of them voting; a single voter coordinates at once."""
    made = tuple(member(f"n{number}") for number in range(1, members + 1))
    data = genesis_entry(made, voters)
    disk = MemoryDisk(Entry(index=1, term=0, kind=EntryKind.NORMAL, data=data))
    settings = NodeSettings(
        id=made[0].id,
        name=made[0].name,
        boot=1,
        genesis=data,
        host=HostContext(address="192.0.2.1"),
        agent_version="0.1.0",
        timing=timing,
        swim=SwimConfig.wan(),
        sign=signing_as(made[0].id),
    )
    log: list[object] = []
    core = NodeCore(settings, disk.boot(), random.Random(1), now())
    wire, fake_disk, hands = FakeWire(log), FakeDisk(disk, log), FakeHands()
    driver = Driver(core, disk=fake_disk, wire=wire, hands=hands)
    made_bench = Bench(driver, fake_disk, wire, hands, {item.name: item for item in made}, log)
    try:
        yield made_bench
    finally:
        fake_disk.open.set()
        await driver.stop(0.0)
        if driver.failed.done():
            driver.failed.exception()
