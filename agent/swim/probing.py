"""The probe under way, the probes made for others, and what they say of members and of this agent (SWIM §3.1)."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Final

from msgspec import Struct, field

from agent.swim.claims import Claims
from agent.swim.members import Member
from agent.swim.messages import MAX_SEQUENCE, PingRequest
from agent.swim.outputs import Drop
from agent.swim.shared import Shared
from agent.swim.speech import NO_SEQUENCE, Speech

# Pings under way for others: k helpers per probe make a few; more than this is a member asking without end.
MAX_RELAYS: Final = 64


class Probe(Struct):
    """The one probe that fills the current protocol period."""

    sequence: int
    target: str
    started_at: float
    ask_at: float  # when helpers are asked
    acked: bool = False
    asked: bool = False
    helpers: list[str] = field(default_factory=list)
    nacks: set[str] = field(default_factory=set)

    @property
    def missing_nacks(self) -> int:
        """Helpers that said nothing at all: a sign that this agent itself can't hear (Lifeguard §IV.A)."""
        return len(self.helpers) - len(self.nacks)


class Relay(Struct, frozen=True):
    """A ping made for `asker`, who knows it as `asker_sequence`."""

    asker: str
    asker_sequence: int
    target: str
    started_at: float
    nack_at: float


class Probing:
    """One protocol period after another. Nobody is probed while this agent is alone or leaves."""

    def __init__(self, shared: Shared, speech: Speech, claims: Claims, rng: random.Random) -> None:
        self._shared, self._speech, self._claims = shared, speech, claims
        self._sequence = NO_SEQUENCE
        self._probe: Probe | None = None
        self._without_ping = 0  # intervals in a row
        self._relays: dict[int, Relay] = {}
        # The first probe at a random moment of the first interval: agents started together don't probe in step.
        self._probe_at = shared.now + rng.random() * shared.config.probe_interval_ms / 1000
        self._revive_at = shared.now + rng.random() * shared.config.revive_interval_ms / 1000

    @property
    def awaits(self) -> bool:
        """Whether an answer is waited for."""
        return bool(self._relays) or (self._probe is not None and not self._probe.acked)

    @property
    def round_at(self) -> float:
        """When the next probe or the next try to revive a member begins."""
        return min(self._probe_at, self._revive_at)

    def deadline(self) -> float:
        """When there is something to do."""
        due, probe = min(self._probe_at, self._revive_at), self._probe
        if probe is not None and probe.ask_at < due and not probe.acked and not probe.asked:
            due = probe.ask_at
        return min(due, min(relay.nack_at for relay in self._relays.values())) if self._relays else due

    def begin(self) -> None:
        """There is somebody to probe: time without members isn't lateness."""
        self._probe_at = max(self._probe_at, self._shared.now)
        self._revive_at = max(self._revive_at, self._shared.now)

    def forget(self, member: str) -> None:
        """It isn't a member any more."""
        if self._probe and self._probe.target == member:
            self._probe = None

    def stop(self) -> None:
        """Wait for nobody's answer any more."""
        self._probe = None
        self._relays.clear()

    def forgive_stall(self) -> None:
        """This agent stood still, so silence proves nothing (Lifeguard §IV.A): begin anew, at once."""
        self._shared.awareness.adjust(1)
        self.stop()
        self._probe_at = self._shared.now

    def go_on(self) -> None:
        """Ask helpers, begin the next period, try to revive somebody: whatever of it is due."""
        now, probe = self._shared.now, self._probe
        if probe and not probe.acked and not probe.asked and probe.ask_at <= now:
            self._ask_helpers(probe)
        if self._probe_at <= now:
            self._next_probe()
        if self._revive_at <= now:
            self._revive()

    # --- the own probe ---

    def _next_probe(self) -> None:
        """End the current protocol period with its verdict and begin the next (SWIM §3.1)."""
        config, awareness, now = self._shared.config, self._shared.awareness, self._shared.now
        if self._probe:
            self._judge(self._probe)
        self._probe_at = now + awareness.scale(config.probe_interval_ms / 1000)
        self._probe = None
        member = self._shared.roster.next_probe_target(self._needless())
        if member is None:
            self._without_ping += 1
            awareness.adjust(-1)  # nobody is there, or all of them were heard
            return
        self._without_ping = 0
        timeout = awareness.scale(config.probe_timeout_ms / 1000)
        self._probe = Probe(self._next_sequence(), member.id, started_at=now, ask_at=now + timeout)
        self._speech.ping(member, self._probe.sequence)

    def _needless(self) -> Callable[[Member], bool]:
        """Whose Ack would say nothing that its link didn't say just now, and who has nothing to refute."""
        config = self._shared.config
        if self._without_ping + 1 >= config.ping_heard_every:
            return lambda member: False
        since = self._shared.now - (config.probe_interval_ms + config.lateness_ms) / 1000
        return lambda member: member.linked_since(since) and not member.disputed

    def _judge(self, probe: Probe) -> None:
        """The period is over: was the target heard, and what does that say about this agent (Lifeguard §IV.A)?"""
        if probe.acked:
            self._shared.awareness.adjust(-1)
            return
        member = self._shared.roster.get(probe.target)
        if member is None or not member.probed or member.linked_since(probe.started_at):
            return
        # Helpers that answer Nack prove this agent healthy: the target alone is silent. Each one missing speaks
        # against it.
        self._shared.awareness.adjust(probe.missing_nacks if probe.helpers else 1)
        self._claims.suspect(member)

    def _ask_helpers(self, probe: Probe) -> None:
        """The direct Ping got no answer in time: ask k others to try (SWIM §3.1)."""
        shared, config = self._shared, self._shared.config
        probe.asked = True
        # However late this comes, the helpers get their whole part of the interval.
        rest = config.probe_interval_ms - config.probe_timeout_ms
        self._probe_at = max(self._probe_at, shared.now + shared.awareness.scale(rest / 1000))
        for helper in shared.roster.sample(config.indirect_probes, without=probe.target):
            probe.helpers.append(helper.id)
            self._speech.ask(helper, probe.sequence, probe.target)

    def _revive(self) -> None:
        """Ping one that is dead or gone, telling it so: it may be back, or on the other side of a healed partition."""
        self._revive_at = self._shared.now + self._shared.config.revive_interval_ms / 1000
        if (member := self._shared.roster.one_dead()) is not None:
            self._speech.ping(member)

    # --- probes for others ---

    def relay(self, asker: Member, request: PingRequest) -> None:
        """Ping the target for `asker`."""
        shared, config = self._shared, self._shared.config
        target = shared.roster.get(request.target)
        if target is None:
            shared.drops[Drop.UNKNOWN_MEMBER] += 1
            return
        if len(self._relays) >= MAX_RELAYS or shared.leaving:
            shared.drops[Drop.RELAYS_FULL] += 1
            return
        sequence, now = self._next_sequence(), shared.now
        wait = config.probe_timeout_ms / 1000 * config.nack_after_percent / 100
        self._relays[sequence] = Relay(asker.id, request.sequence, target.id, started_at=now, nack_at=now + wait)
        self._speech.ping(target, sequence)

    def answer_relays(self) -> None:
        """Send a Nack for each target that didn't answer in time, unless its link was heard meanwhile."""
        roster = self._shared.roster
        for sequence, relay in [item for item in self._relays.items() if item[1].nack_at <= self._shared.now]:
            del self._relays[sequence]
            asker, target = roster.get(relay.asker), roster.get(relay.target)
            if asker is None:
                continue
            if target is not None and target.linked_since(relay.started_at):
                self._speech.ack(asker, relay.asker_sequence)
            else:
                self._speech.nack(asker, relay.asker_sequence)

    # --- answers ---

    def on_ack(self, member: Member, sequence: int) -> None:
        """To the own probe, or to one for another member, which is told."""
        probe = self._probe
        if sequence == NO_SEQUENCE:
            return
        if probe and probe.sequence == sequence and (member.id == probe.target or member.id in probe.helpers):
            probe.acked = True
            return
        relay = self._relays.get(sequence)
        if relay is None or relay.target != member.id:
            self._shared.drops[Drop.UNEXPECTED_ANSWER] += 1  # usually just late
            return
        del self._relays[sequence]
        asker = self._shared.roster.get(relay.asker)
        if asker is not None:
            self._speech.ack(asker, relay.asker_sequence)

    def on_nack(self, member: Member, sequence: int) -> None:
        """A helper is well, and the target silent so far."""
        probe = self._probe
        if probe and probe.sequence == sequence and member.id in probe.helpers:
            probe.nacks.add(member.id)
        else:
            self._shared.drops[Drop.UNEXPECTED_ANSWER] += 1

    def _next_sequence(self) -> int:
        self._sequence = self._sequence % MAX_SEQUENCE + 1
        return self._sequence
