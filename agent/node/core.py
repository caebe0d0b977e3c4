"""The node core: an agent without sockets, disk or clock. Inputs and time go in, effects come out.

It joins the pure cores (raft, swim, state, control, host) into one agent. The driver runs the effects in order and
brings their results back; the simulator does the same with a virtual clock. The driver's loop:

    core = NodeCore(settings, boot, rng, when)
    loop:
        core.link_up / link_down / frame / datagram / submit / observed / …   # whatever came in
        core.on_deadline(when)                                                # at core.deadline(), sockets first
        for effect in core.take_effects(): run it                             # `Store`: fsync, then core.stored(when)

Here inputs come in, and the parts are run on until nothing moves. `consensus` says what of a peer's words gets to Raft,
`readies` carries out what Raft has ready; `dispatch` knows which part every other frame is for, and `membership` whom
links and probes are for.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Mapping

from msgspec import Struct, field

from agent import raft
from agent.host import HostContext, HostObservation
from agent.model.expulsion import Expulsion
from agent.model.status import MemberView, Status
from agent.model.types import AgentId
from agent.node.calls import OnReply
from agent.node.chronicle import Chronicle
from agent.node.clock import LedgerClock
from agent.node.consensus import Consensus
from agent.node.context import Context, Lead, Peer
from agent.node.coordination import Coordination
from agent.node.disk import Disk
from agent.node.dispatch import Dispatch
from agent.node.effects import Effect, Replied, Stir
from agent.node.epochs import Epochs
from agent.node.expelled import Expelled
from agent.node.followers import Followers
from agent.node.inquiries import Inquiries
from agent.node.instant import Instant
from agent.node.lives import Lives
from agent.node.local_host import LOOKS_EVERY_S, LocalHost
from agent.node.machine import Compaction, Machine
from agent.node.membership import Membership
from agent.node.messages import BEATS, SETTLED_AT_ONCE, Alive, Frame, KeptFrame, RaftFrame, Request
from agent.node.names import Names
from agent.node.passing import Passing
from agent.node.readies import Readies
from agent.node.status import build_members, build_status
from agent.node.submissions import Submissions
from agent.node.subscriptions import Following
from agent.node.viewing import Viewing
from agent.node.vouching import Vouching
from agent.swim import Swim, SwimConfig, SwimMessage


class NodeSettings(Struct, frozen=True, kw_only=True):
    """An agent's settings at its start. `genesis`: entry 1's data. `boot` counts its starts. `sign`: by its own key.
    `name`: the host's, where the ledger has none. `expelled`: what it knew of that before.

    `limits` and `compaction` have defaults that fit every cluster; the simulator makes them tiny.
    """

    id: AgentId
    name: str
    boot: int
    genesis: bytes
    host: HostContext
    agent_version: str
    timing: raft.RaftTiming
    swim: SwimConfig
    sign: Callable[[bytes], bytes]
    expelled: Expulsion | None = None
    limits: raft.RaftLimits = field(default_factory=raft.RaftLimits)
    compaction: Compaction = field(default_factory=Compaction)


class NodeCore:
    """One agent. Every method that takes `when` may leave effects; take them after each call or batch of calls.

    `context`: the shared parts, for reading.
    """

    def __init__(self, settings: NodeSettings, boot: raft.Boot, rng: random.Random, when: Instant) -> None:
        machine = Machine.boot(settings.genesis, boot, settings.compaction)
        core = raft.Raft(
            id=settings.id,
            timing=settings.timing,
            rng=rng,
            now=when.mono,
            hard_state=boot.hard_state,
            log=boot.entries,
            snapshot=boot.snapshot,
            configuration=machine.configuration,
            commit=boot.commit,
            applied=machine.state.index,
            limits=settings.limits,
            verify_snapshots=True,
        )
        swim = Swim(id=settings.id, config=settings.swim, rng=rng, now=when.mono)
        clock = LedgerClock(settings.id)
        self.context = Context(settings.id, settings.name, settings.boot, core, swim, machine.state, clock)
        self._machine = machine
        self.drops: dict[str, int] = {}
        self.submissions = Submissions(self.context)
        self.chronicle = Chronicle(self.context)
        self._consensus = Consensus(self.context, self.chronicle, self._drop, Lives.of(boot.lives), settings.sign)
        self._disk = Disk(self.context, self._consensus.lives, Names.of(boot.names), boot.commit)
        self._inquiries = Inquiries(self.context, self.status)
        self._followers = Followers(self.context, machine.chains.at)
        self._vouching = Vouching(self.context, self.chronicle, machine.proven, self._disk.names)
        self.coordination = Coordination(self.context, self.chronicle)
        max_bytes, tell, reached = settings.limits.snapshot_bytes, self.coordination.report, self.coordination.reached
        self._following = Following(self.context, self._vouching, self.chronicle, max_bytes, reached)
        self.epochs = Epochs(self.context, machine, max_bytes)
        self.expelled = Expelled(self.context, settings.expelled)
        self.expelled.begin(when)
        self._host = LocalHost(self.context, settings.host, settings.agent_version, settings.sign, tell)
        self.coordination.asking.ask_here = self._host.asked
        self._viewing = Viewing(self.context, self.coordination, self._host, self.epochs, self.expelled)
        self.membership = Membership(self.context, self._consensus, self._following, self.coordination)
        self._readies = self._carrying_out(core.configuration)
        self._dispatch = self._dispatching(Passing(self.context, tell, self._host.asked, self._drop))
        self._due: Mapping[str, Callable[[], float]] = {
            "kept": self._consensus.deadline,
            "submissions": self.submissions.deadline,
            "inquiries": self._inquiries.deadline,
            "following": self._following.deadline,
            "vouching": self._vouching.deadline,
            "host": self._host.deadline,
            "coordination": self.coordination.deadline,
        }
        self._lead: Lead | None = None
        self._ran_at = when.mono  # when the rest was last run on
        self.membership.changed(when)
        self._unsettled: Instant | None = when
        self._due_rest: float | None = None  # the parts' that move with the rest alone, as it last left them
        self._settle()
        self._following.begin(when)

    def _carrying_out(self, configuration: raft.Configuration) -> Readies:
        return Readies(
            context=self.context,
            machine=self._machine,
            disk=self._disk,
            consensus=self._consensus,
            vouching=self._vouching,
            submissions=self.submissions,
            host=self._host,
            coordination=self.coordination,
            membership=self.membership,
            configuration=configuration,
        )

    def _dispatching(self, passing: Passing) -> Dispatch:
        return Dispatch(
            context=self.context,
            chronicle=self.chronicle,
            followers=self._followers,
            following=self._following,
            inquiries=self._inquiries,
            passing=passing,
            submissions=self.submissions,
            vouching=self._vouching,
            drop=self._drop,
        )

    # Reading

    def deadline(self) -> float:
        """When `on_deadline` is wanted at the latest, in monotonic seconds, or a little earlier: see `deadlines`."""
        if self._unsettled is not None:
            self._settle()
        if self._due_rest is None:
            self._due_rest = min([due() for due in self._due.values()])
        context = self.context
        return min(self._due_rest, context.raft.deadline(), context.swim.latest(), self._disk.deadline())

    def deadlines(self) -> dict[str, float]:
        """The deadline of each part, as it is now."""
        self._settle()
        raft, swim, disk = self.context.raft.deadline, self.context.swim.deadline, self._disk.deadline
        return {part: due() for part, due in {"raft": raft, "swim": swim, "disk": disk, **self._due}.items()}

    def take_effects(self) -> list[Effect]:
        """The effects since the last call, in order; only now does what all inputs together made possible run."""
        self._settle()
        taken, self.context.effects = self.context.effects, []
        return taken

    def status(self, when: Instant) -> Status:
        """This agent's own view; `stale` if a coordinator would know better."""
        return build_status(self.context.state, self._viewing.at(when))

    @property
    def observation(self) -> HostObservation:
        """This host, as last observed."""
        return self._host.observation

    def members(self, when: Instant) -> tuple[MemberView, ...]:
        """The members as this agent itself sees them."""
        return build_members(self.context.state, self._viewing.at(when))

    # Inputs

    def on_deadline(self, when: Instant) -> None:
        """Time has passed. First bring in everything that the sockets hold."""
        context = self.context
        if when.mono >= context.raft.deadline():
            context.raft.on_deadline(when.mono)
        self._run_swim(when)
        self._unsettled = when
        context.stirred = context.stirred or self._due_rest is None or when.mono >= self._due_rest

    def link_up(self, peer: Peer, when: Instant) -> None:
        """A peer link is up: both sides are who they say (agent.net.links)."""
        if self.epochs.link_up(peer):
            return
        self.context.peers[peer.id] = peer
        self.expelled.link_up(peer.id)
        self._consensus.link_up(peer, when)
        self._vouching.link_up(peer.id)
        self._following.link_up(peer.id)
        if peer.known:
            self.context.swim.link_up(peer.id, when.mono)
        self._host.peers_changed()
        self._stir(when)

    def link_down(self, peer: AgentId, when: Instant) -> None:
        """The link with `peer` is gone."""
        if self.epochs.link_down(peer, when) or self.context.peers.pop(peer, None) is None:
            return
        self.context.raft.peer_unlinked(peer, when.mono)
        self._dispatch.peer_lost(peer, when)
        self._host.peers_changed()
        self._stir(when)

    def frame(self, sender: AgentId, frame: Frame, when: Instant) -> Stir:
        """A frame over the link with `sender`. What an unknown member may not send is dropped
        before it is looked at.
        """
        if self.epochs.frame(sender, frame, when):
            return Stir.MORE
        peer = self.context.peers.get(sender)
        if peer is None or sender in self.context.state.expelled:
            self._drop("unlinked" if peer is None else "expelled")
            return Stir.NOTHING
        known = sender in self.context.state.members
        if known and isinstance(frame, Alive):
            return self._beat(sender, when, of_raft=False)
        if isinstance(frame, RaftFrame):
            self._consensus.receive(sender, frame.message, when)
            if known and isinstance(frame.message, BEATS):
                return self._beat(sender, when)
            self.context.stirred |= not known
        elif isinstance(frame, KeptFrame):
            self._consensus.kept(sender, frame, when)
        elif not (known or self._following.hears(sender, frame) or self._vouching.hears(sender, frame)):
            self._drop("unknown_member")
        else:
            self._dispatch.frame(sender, frame, when)
            self.context.stirred |= not isinstance(frame, SETTLED_AT_ONCE)
        if known:
            self.context.swim.link_alive(sender, when.mono)
        self._unsettled = when
        return Stir.MORE

    def refused(self, peer: AgentId, token: str, body: bytes, when: Instant) -> Expulsion | None:
        """A peer takes no link with us as we were expelled, perhaps with the instruction; what is news in that."""
        news = self.expelled.told(peer, token, body, when)
        if news is not None and news.is_known:
            self._host.ledger_moved()
            self._stir(when)
        return news

    def datagram(self, sender: AgentId, message: SwimMessage, when: Instant) -> None:
        """A SWIM message whose signature, sender and window the shell has checked."""
        self.context.swim.receive(sender, message, when.mono)
        self._unsettled = when

    def submit(self, request: int, token: str, body: bytes, when: Instant) -> None:
        """An instruction from this agent's API; an `Answer` with this request number follows."""
        self.submissions.submit(request, token, body, when)
        self._stir(when)

    def ask_status(self, request: int, when: Instant) -> None:
        """The cluster's status: the coordinator's if it answers; an `Answer` with this request number follows."""
        self._inquiries.ask(request, when)
        self._stir(when)

    def observed(self, observation: HostObservation, when: Instant) -> None:
        """What this host runs has changed, or was looked at again."""
        self._host.observed(observation)
        self._stir(when)

    def call(self, peer: AgentId, request: Request, when: Instant) -> int:
        """A call of the driver's own; `Replied` effects follow. The peer must be linked."""
        number = 0

        def on_reply(reply: object, end: bool, _at: Instant) -> None:
            self.context.emit(Replied(call=number, reply=reply, end=end))  # type: ignore[arg-type]  # OnReply's reply

        callback: OnReply = on_reply
        number = self.context.call(peer, request, callback)
        self._stir(when)
        return number

    def cancel(self, call: int) -> None:
        """Nobody waits for this call of the driver's any more."""
        self.context.hang_up(call)

    def listen(self, listening: bool) -> None:
        """Whether anybody listens to events at this agent."""
        self.chronicle.listen(listening)

    def stored(self, when: Instant) -> None:
        """The open `Store` is on the disk."""
        self._readies.stored(when)
        self._unsettled = when

    def leave(self, when: Instant) -> bool:
        """A clean stop: hand the coordination over, and tell the others.

        Returns whether there is a hand-over to wait for; it ends, one way or the other, within an election timeout.
        """
        handing_over = False
        if self.context.raft.is_leader:
            with contextlib.suppress(raft.TransferRefused):  # nobody is there to take it
                self.context.raft.transfer_leadership(None, when.mono)
                handing_over = True
        self.context.swim.leave(when.mono)
        self._stir(when)
        return handing_over

    # Inside

    def _run_swim(self, when: Instant) -> None:
        context = self.context
        if when.mono >= context.swim.deadline():
            context.swim.on_deadline(when.mono)
            context.stirred |= when.mono >= self._ran_at + LOOKS_EVERY_S

    def _beat(self, sender: AgentId, when: Instant, *, of_raft: bool = True) -> Stir:
        """The frame that idle agents get all the time: mostly nothing, or just the answer, comes of it."""
        self.context.swim.link_alive(sender, when.mono)
        self._run_swim(when)
        answered = of_raft and self._readies.drain(when)
        if self._has_moved:
            self._unsettled = when
            return Stir.MORE
        return (Stir.MORE if self.context.raft.is_leader else Stir.ANSWER) if answered else Stir.NOTHING

    @property
    def _has_moved(self) -> bool:
        """Whether more than consensus may have something to do."""
        context = self.context
        return context.stirred or context.swim.has_outputs or context.raft.fenced

    def _stir(self, when: Instant) -> None:
        """An input that any part may need."""
        self._unsettled, self.context.stirred = when, True

    def _settle(self) -> None:
        """Run everything that the inputs since the last time made possible, until nothing moves."""
        if self._unsettled is None:
            return
        when, self._unsettled = self._unsettled, None
        self._readies.drain(when)
        self.membership.drain_swim(when)
        if self._has_moved:
            self._run_on(when)
        self._disk.keep_rest(self._machine.verified_through, when)

    def _run_on(self, when: Instant) -> None:
        while True:
            self.context.stirred, self._due_rest, self._ran_at = False, None, when.mono
            self._notice_leader(when)
            self.epochs.pump(when)
            self._consensus.pump(when)
            self._following.pump(when)
            self._vouching.pump(when)
            self._followers.pump(when)
            self.chronicle.pump()
            self._host.pump(when)
            self.coordination.pump(when)
            self.submissions.pump(when)
            self._inquiries.pump(when)
            self._readies.drain(when)
            self.membership.drain_swim(when)
            if not self.context.stirred:
                return

    def _notice_leader(self, when: Instant) -> None:
        if (lead := self.context.lead) == self._lead:
            return
        self._lead = lead
        if lead is not None:
            name, term = self.context.name_of(lead.agent), lead.term
            self.chronicle.tell(when, "coordinator", f"{name} coordinates (term {term})", host=name, revision=term)

    def _drop(self, why: str) -> None:
        self.drops[why] = self.drops.get(why, 0) + 1
