"""Agents that are nothing but a link table: for tests of what happens between two or more of them."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from agent.model.types import AgentId, Digest
from agent.net.addresses import AddressPolicy
from agent.net.dialler import BackOff
from agent.net.frames import Refused
from agent.net.handshake import LocalAgent, Standing
from agent.net.link import DownReason, PeerInfo
from agent.net.links import LinkTable
from agent.net.pulse import LinkTiming
from agent.net.tls import peer_client_context, peer_server_context
from agent.node.messages import Alive, Frame
from agent.storage.identity import Identity
from tests.support.trust import Trust, found, introduction

QUICK = LinkTiming(
    alive_interval_s=0.1,
    silence_timeout_s=0.6,
    connect_timeout_s=1.0,
    handshake_timeout_s=1.0,
    back_off=BackOff(first_s=0.01, max_s=0.1, stable_s=0.5),
)


class Node:
    """A table and what it told. `standing` overrides what the ledger says of somebody (else: member); `expelling` is
    what somebody expelled is told.
    """

    def __init__(self, identity: Identity, boot: int = 1, timing: LinkTiming = QUICK) -> None:
        self.identity = identity
        self.timing = timing
        self.boot = boot
        self.ups: list[PeerInfo] = []
        self.downs: list[tuple[AgentId, DownReason]] = []
        self.refusals: list[tuple[AgentId, Refused]] = []
        self.expelling = Refused(reason="expelled")
        self.frames: list[tuple[AgentId, Frame]] = []
        self.reads: list[int] = []  # how many frames there were behind each
        self.alives = 0
        self.standing: dict[AgentId, Standing] = {}
        self.answers: dict[type[Frame], Frame] = {}
        anchor = identity.genesis.trust_anchor
        self.server_context = peer_server_context(identity.certificate_path, identity.tls_key_path, anchor)
        self.client_context = peer_client_context(identity.certificate_path, identity.tls_key_path, anchor)
        self.host = "127.0.0.1"
        self.port = 0
        self.table: LinkTable

    @property
    def id(self) -> AgentId:
        return self.identity.id

    def local_agent(self, *, epoch: int = 1) -> LocalAgent:
        return introduction(self.identity, epoch=epoch, boot=self.boot)

    async def start(self, *, epoch: int = 1) -> None:
        self.table = LinkTable(
            self.local_agent(epoch=epoch),
            self.server_context,
            self.client_context,
            self,
            rng=random.Random(self.id),
            policy=AddressPolicy(loopback=True),
            timing=self.timing,
        )
        self.port = await self.table.start(self.host, self.port)

    def knows(self, *others: Node) -> None:
        """Wants these, and knows where they are."""
        self.table.want(other.id for other in others)
        for other in others:
            self.table.hint(other.id, other.host, other.port, firm=True)

    def linked(self, *others: Node) -> bool:
        return all(self.table.linked(other.id) for other in others)

    def count(self, frame: type[Frame]) -> int:
        return sum(type(got) is frame for _, got in self.frames)

    # --- LinkHandlers ---

    def authority(self, peer: AgentId, certificate: Digest) -> Standing:
        return self.standing.get(peer, "member")

    def link_up(self, peer: PeerInfo) -> None:
        self.ups.append(peer)

    def frames_over(self) -> None:
        self.reads.append(len(self.frames))

    def expulsion(self, peer: AgentId) -> Refused:
        return self.expelling

    def refused(self, peer: AgentId, refused: Refused) -> None:
        self.refusals.append((peer, refused))

    def link_down(self, peer: AgentId, reason: DownReason) -> None:
        self.downs.append((peer, reason))

    def frame(self, peer: AgentId, frame: Frame) -> None:
        if type(frame) is Alive:
            self.alives += 1
        else:
            self.frames.append((peer, frame))
        if (answer := self.answers.get(type(frame))) is not None:
            self.table.send(peer, answer)


def make_nodes(directory: Path, count: int, trust: Trust | None = None) -> list[Node]:
    """Nodes of one cluster, not started; ordered by id."""
    return sorted((Node(identity) for identity in found(directory, count, trust)), key=lambda node: node.id)


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[Sequence[Node]]:
    """The nodes started, on addresses of their own, and stopped at the end."""
    started = []
    try:
        for number, node in enumerate(nodes, 1):
            node.host = f"127.0.0.{number}"
            await node.start()
            started.append(node)
        yield nodes
    finally:
        await asyncio.gather(*(node.table.stop() for node in started))
