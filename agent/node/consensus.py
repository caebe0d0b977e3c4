"""What peers say in consensus, on its way to Raft: only what this agent may acknowledge gets there."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct, field

from agent.model.types import AgentId
from agent.node.chronicle import Chronicle
from agent.node.context import Context, Peer
from agent.node.instant import Instant
from agent.node.lives import Lives, forgotten
from agent.node.machine import judge_append
from agent.node.messages import KeptFrame
from agent.raft import Message, Snapshot
from agent.raft.messages import Append

# Between two tellings of how far our disk is: as little is lost to a peer's memory as this brings.
KEPT_EVERY_S = 0.25


class Consensus(Struct):
    """`drop` counts what doesn't get there, by reason.

    `_kept_told`: up to where we told the others that our disk is, `_kept_at` when we may tell them more.
    `_remembered`: how far they say that it was, by what they heard from us.
    """

    context: Context
    chronicle: Chronicle
    drop: Callable[[str], None]
    lives: Lives
    _told: tuple[str, AgentId] | None = None
    _remembered: dict[AgentId, int] = field(default_factory=dict)
    _kept_told: int = 0
    _kept_at: float = float("-inf")

    def link_up(self, peer: Peer, when: Instant) -> None:
        """A peer is there, perhaps with an earlier life than the one that we know."""
        if self.lives.linked(peer.id, peer.boot, self.context.raft.configuration.members):
            self._tell_went_back(peer.id, when)
        self.context.raft.peer_linked(peer.id, when.mono)
        self._tell_kept(peer.id)

    def reconfigured(self) -> None:
        """Who counts has changed."""
        members = self.context.raft.configuration.members
        self.lives.reconfigured(members)
        self._remembered = {peer: index for peer, index in self._remembered.items() if peer in members}

    def pump(self, when: Instant) -> None:
        """Tell how far our disk is."""
        if self._moved and when.mono >= self._kept_at:
            self._kept_told, self._kept_at = self.context.raft.applied, when.mono + KEPT_EVERY_S
            for member in self.context.raft.configuration.members:
                self._tell_kept(member)

    def deadline(self) -> float:
        """When `pump` is next wanted without other cause."""
        return self._kept_at if self._moved else float("inf")

    @property
    def _moved(self) -> bool:
        return self.context.raft.applied > self._kept_told

    def _tell_kept(self, peer: AgentId) -> None:
        """What is applied is on the disk, and stays."""
        raft, context = self.context.raft, self.context
        if peer in context.peers and peer in raft.configuration and context.id in raft.configuration:
            remembered = self.lives.remembered(peer)
            told = KeptFrame(boot=context.boot, index=raft.applied, last=raft.last_index, remembered=remembered)
            context.send(peer, told)

    def kept(self, sender: AgentId, frame: KeptFrame, when: Instant) -> None:
        """A peer says how far its disk is, and what it remembers of ours."""
        raft = self.context.raft
        if sender not in raft.configuration:
            return
        if self.lives.kept(sender, frame.boot, frame.index, frame.last, raft.configuration.members):
            self._tell_went_back(sender, when)
        self._remembered[sender] = frame.remembered
        if raft.fenced or self.context.id not in raft.configuration:
            return
        index = forgotten(self.context.id, raft.configuration.voters, self._remembered, raft.last_index)
        if index is not None:
            raft.fence(index, when.mono)
            self._tell_went_back(self.context.id, when)

    def judged(self, snapshot: Snapshot, sound: bool | None, when: Instant) -> None:
        """A leader's snapshot is believed, or not, or judged no more (agent.node.vouching)."""
        if sound is None:
            self.context.raft.refuse_snapshot(snapshot, when.mono, again=True)
        elif sound:
            self.context.raft.accept_snapshot(snapshot, when.mono)
        else:
            self.drop("snapshot")
            self.context.raft.refuse_snapshot(snapshot, when.mono)

    def receive(self, sender: AgentId, message: Message, when: Instant) -> None:
        """A message of a linked peer that isn't expelled."""
        raft = self.context.raft
        if not self.lives.count(sender):
            self.drop("disk_went_back")
            return
        if isinstance(message, Append):
            judged = judge_append(message, self.context.state.at, when.wall_ms)
            if judged.dropped:
                self._tell_dropped(judged.dropped, sender, when)
                self.drop(judged.dropped)
            if judged.append is None:
                return
            message = judged.append
        raft.receive(sender, message, when.mono)

    def _tell_dropped(self, reason: str, sender: AgentId, when: Instant) -> None:
        """Once for each coordinator: this agent falls behind, and somebody has to do something."""
        if (reason, sender) == self._told:
            return
        self._told = reason, sender
        here, there = self.context.name_of(self.context.id), self.context.name_of(sender)
        if reason == "unreadable_entry":
            what = f"{here} doesn't take entries of {there} that this version can't read: install the version it runs"
        else:
            what = f"{here} doesn't take an entry of {there} stamped over a day ahead: compare the two hosts' clocks"
        self.chronicle.tell(when, "member", what, host=here)

    def _tell_went_back(self, member: AgentId, when: Instant) -> None:
        name = self.context.name_of(member)
        what = (
            f"{name}'s disk went back to an earlier state: it counts as no voter until it was replaced and comes anew"
        )
        self.chronicle.tell(when, "member", what, host=name)
