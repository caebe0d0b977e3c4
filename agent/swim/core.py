"""The protocol: input and time in, outputs out. See the package docstring for the driver's loop."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final

from agent.swim.awareness import Awareness
from agent.swim.config import SwimConfig
from agent.swim.gossip import GossipQueue, retransmit_limit
from agent.swim.members import Member, MemberView, Roster
from agent.swim.messages import (
    MAX_ID_BYTES,
    MAX_INCARNATION,
    MAX_INCARNATION_STEP,
    MAX_SEQUENCE,
    MAX_UPDATES_PER_MESSAGE,
    Ack,
    Gossip,
    Nack,
    Ping,
    PingRequest,
    SwimMessage,
    Update,
)
from agent.swim.outputs import Drop, MemberChanged, Output, Send
from agent.swim.probing import MAX_RELAYS, Probe, Relay
from agent.swim.states import CLAIM_OF, Age, Claim, MemberState, Timer, age_of, next_state
from agent.swim.suspicion import Suspicion, suspicion_bounds_s

# Members told directly of a clean stop; the rest hear it from them. Enough for every cluster of ordinary size.
MAX_LEAVE_MESSAGES: Final = 32

# The sequence of pings whose Ack nobody waits for.
_NO_SEQUENCE: Final = 0

_NEVER: Final = float("inf")


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
        self.drops: Counter[Drop] = Counter()
        self._rng = rng
        self._now = now
        self._incarnation = incarnation
        self._leaving = False
        self._roster = Roster(rng)
        self._awareness = Awareness(config.awareness_max_score)
        self._queue = GossipQueue()
        self._outputs: list[Output] = []
        self._sequence = _NO_SEQUENCE
        self._probe: Probe | None = None
        self._without_ping = 0  # intervals in a row
        self._relays: dict[int, Relay] = {}
        # The first probe at a random moment of the first interval: agents started together don't probe in step.
        self._probe_at = now + rng.random() * config.probe_interval_ms / 1000
        self._gossip_at = now
        self._revive_at = now + rng.random() * config.revive_interval_ms / 1000
        self._announce(Claim.ALIVE)

    # --- what callers read ---

    @property
    def incarnation(self) -> int:
        """The own incarnation; only this agent raises it."""
        return self._incarnation

    @property
    def health_score(self) -> int:
        """Local Health Multiplier: 0 is healthy (Lifeguard §IV.A)."""
        return self._awareness.score

    def members(self) -> Mapping[str, MemberView]:
        """Every member of the ledger but this agent."""
        return MappingProxyType({member.id: member.view() for member in self._roster})

    def state_of(self, id: str) -> MemberState | None:
        """How one member is seen; None for who is none, and for this agent."""
        return member.state if (member := self._roster.get(id)) is not None else None

    @property
    def has_outputs(self) -> bool:
        """Whether `take_outputs` would give any."""
        return bool(self._outputs)

    def take_outputs(self) -> list[Output]:
        """What is to be done since the last call, in order. Call it after every input; each adds a bounded few."""
        outputs, self._outputs = self._outputs, []
        return outputs

    def deadline(self) -> float:
        """When `on_deadline` is due; infinite when nothing is."""
        roster, probe = self._roster, self._probe
        gossip_at = self._gossip_at if self._queue.size and not roster.alone else _NEVER
        if self._leaving or roster.alone:
            return gossip_at
        due, suspects = min(self._probe_at, self._revive_at, gossip_at), roster.suspects
        if probe is not None and probe.ask_at < due and not probe.acked and not probe.asked:
            due = probe.ask_at
        if self._relays or suspects:
            window, relays = self.config.link_heard_window_ms / 1000, self._relays.values()
            due = min([due, *[relay.nack_at for relay in relays], *[member.dead_at(window) for member in suspects]])
        return due

    def latest(self) -> float:
        """When `on_deadline` has to be called although nothing else wakes this agent."""
        awaited = self._relays or self._roster.suspects or (self._probe and not self._probe.acked)
        busy = self._leaving or self._queue.size or self._roster.alone or awaited
        return self.deadline() if busy else min(self._probe_at, self._revive_at) + self.config.lateness_ms / 1000

    # --- inputs ---

    def set_members(self, members: Mapping[str, str], now: float) -> None:
        """The ledger's members and their addresses (opaque here). Added ones start UNKNOWN, removed ones are forgotten.

        The own id may be among them. Raises ValueError for an id that no message could carry.
        """
        self._tick(now)
        others = {member: address for member, address in members.items() if member != self.id}
        was_alone = self._roster.alone
        for removed in self._roster.replace(others, now):
            self._queue.forget(removed)
            if self._probe and self._probe.target == removed:
                self._probe = None
        if was_alone and not self._roster.alone:
            # Time without members isn't lateness.
            self._probe_at = max(self._probe_at, now)
            self._revive_at = max(self._revive_at, now)
            self._gossip_at = max(self._gossip_at, now)

    def receive(self, sender: str, message: SwimMessage, now: float) -> None:
        """A message that the shell has decoded and whose signature by `sender` it has checked."""
        self._tick(now)
        member = self._roster.get(sender)
        if member is None:
            self.drops[Drop.UNKNOWN_SENDER] += 1
            return
        before = self._incarnation
        member.last_heard = now
        if message.incarnation <= member.own_incarnation + MAX_INCARNATION_STEP:
            member.own_incarnation = message.incarnation
        self._apply(Update(sender, sender, Claim.ALIVE, message.incarnation), now)
        for update in message.updates:
            self._apply(update, now)
        refuted = self._incarnation != before
        if isinstance(message, Ping):
            self._send_ack(member, message.sequence, over_link=refuted or member.state is not MemberState.ALIVE)
        elif isinstance(message, PingRequest):
            self._relay(member, message, now)
        elif isinstance(message, Ack):
            self._on_ack(member, message.sequence)
        elif isinstance(message, Nack):
            self._on_nack(member, message.sequence)
        if not isinstance(message, Ping) and (refuted or self._disputed(member)):
            self._tell(member, now)

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
            self._apply(Update(id, id, Claim.ALIVE, member.incarnation), now)
        elif self._disputed(member):
            self._tell(member, now)

    def leave(self, now: float) -> None:
        """A clean stop: tell members directly that this agent left, and probe no more.

        Afterwards take the outputs; running the loop until `deadline()` is infinite spreads the news further.
        """
        self._tick(now)
        self._leaving = True
        self._probe = None
        self._relays.clear()
        self._announce(Claim.LEFT)
        farewell = Update(self.id, self.id, Claim.LEFT, self._incarnation)
        for member in self._roster.sample(MAX_LEAVE_MESSAGES):
            self._send(member, Gossip(self._incarnation, (farewell,)), over_link=True)

    def on_deadline(self, now: float) -> None:
        """Do what is due. Harmless when nothing is."""
        self._tick(now)
        lateness = now - self.deadline()
        if lateness < 0:
            return
        if not self._leaving:
            if lateness > self.config.probe_interval_ms / 1000:
                self._forgive_stall(lateness, now)
            self._run_timers(now)
        if self._gossip_at <= now and self._queue.size:
            self._gossip(now)

    def _run_timers(self, now: float) -> None:
        for sequence, relay in [item for item in self._relays.items() if item[1].nack_at <= now]:
            del self._relays[sequence]
            self._answer_relay(relay)
        window = self.config.link_heard_window_ms / 1000
        for member in list(self._roster.suspects):
            if member.dead_at(window) <= now:
                self._expire(member, now)
        if self._probe and not self._probe.acked and not self._probe.asked and self._probe.ask_at <= now:
            self._ask_helpers(self._probe)
        if self._probe_at <= now:
            self._next_probe(now)
        if self._revive_at <= now:
            self._revive(now)

    # --- claims ---

    def _apply(self, update: Update, now: float) -> None:
        """Take one claim about anybody."""
        if update.member == self.id:
            self._answer_claim(update)
            return
        member = self._roster.get(update.member)
        if member is None:
            self.drops[Drop.UNKNOWN_MEMBER] += 1
            return
        if update.incarnation > member.incarnation + MAX_INCARNATION_STEP:
            self.drops[Drop.INCARNATION_STEP] += 1
            return
        accuses = update.claim in (Claim.SUSPECT, Claim.DEAD)
        known_origin = update.origin == self.id or self._roster.get(update.origin) is not None
        if accuses and (not known_origin or update.origin == update.member):
            self.drops[Drop.BAD_ORIGIN] += 1
            return
        age = age_of(update.incarnation, member.incarnation)
        new = next_state(member.state, update.claim, age)
        if new is None:
            return
        if new is MemberState.SUSPECT:
            news = self._suspect(member, update, age, now)
        else:
            news = True
            member.suspicion = None
        member.incarnation = update.incarnation
        self._move(member, new, now)
        if news:
            self._publish(update)
        if accuses and news and member.linked_since(now - self.config.link_heard_window_ms / 1000):
            self._tell(member, now)

    def _suspect(self, member: Member, update: Update, age: Age, now: float) -> bool:
        """Start, confirm or shorten the suspicion of `member` (Lifeguard §IV.B). True when the claim was news."""
        news = False
        if member.suspicion is None or age is Age.NEWER:
            shortest, longest = suspicion_bounds_s(self.config, self._roster.live_count())
            wanted = min(self.config.suspicion_confirmations, self._roster.confirmers_of(member.id))
            member.suspicion = Suspicion(
                origin=update.origin, wanted=wanted, shortest_s=shortest, longest_s=longest, now=now
            )
            news = True
        if update.claim is Claim.DEAD:
            return member.suspicion.claim_dead() or news
        return member.suspicion.confirm(update.origin) or news

    def _expire(self, member: Member, now: float) -> None:
        """The own timer ran out: `member` is dead."""
        new = next_state(member.state, Timer.EXPIRED, Age.SAME)
        assert new is not None, "only a suspect has a suspicion"
        member.suspicion = None
        self._move(member, new, now)
        self._publish(Update(member.id, self.id, Claim.DEAD, member.incarnation))

    def _answer_claim(self, update: Update) -> None:
        """Somebody talks about this agent: refute what is wrong by raising the own incarnation (SWIM §4.2)."""
        if update.incarnation > min(self._incarnation + MAX_INCARNATION_STEP, MAX_INCARNATION - 1):
            self.drops[Drop.INCARNATION_STEP] += 1
            return
        if update.incarnation < self._incarnation:
            return
        if update.claim is Claim.ALIVE:
            self._incarnation = update.incarnation  # an earlier life of this agent got that far
            return
        if self._leaving:
            if update.incarnation > self._incarnation:
                self._incarnation = update.incarnation
                self._announce(Claim.LEFT)
            return
        if update.incarnation == self._incarnation and update.claim is not Claim.LEFT:
            # What was said of an earlier life says nothing about the health of this one.
            self._awareness.adjust(1)
        self._incarnation = update.incarnation + 1
        self._announce(Claim.ALIVE)

    def _move(self, member: Member, new: MemberState, now: float) -> None:
        if member.state is new:
            return
        self._outputs.append(MemberChanged(member.id, member.state, new, now))
        self._roster.move(member, new, now)

    # --- probes ---

    def _next_probe(self, now: float) -> None:
        """End the current protocol period with its verdict and begin the next (SWIM §3.1)."""
        if self._probe:
            self._judge(self._probe, now)
        interval = self._awareness.scale(self.config.probe_interval_ms / 1000)
        self._probe_at = now + interval
        self._probe = None
        member = self._roster.next_probe_target(self._needless(now))
        if member is None:
            self._without_ping += 1
            self._awareness.adjust(-1)  # nobody is there, or all of them were heard
            return
        self._without_ping = 0
        timeout = self._awareness.scale(self.config.probe_timeout_ms / 1000)
        self._probe = Probe(self._next_sequence(), member.id, started_at=now, ask_at=now + timeout)
        self._send_ping(member, self._probe.sequence)

    def _needless(self, now: float) -> Callable[[Member], bool]:
        """Whose Ack would say nothing that its link didn't say just now, and who has nothing to refute."""
        if self._without_ping + 1 >= self.config.ping_heard_every:
            return lambda member: False
        since = now - (self.config.probe_interval_ms + self.config.lateness_ms) / 1000
        return lambda member: member.linked_since(since) and not self._disputed(member)

    def _judge(self, probe: Probe, now: float) -> None:
        """The period is over: was the target heard, and what does that say about this agent (Lifeguard §IV.A)?"""
        if probe.acked:
            self._awareness.adjust(-1)
            return
        member = self._roster.get(probe.target)
        if member is None or not member.probed or member.linked_since(probe.started_at):
            return
        # Helpers that answer Nack prove this agent healthy: the target alone is silent. Each one missing speaks
        # against it.
        self._awareness.adjust(probe.missing_nacks if probe.helpers else 1)
        self._apply(Update(member.id, self.id, Claim.SUSPECT, member.incarnation), now)

    def _ask_helpers(self, probe: Probe) -> None:
        """The direct Ping got no answer in time: ask k others to try (SWIM §3.1)."""
        probe.asked = True
        # However late this comes, the helpers get their whole part of the interval.
        rest = self.config.probe_interval_ms - self.config.probe_timeout_ms
        self._probe_at = max(self._probe_at, self._now + self._awareness.scale(rest / 1000))
        for helper in self._roster.sample(self.config.indirect_probes, without=probe.target):
            probe.helpers.append(helper.id)
            updates = self._updates_for(helper)
            self._send(helper, PingRequest(probe.sequence, self._incarnation, probe.target, updates))

    def _relay(self, asker: Member, request: PingRequest, now: float) -> None:
        """Ping the target for `asker`."""
        target = self._roster.get(request.target)
        if target is None:
            self.drops[Drop.UNKNOWN_MEMBER] += 1
            return
        if len(self._relays) >= MAX_RELAYS or self._leaving:
            self.drops[Drop.RELAYS_FULL] += 1
            return
        sequence = self._next_sequence()
        wait = self.config.probe_timeout_ms / 1000 * self.config.nack_after_percent / 100
        self._relays[sequence] = Relay(asker.id, request.sequence, target.id, started_at=now, nack_at=now + wait)
        self._send_ping(target, sequence)

    def _answer_relay(self, relay: Relay) -> None:
        """The target didn't answer in time: Nack, unless its link was heard meanwhile."""
        asker, target = self._roster.get(relay.asker), self._roster.get(relay.target)
        if asker is None:
            return
        if target is not None and target.linked_since(relay.started_at):
            self._send_ack(asker, relay.asker_sequence)
        else:
            self._send(asker, Nack(relay.asker_sequence, self._incarnation, self._updates_for(asker)))

    def _on_ack(self, member: Member, sequence: int) -> None:
        probe = self._probe
        if sequence == _NO_SEQUENCE:
            return
        if probe and probe.sequence == sequence and (member.id == probe.target or member.id in probe.helpers):
            probe.acked = True
            return
        relay = self._relays.get(sequence)
        if relay is None or relay.target != member.id:
            self.drops[Drop.UNEXPECTED_ANSWER] += 1  # usually just late
            return
        del self._relays[sequence]
        asker = self._roster.get(relay.asker)
        if asker is not None:
            self._send_ack(asker, relay.asker_sequence)

    def _on_nack(self, member: Member, sequence: int) -> None:
        probe = self._probe
        if probe and probe.sequence == sequence and member.id in probe.helpers:
            probe.nacks.add(member.id)
        else:
            self.drops[Drop.UNEXPECTED_ANSWER] += 1

    def _revive(self, now: float) -> None:
        """Ping one that is dead or gone, telling it so: it may be back, or on the other side of a healed partition."""
        self._revive_at = now + self.config.revive_interval_ms / 1000
        if (member := self._roster.one_dead()) is not None:
            self._send_ping(member, _NO_SEQUENCE)

    def _forgive_stall(self, lateness: float, now: float) -> None:
        """This agent stood still, so silence proves nothing (Lifeguard §IV.A): give everybody that time again."""
        self._awareness.adjust(1)
        self._probe = None
        self._relays.clear()
        self._probe_at = now
        for member in self._roster.suspects:
            if member.suspicion is not None:
                member.suspicion.shift(lateness)

    # --- news and sending ---

    def _announce(self, claim: Claim) -> None:
        self._publish(Update(self.id, self.id, claim, self._incarnation))

    def _publish(self, update: Update) -> None:
        """Queue news; the next round of gossip is at most one interval away, at once after a quiet time."""
        if not self._queue.size:
            self._gossip_at = max(self._gossip_at, self._now)
        self._queue.add(update)

    def _gossip(self, now: float) -> None:
        self._gossip_at = now + self.config.gossip_interval_ms / 1000
        targets = self._roster.sample(self.config.gossip_fanout)
        for member in targets:
            updates = self._updates_for(member)
            if updates:
                self._send(member, Gossip(self._incarnation, updates))
        if not targets:
            self._queue.clear()  # nobody listens; whoever comes back is told the states in turn
        elif self._roster.live_count() == 2:
            self._queue.forget(targets[0].id)  # the only listener is told about itself directly

    def _disputed(self, member: Member) -> bool:
        """Whether `member` should hear what is believed of it: it can refute, or learn its last incarnation."""
        blamed = member.state in (MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT)
        return blamed or member.incarnation > member.own_incarnation

    def _updates_for(self, member: Member) -> tuple[Update, ...]:
        """What to piggyback to `member`: first what is said of itself (buddy system, Lifeguard §IV.C), then news, then
        states in turn."""
        updates = [self._belief(member)] if self._disputed(member) and member.state in CLAIM_OF else []
        limit = retransmit_limit(self.config.retransmit_multiplier, self._roster.live_count())
        updates += self._queue.take(MAX_UPDATES_PER_MESSAGE - len(updates), limit, without=member.id)
        told = {update.member for update in updates}
        room = min(self.config.sync_updates, MAX_UPDATES_PER_MESSAGE - len(updates))
        for other in self._roster.in_turn(room):
            if other.id not in told and other.id != member.id and other.state in CLAIM_OF:
                updates.append(self._belief(other))
        return tuple(updates)

    def _belief(self, member: Member) -> Update:
        """The own state of `member` as a claim. A suspicion keeps its first origin: repeating it confirms nothing."""
        origin = member.suspicion.origin if member.suspicion else self.id
        return Update(member.id, origin, CLAIM_OF[member.state], member.incarnation)

    def _tell(self, member: Member, now: float) -> None:
        """Ping `member` out of turn, over its link too: it should know what is said of it. Once per interval."""
        if self._leaving:
            return
        if member.told_at is not None and now - member.told_at < self.config.probe_interval_ms / 1000:
            return
        member.told_at = now
        self._send_ping(member, _NO_SEQUENCE, over_link=True)

    def _send_ping(self, member: Member, sequence: int, *, over_link: bool = False) -> None:
        over_link = over_link or self._disputed(member)
        self._send(member, Ping(sequence, self._incarnation, self._updates_for(member)), over_link=over_link)

    def _send_ack(self, member: Member, sequence: int, *, over_link: bool = False) -> None:
        self._send(member, Ack(sequence, self._incarnation, self._updates_for(member)), over_link=over_link)

    def _send(self, member: Member, message: SwimMessage, *, over_link: bool = False) -> None:
        self._outputs.append(Send(member.id, member.address, message, over_link))

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % MAX_SEQUENCE + 1
        return self._sequence

    def _tick(self, now: float) -> None:
        if now < self._now:
            raise ValueError(f"time went backwards: {now} after {self._now}")
        self._now = now
