"""The agent's network as the driver uses it: peer links, datagrams, and where peers may be found."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Iterable
from typing import Protocol

from agent.config import Config
from agent.errors import TooLarge
from agent.model.types import AgentId, Digest
from agent.net.addresses import AddressPolicy, all_addresses
from agent.net.beats import Beat, Beats
from agent.net.datagrams import Datagrams, Envelope
from agent.net.frames import MAX_REFUSAL_BODY_BYTES, Refused
from agent.net.handshake import LocalAgent, Standing
from agent.net.link import DownReason, PeerInfo
from agent.net.links import LinkTable
from agent.net.names import Names
from agent.net.pulse import LinkTiming
from agent.net.tls import peer_client_context, peer_server_context
from agent.node.context import Peer
from agent.node.messages import Frame, RaftFrame
from agent.raft import RaftTiming
from agent.state import ClusterState, expulsions
from agent.storage.identity import Identity
from agent.swim import SwimMessage


class Inputs(Protocol):
    """What the network brings in: agent.node.driver.loop.Driver."""

    @property
    def state(self) -> ClusterState: ...

    def link_up(self, peer: Peer) -> None: ...

    def link_down(self, peer: AgentId, reason: str) -> None: ...

    def expelled(self, by: AgentId, token: str, body: bytes) -> None: ...

    def frame(self, sender: AgentId, frame: Frame) -> None: ...

    def frames_over(self) -> None: ...

    def datagram(self, sender: AgentId, message: SwimMessage) -> None: ...


class Network:
    """One agent's sockets on its peer port, TCP and UDP. `inputs` is set before `start`."""

    inputs: Inputs

    def __init__(self, config: Config, identity: Identity, me: LocalAgent, rng: random.Random) -> None:
        self._config = config
        self._me = me
        self.drops: Counter[str] = Counter()
        anchor = identity.genesis.trust_anchor
        self.policy = AddressPolicy.of_host(config.listen, config.peer_port, all_addresses())
        self.links = LinkTable(
            me,
            peer_server_context(identity.certificate_path, identity.tls_key_path, anchor),
            peer_client_context(identity.certificate_path, identity.tls_key_path, anchor),
            self,
            rng=rng,
            policy=self.policy,
            timing=LinkTiming.wan() if config.timing == "wan" else LinkTiming.lan(),
        )
        self._loop = asyncio.get_running_loop()
        self._beats = Beats(getattr(RaftTiming, config.timing)().heartbeat_s)
        self._envelope = Envelope(
            me.id, me.cluster, me.epoch, me.boot, me.signing_key, self.drops, key_for=me.datagram_key
        )
        self._datagrams = Datagrams(self._envelope, self._message)
        self._names = Names(self.policy.dialable)

    async def start(self) -> None:
        """Listen on the peer port. Raises PortTaken or InputError."""
        await self.links.start(self._config.listen, self._config.peer_port)
        self._datagrams.start(self._config.listen, self._config.peer_port)
        for seed in self._config.seeds:
            host, _, port = seed.rpartition(":")
            self.links.hint(None, host.strip("[]"), int(port), firm=True)

    async def stop(self) -> None:
        """Close links and sockets."""
        self._datagrams.stop()
        await self._names.close()
        await self.links.stop()

    def hint(self, peer: AgentId | None, host: str, port: int) -> None:
        """From discovery: an agent may be there."""
        self.links.hint(peer, host, port)

    # What the driver asks

    def want(self, peers: Iterable[AgentId]) -> None:
        """Keep links with these; the members' records say where they were last known to be."""
        state = self.inputs.state
        self._me.epoch = self._envelope.epoch = state.epoch
        for member in state.members.values():
            self.links.hint(member.id, member.address, member.peer_port, firm=True)
        self._envelope.set_members({member.id: bytes.fromhex(member.signing_key) for member in state.members.values()})
        self.links.review()
        self.links.want(peers)

    def send(self, peer: AgentId, frame: Frame, *, hold: bool = False) -> bool:
        """A frame over the link, if there is one with room; `hold`: it leaves with `flush`.

        A frame that no peer would accept is dropped and counted. Heartbeats and their answers may go by datagram
        instead.
        """
        if isinstance(frame, RaftFrame) and isinstance(frame.message, Beat) and self._send_beat(peer, frame.message):
            return True
        try:
            return self.links.send(peer, frame, hold=hold)
        except TooLarge:  # e.g. a status, made large by what a member reports of itself
            self.links.counts["send-too-large"] += 1
            return False

    def _send_beat(self, peer: AgentId, beat: Beat) -> bool:
        """Whether it went by datagram and needs no link."""
        ways, info = self._beats.ways(peer, beat, self._loop.time()), self.links.peer(peer)
        if not ways.datagram or info is None or not self._datagrams.send(peer, info.host, info.peer_port, beat):
            return False
        if not ways.link:
            self.links.spoke(peer)
        return not ways.link

    def flush(self) -> None:
        """Send the frames that were held."""
        self.links.flush()

    def expel(self, peer: AgentId) -> None:
        """Cut the link with an expelled agent."""
        self.links.expel(peer)

    def send_datagram(self, to: AgentId, message: SwimMessage) -> None:
        """To where the member's link comes from, else to where it was enrolled."""
        info = self.links.peer(to)
        if info is not None:
            self._datagrams.send(to, info.host, info.peer_port, message)
        elif (member := self.inputs.state.members.get(to)) is not None:
            ip = self._names.ip_of(member.address, member.peer_port)
            if ip is not None:  # else it is being looked up, and SWIM asks again by itself
                self._datagrams.send(to, ip, member.peer_port, message)

    def heard_since(self, since: float) -> frozenset[AgentId]:
        """Members from whom a datagram came since then, by the loop's clock."""
        return self._envelope.heard_since(since)

    def place_of(self, peer: AgentId) -> tuple[str, int] | None:
        """Where that member's link comes from, else where it was enrolled."""
        info = self.links.peers().get(peer)
        if info is not None:
            return info.host, info.peer_port
        member = self.inputs.state.members.get(peer)
        return (member.address, member.peer_port) if member is not None else None

    def drain(self) -> None:
        """Read the datagrams that wait, before a timer is believed."""
        self._datagrams.drain()

    # What the link table tells (agent.net.links.LinkHandlers)

    def authority(self, peer: AgentId, certificate: Digest) -> Standing:
        """The ledger decides: a known id with another certificate is an agent that we don't know."""
        state = self.inputs.state
        if peer in state.expelled:
            return "expelled"
        member = state.members.get(peer)
        if member is None:
            return "unknown"
        return "member" if member.certificate == certificate else "expelled"

    def link_up(self, peer: PeerInfo) -> None:
        """A link, whoever dialled it."""
        self._envelope.linked(peer.id, peer.boot, peer.datagram_key)
        if self._envelope.takes_beats(peer.id):
            self._beats.linked(peer.id, self._loop.time())
        self.inputs.link_up(
            Peer(
                id=peer.id,
                known=peer.known,
                agent_version=peer.agent_version,
                boot=peer.boot,
                frames=peer.frames,
                epoch=peer.epoch,
            )
        )

    def expulsion(self, peer: AgentId) -> Refused:
        """With the instruction, by which its agent can tell the truth from a lie, unless that is uncommonly long."""
        kept = expulsions(self.inputs.state).get(peer)
        if kept is None or len(kept.body) > MAX_REFUSAL_BODY_BYTES:
            return Refused(reason="expelled")
        return Refused(reason="expelled", token=kept.token, body=kept.body)

    def refused(self, peer: AgentId, refused: Refused) -> None:
        """It takes no link with us. Most reasons pass, or are counted."""
        if refused.reason == "expelled":
            self.inputs.expelled(peer, refused.token, refused.body)

    def link_down(self, peer: AgentId, reason: DownReason) -> None:
        """The link is gone."""
        self._envelope.unlinked(peer)
        self._beats.unlinked(peer)
        self.inputs.link_down(peer, reason)

    def frame(self, peer: AgentId, frame: Frame) -> None:
        """A frame; `Alive` too, since hearing it is the news."""
        if isinstance(frame, RaftFrame) and isinstance(frame.message, Beat):
            self._beats.came(peer, frame.message, by_datagram=False)
        self.inputs.frame(peer, frame)

    def frames_over(self) -> None:
        """All that came together was passed on."""
        self.inputs.frames_over()

    def _message(self, sender: AgentId, message: SwimMessage | Beat) -> None:
        if not isinstance(message, Beat):
            self.inputs.datagram(sender, message)
        elif self.links.heard(sender):
            self._beats.came(sender, message, by_datagram=True)
            self.inputs.frame(sender, RaftFrame(message=message))
            self.inputs.frames_over()
            self.links.ride_along()
        else:
            self.drops["unlinked"] += 1
