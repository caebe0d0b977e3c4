"""Which members are alive: SWIM (Das, Gupta, Motivala 2002) with Lifeguard (Dadgar, Phillips, Currey 2018), sans-IO.

Input and time go in, outputs come out; no sockets, clocks, logging or global randomness inside. Members come from the
ledger only (`Swim.set_members`); gossip changes their states, never who they are. The view is advice: nothing here
counts for a majority.

The driver's loop, with `loop.time()` as `now`::

    swim = Swim(id=agent_id, config=SwimConfig.lan(), rng=random.Random(), now=loop.time())

    # each input, then the outputs:
    swim.set_members(addresses_by_id, loop.time())     # at start and whenever the ledger's members change
    swim.receive(sender, message, loop.time())         # length, member, token bucket, signature, window are checked
    swim.link_alive(peer, loop.time())                 # a frame came over the peer link
    swim.on_deadline(loop.time())                      # at swim.deadline(), after draining the socket

    for output in swim.take_outputs():
        match output:
            case Send(to, address, message, over_link):
                datagrams.send(to, address, message)   # signed; msgspec.msgpack
                if over_link and to in links:
                    links[to].send(message)            # UDP may be blocked; arrives at receive() as well
            case MemberChanged(member, old, new, at):
                node.member_changed(member, old, new, at)
    timer.reschedule(swim.deadline())

    swim.leave(loop.time())                            # clean stop: take the outputs once more, then close

Timers after a stall: the core notices that it was called late, counts that against its own health and gives every
suspect the lost time again; draining the socket first spares even that.
"""

from agent.swim.config import SwimConfig
from agent.swim.core import Swim
from agent.swim.members import MemberView
from agent.swim.messages import (
    MAX_DATAGRAM_BYTES,
    MAX_ID_BYTES,
    MAX_MESSAGE_BYTES,
    Ack,
    Gossip,
    Nack,
    Ping,
    PingRequest,
    SwimMessage,
    Update,
)
from agent.swim.outputs import Drop, MemberChanged, Output, Send
from agent.swim.states import Claim, MemberState

__all__ = [
    "MAX_DATAGRAM_BYTES",
    "MAX_ID_BYTES",
    "MAX_MESSAGE_BYTES",
    "Ack",
    "Claim",
    "Drop",
    "Gossip",
    "MemberChanged",
    "MemberState",
    "MemberView",
    "Nack",
    "Output",
    "Ping",
    "PingRequest",
    "Send",
    "Swim",
    "SwimConfig",
    "SwimMessage",
    "Update",
]
