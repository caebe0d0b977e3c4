"""Which agents belong to the cluster, by the ledger, and which are alive, by SWIM: links, probes
and consensus follow.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from agent.node.consensus import Consensus
from agent.node.context import Context
from agent.node.coordination import Coordination
from agent.node.effects import Cut, Datagram
from agent.node.instant import Instant
from agent.node.messages import SwimFrame
from agent.node.subscriptions import Following
from agent.swim import MemberChanged, Send


class Membership(Struct, frozen=True):
    """The parts that depend on who is a member."""

    context: Context
    consensus: Consensus
    following: Following
    coordination: Coordination

    def changed(self, when: Instant) -> None:
        """The ledger's members changed, or which of them count in consensus."""
        state, context = self.context.state, self.context
        context.swim.set_members({m.id: f"{m.address}:{m.peer_port}" for m in state.members.values()}, when.mono)
        for expelled in sorted(state.expelled & context.peers.keys()):
            context.emit(Cut(peer=expelled))
        for peer in list(context.peers.values()):
            if not peer.known and peer.id in state.members:
                context.peers[peer.id] = msgspec.structs.replace(peer, known=True)
        self.consensus.reconfigured()
        self.following.want()

    def drain_swim(self, when: Instant) -> None:
        """Send SWIM's messages, and take in whose state it changed."""
        context = self.context
        if not context.swim.has_outputs:
            return
        for output in context.swim.take_outputs():
            if isinstance(output, MemberChanged):
                context.stirred = True
                self.coordination.member_changed(output, when)
                continue
            assert isinstance(output, Send)
            context.emit(Datagram(to=output.to, message=output.message))
            if output.over_link and output.to in context.peers:
                context.send(output.to, SwimFrame(message=output.message))
