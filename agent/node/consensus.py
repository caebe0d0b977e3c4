"""Passes peers' consensus messages to Raft: only those that this agent may acknowledge."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Collection

from msgspec import Struct

from agent.model.types import AgentId
from agent.node.chronicle import Chronicle
from agent.node.context import Context, Peer
from agent.node.instant import Instant
from agent.node.lives import Lives
from agent.node.machine import judge_append
from agent.node.messages import KeptFrame
from agent.raft import Message, Snapshot
from agent.raft.messages import Append

# Between two tellings of how far our disk is: as little is lost to a peer's memory as this brings.
KEPT_EVERY_S = 0.25


class Consensus(Struct):
    """`drop` counts the messages that don't get to Raft, by reason. `sign`: by this agent's own key, the same bytes
    each time.

    `_kept_told`: up to where we told the others that our disk is, `_kept_at` when we may tell them more. `_word`: our
    last signed statement, and its index.
    """

    context: Context
    chronicle: Chronicle
    drop: Callable[[str], None]
    lives: Lives
    sign: Callable[[bytes], bytes]
    _told: tuple[str, AgentId] | None = None
    _word: tuple[int, bytes] = (0, b"")
    _kept_told: int = 0
    _kept_at: float = float("-inf")

    def link_up(self, peer: Peer, when: Instant) -> None:
        """A peer is linked, perhaps in an earlier life than the one that we know."""
        if self.lives.linked(peer.id, peer.boot, self.context.raft.configuration.members):
            self._tell_went_back(peer.id, when)
        self.context.raft.peer_linked(peer.id, when.mono)
        self._tell_kept(peer.id)

    def reconfigured(self) -> None:
        """Who counts has changed."""
        self.lives.reconfigured(self.context.raft.configuration.members)
        self.lives.forget(self.context.state.expelled)

    def pump(self, when: Instant) -> None:
        """Tell the others how far our disk is."""
        if self._moved and when.mono >= self._kept_at:
            self._kept_told, self._kept_at = self.context.raft.applied, when.mono + KEPT_EVERY_S
            for peer in self._rememberers:
                self._tell_kept(peer)

    def deadline(self) -> float:
        """When `pump` is next wanted without other cause."""
        return self._kept_at if self._moved else float("inf")

    @property
    def _moved(self) -> bool:
        return self.context.raft.applied > self._kept_told

    @property
    def _rememberers(self) -> Collection[AgentId]:
        """Who keeps our statements: all that count with us; for a sole voter, those that follow it."""
        configuration, context = self.context.raft.configuration, self.context
        if configuration.members == (context.id,):
            return sorted(context.peers.keys() & context.state.members.keys())
        return configuration.members if context.id in configuration else ()

    def _tell_kept(self, peer: AgentId) -> None:
        """What is applied is on the disk, and stays. A peer whose statement we have gets it back, whether or not it
        counts.
        """
        raft, context = self.context.raft, self.context
        if peer in context.peers and (peer in self._rememberers or self.lives.word(peer).word):
            if self._word[0] != raft.applied:
                self._word = raft.applied, self._signed(raft.applied)
            life = self.lives.word(peer)
            told = KeptFrame(
                boot=context.boot,
                index=raft.applied,
                last=raft.last_index,
                word=self._word[1],
                remembered=life.up_to,
                shown=life.word,
                went_back=raft.fenced,
            )
            context.send(peer, told)

    def _signed(self, index: int) -> bytes:
        """Our statement that entries up to `index` are on this disk for good. Nothing else that this key signs begins
        like it.
        """
        state = self.context.state
        return self.sign(f"muster disk\0{state.cluster}.{state.epoch}.{self.context.id}.{index}".encode())

    def kept(self, sender: AgentId, frame: KeptFrame, when: Instant) -> None:
        """A peer says how far its disk is, and shows what it remembers of ours.

        Any peer may: we may have forgotten that member too, and only we can have signed what it shows.
        """
        raft = self.context.raft
        if self.lives.kept(sender, frame, raft.configuration.members):
            self._tell_went_back(sender, when)
        if frame.remembered <= raft.last_index or self.context.id not in raft.configuration:
            return
        if hmac.compare_digest(frame.shown, self._signed(frame.remembered)):  # how far they agree tells nobody more
            first = not raft.fenced
            raft.fence(frame.remembered, when.mono)
            if first:
                self._tell_went_back(self.context.id, when)
                for peer in self._rememberers:
                    self._tell_kept(peer)

    def judged(self, snapshot: Snapshot, sound: bool | None, when: Instant) -> None:
        """A leader's snapshot is believed, or not, or no longer judged (agent.node.vouching)."""
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
        """Log it once for each coordinator: this agent falls behind, and somebody has to do something."""
        if (reason, sender) == self._told:
            return
        self._told = reason, sender
        here, there = self.context.own_name, self.context.name_of(sender)
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
