"""What the parts of the node core share: who we are, the cores, the peers, and the effects gathered so far."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct, field

from agent.model.fault import Fault
from agent.model.types import AgentId, Millis
from agent.node.calls import CallBook, OnReply
from agent.node.clock import LedgerClock
from agent.node.effects import Effect, Send
from agent.node.instant import Instant
from agent.node.messages import CallFrame, CancelFrame, Failed, Frame, Reply, ReplyFrame, Request
from agent.node.versions import FRAME_VERSION
from agent.raft import Raft
from agent.state import ClusterState
from agent.swim import MemberState, Swim


class Peer(Struct, frozen=True, kw_only=True):
    """A linked peer. `known`: our ledger names it as a member; if not, it takes part in consensus and nothing more.

    `boot` counts its agent's starts; `epoch`: the cluster's epoch in its ledger (agent.node.epochs); `frames`: the
    version of frames that this link uses (agent.node.versions).
    """

    id: AgentId
    known: bool
    agent_version: str = ""
    epoch: int = 1
    boot: int = 0
    frames: int = FRAME_VERSION


class Lead(NamedTuple):
    """Who coordinates, and in which term."""

    agent: AgentId
    term: int


class Context(Struct):
    """Mutable; owned by one `NodeCore`, used by its parts.

    `name`: the host's, where the ledger has none. `expelled`: this agent knows that it was. `followed`: the linked
    voter that we follow, if we don't vote; `told`: who leads, as it says. `stirred`: whether there was more than
    consensus messages since all parts last ran.
    """

    id: AgentId
    name: str
    boot: int
    raft: Raft
    swim: Swim
    state: ClusterState
    clock: LedgerClock
    expelled: bool = False
    followed: AgentId | None = None
    told: Lead | None = None
    peers: dict[AgentId, Peer] = field(default_factory=dict)
    calls: CallBook = field(default_factory=CallBook)
    effects: list[Effect] = field(default_factory=list)
    stirred: bool = True
    _lead: Lead | None = None

    def emit(self, effect: Effect) -> None:
        """Hand an effect to the driver."""
        self.effects.append(effect)

    def send(self, to: AgentId, frame: Frame) -> None:
        """A frame for a linked peer."""
        self.effects.append(Send(to=to, frame=frame))

    def reply(self, to: AgentId, call: int, reply: Reply, *, end: bool = True) -> None:
        """A part of the answer to a peer's call."""
        self.send(to, ReplyFrame(id=call, reply=reply, end=end))

    def fail(self, to: AgentId, call: int, fault: Fault) -> None:
        """End a peer's call with an error."""
        self.reply(to, call, Failed(fault=fault))

    @property
    def leads(self) -> bool:
        """Whether this agent coordinates and has applied an entry of its own term (Raft §8): its state is whole."""
        return self.raft.is_leader and self.raft.term_at(self.state.index) == self.raft.term

    def clock_ms(self, when: Instant) -> Millis:
        """The time by this agent's clock, as its peers see it."""
        return self.clock.now_ms(self.state.at, self.raft.configuration.voters, when)

    def ledger_ms(self, clock_ms: Millis) -> Millis:
        """The stamp of an entry that this agent, coordinating, proposes at that time: ledger time never goes back."""
        return max(self.state.at, clock_ms)

    def may_stamp(self, when: Instant) -> bool:
        """Whether this agent coordinates with its whole state, and has had its clock checked by its peers."""
        since = self.raft.leader_since
        if not self.leads or since is None:
            return False
        linked = self.peers.keys() & self.state.members.keys()
        return self.clock.is_checked(self.state.at, self.raft.configuration.voters, linked, since, when)

    @property
    def lead(self) -> Lead | None:
        """Who coordinates, as far as this agent knows: voters hear heartbeats, the others are told."""
        raft = self.raft
        leader, known = raft.leader, self._lead
        if leader is None or self.id not in raft.configuration:
            return self.told
        if known is None or known.agent != leader or known.term != raft.term:
            known = self._lead = Lead(leader, raft.term)
        return known

    @property
    def leader(self) -> AgentId | None:
        """Who coordinates."""
        lead = self.lead
        return lead.agent if lead is not None else None

    @property
    def way(self) -> AgentId | None:
        """Where to send what is for the coordinator: to itself, or to the voter that we follow.
        None: it can't be sent.
        """
        leader = self.leader
        if leader is None or leader == self.id:
            return leader
        return leader if leader in self.peers else self.followed

    def reaches(self, voter: AgentId) -> bool:
        """Whether a voter is there, as far as we can tell: voters judge by their links, the others also by SWIM."""
        if voter == self.id or voter in self.peers:
            return True
        if self.id in self.raft.configuration.voters:
            return False
        return self.swim.state_of(voter) is MemberState.ALIVE

    def call(self, peer: AgentId, request: Request, on_reply: OnReply) -> int:
        """Ask a linked peer; the call, for `hang_up`."""
        number = self.calls.open(peer, on_reply)
        self.send(peer, CallFrame(id=number, request=request))
        return number

    def hang_up(self, call: int) -> None:
        """Nobody waits for this call any more; 0 means none, and a call that is over already is fine."""
        if (peer := self.calls.close(call)) is not None:
            self.send(peer, CancelFrame(id=call))

    @property
    def own_name(self) -> str:
        """This host's name, also once it was expelled."""
        member = self.state.members.get(self.id)
        return member.name if member else self.name

    def name_of(self, agent: AgentId) -> str:
        """The host's name, or the id of an agent that our ledger doesn't know."""
        member = self.state.members.get(agent)
        return member.name if member else agent
