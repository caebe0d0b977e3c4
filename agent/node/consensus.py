"""What peers say in consensus, on its way to Raft: only what this agent may acknowledge gets there."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct, field

from agent.model.types import AgentId
from agent.node.chronicle import Chronicle
from agent.node.context import Context, Peer
from agent.node.instant import Instant
from agent.node.lives import Lives
from agent.node.machine import judge_append
from agent.raft import Message
from agent.raft.messages import Append


class Consensus(Struct):
    """`drop` counts what doesn't get there, by reason."""

    context: Context
    chronicle: Chronicle
    drop: Callable[[str], None]
    _lives: Lives = field(default_factory=Lives)
    _told: tuple[str, AgentId] | None = None

    def link_up(self, peer: Peer, when: Instant) -> None:
        """A peer is there, perhaps with an earlier life than the one that we know."""
        if self._lives.linked(peer.id, peer.boot, self.context.raft.configuration.members):
            self._tell_went_back(peer.id, when)
        self.context.raft.peer_linked(peer.id, when.mono)

    def reconfigured(self) -> None:
        """Who counts has changed."""
        self._lives.reconfigured(self.context.raft.configuration.members)

    def receive(self, sender: AgentId, message: Message, when: Instant) -> None:
        """A message of a linked peer that isn't expelled."""
        raft = self.context.raft
        if not self._lives.count(sender):
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
        fenced = raft.fenced
        raft.receive(sender, message, when.mono)
        if raft.fenced and not fenced:
            self._tell_went_back(self.context.id, when)

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
