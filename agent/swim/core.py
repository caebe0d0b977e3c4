"""The protocol: input and time in, outputs out. See the package docstring for the driver's loop."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

from agent.swim.awareness import Awareness
from agent.swim.claims import Claims
from agent.swim.config import SwimConfig
from agent.swim.members import MemberView, Roster
from agent.swim.messages import (
    MAX_ID_BYTES,
    MAX_INCARNATION,
    MAX_INCARNATION_STEP,
    Ack,
    Nack,
    Ping,
    PingRequest,
    SwimMessage,
)
from agent.swim.outputs import Drop, Output
from agent.swim.probing import Probing
from agent.swim.shared import Shared
from agent.swim.speech import Speech
from agent.swim.states import Claim, MemberState


class Swim:
    """One agent's view of the members of its ledger (SWIM with Lifeguard). Advice, never quorum.

    `now` is monotonic seconds and must not go backwards between calls (ValueError). Calls never block and raise nothing
    because of what a remote sent. `incarnation` is the first own one; 0 after a restart is fine: the others tell.
    Raises ValueError for an id that no message could carry.
    """

    def __init__(self, *, id: str, config: SwimConfig, rng: random.Random, now: float, incarnation: int = 0) -> None:
        if not 1 <= len(id.encode()) <= MAX_ID_BYTES:
            raise ValueError(f"own id {id!r} must have 1 to {MAX_ID_BYTES} bytes")
        if not 0 <= incarnation <= MAX_INCARNATION:
            raise ValueError(f"incarnation is {incarnation}; it must be 0 to {MAX_INCARNATION}")
        self.id = id
        self.config = config
        self._roster = Roster(rng)
        self._shared = Shared(id, config, self._roster, Awareness(config.awareness_max_score), now, incarnation)
        self._speech = Speech(self._shared)
        self._claims = Claims(self._shared, self._speech)
        self._probing = Probing(self._shared, self._speech, self._claims, rng)
        self._speech.announce(Claim.ALIVE)

    # --- what callers read ---

    @property
    def incarnation(self) -> int:
        """The own incarnation; only this agent raises it."""
        return self._shared.incarnation

    @property
    def health_score(self) -> int:
        """Local Health Multiplier: 0 is healthy (Lifeguard §IV.A)."""
        return self._shared.awareness.score

    @property
    def drops(self) -> Counter[Drop]:
        """What of remotes was ignored, by reason."""
        return self._shared.drops

    def members(self) -> Mapping[str, MemberView]:
        """Every member of the ledger but this agent."""
        return MappingProxyType({member.id: member.view() for member in self._roster})

    def state_of(self, id: str) -> MemberState | None:
        """How one member is seen; None for who is none, and for this agent."""
        return member.state if (member := self._roster.get(id)) is not None else None

    @property
    def has_outputs(self) -> bool:
        """Whether `take_outputs` would give any."""
        return bool(self._shared.outputs)

    def take_outputs(self) -> list[Output]:
        """What is to be done since the last call, in order. Call it after every input; each adds a bounded few."""
        outputs, self._shared.outputs = self._shared.outputs, []
        return outputs

    def deadline(self) -> float:
        """When `on_deadline` is due; infinite when nothing is."""
        gossip_at = self._speech.deadline()
        if self._shared.leaving or self._roster.alone:
            return gossip_at
        due = min(gossip_at, self._probing.deadline())
        return min(due, self._claims.deadline()) if self._roster.suspects else due

    def latest(self) -> float:
        """When `on_deadline` has to be called although nothing else wakes this agent."""
        awaited = self._roster.suspects or self._probing.awaits
        busy = self._shared.leaving or self._speech.news.size or self._roster.alone or awaited
        return self.deadline() if busy else self._probing.round_at + self.config.lateness_ms / 1000

    # --- inputs ---

    def set_members(self, members: Mapping[str, str], now: float) -> None:
        """The ledger's members and their addresses (opaque here). Added ones start UNKNOWN, removed ones are forgotten.

        The own id may be among them. Raises ValueError for an id that no message could carry.
        """
        self._tick(now)
        others = {member: address for member, address in members.items() if member != self.id}
        was_alone = self._roster.alone
        for removed in self._roster.replace(others, now):
            self._speech.news.forget(removed)
            self._probing.forget(removed)
        if was_alone and not self._roster.alone:
            self._probing.begin()
            self._speech.begin()

    def receive(self, sender: str, message: SwimMessage, now: float) -> None:
        """A message that the shell has decoded and whose signature by `sender` it has checked."""
        self._tick(now)
        member = self._roster.get(sender)
        if member is None:
            self.drops[Drop.UNKNOWN_SENDER] += 1
            return
        before = self._shared.incarnation
        member.last_heard = now
        if message.incarnation <= member.own_incarnation + MAX_INCARNATION_STEP:
            member.own_incarnation = message.incarnation
        self._claims.heard(member, message.incarnation)
        for update in message.updates:
            self._claims.apply(update)
        refuted = self._shared.incarnation != before
        if isinstance(message, Ping):
            over_link = refuted or member.state is not MemberState.ALIVE
            self._speech.ack(member, message.sequence, over_link=over_link)
        elif isinstance(message, PingRequest):
            self._probing.relay(member, message)
        elif isinstance(message, Ack):
            self._probing.on_ack(member, message.sequence)
        elif isinstance(message, Nack):
            self._probing.on_nack(member, message.sequence)
        if not isinstance(message, Ping) and (refuted or member.disputed):
            self._speech.tell(member)

    def link_up(self, id: str, now: float) -> None:
        """A peer link to or from `id` was proved up in both directions. Ids outside the ledger are ignored."""
        self.link_alive(id, now)

    def link_alive(self, id: str, now: float) -> None:
        """The link delivered a frame from `id` just now. Cheap: call it per frame. Link *loss* says nothing here."""
        self._tick(now)
        member = self._roster.get(id)
        if member is None:
            return
        member.last_heard = member.last_link_frame = now
        if member.state is MemberState.UNKNOWN:
            self._claims.heard(member, member.incarnation)
        elif member.disputed:
            self._speech.tell(member)

    def leave(self, now: float) -> None:
        """A clean stop: tell members directly that this agent left, and probe no more.

        Afterwards take the outputs; running the loop until `deadline()` is infinite spreads the news further.
        """
        self._tick(now)
        self._shared.leaving = True
        self._probing.stop()
        self._speech.announce(Claim.LEFT)
        self._speech.say_farewell()

    def on_deadline(self, now: float) -> None:
        """Do what is due. Harmless when nothing is."""
        self._tick(now)
        lateness_s = now - self.deadline()
        if lateness_s < 0:
            return
        if not self._shared.leaving:
            if lateness_s > self.config.probe_interval_ms / 1000:
                self._probing.forgive_stall()
                self._claims.forgive(lateness_s)
            self._probing.answer_relays()
            self._claims.expire()
            self._probing.go_on()
        self._speech.gossip()

    def _tick(self, now: float) -> None:
        if now < self._shared.now:
            raise ValueError(f"time went backwards: {now} after {self._shared.now}")
        self._shared.now = now
