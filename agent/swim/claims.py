"""What is claimed of members, by themselves, by others and by the own timers, and what this agent comes to believe."""

from __future__ import annotations

from agent.swim.members import Member
from agent.swim.messages import MAX_INCARNATION, MAX_INCARNATION_STEP, Update
from agent.swim.outputs import Drop, MemberChanged
from agent.swim.shared import Shared
from agent.swim.speech import Speech
from agent.swim.states import Age, Claim, MemberState, Timer, age_of, next_state
from agent.swim.suspicion import Suspicion, suspicion_bounds_s


class Claims:
    """Moves members from state to state (`agent.swim.states` has the table); refutes what is wrong of this agent."""

    def __init__(self, shared: Shared, speech: Speech) -> None:
        self._shared = shared
        self._speech = speech

    def apply(self, update: Update) -> None:
        """Take one claim about anybody."""
        shared = self._shared
        if update.member == shared.id:
            self._answer(update)
            return
        member = shared.roster.get(update.member)
        if member is None:
            shared.drops[Drop.UNKNOWN_MEMBER] += 1
            return
        if update.incarnation > member.incarnation + MAX_INCARNATION_STEP:
            shared.drops[Drop.INCARNATION_STEP] += 1
            return
        accuses = update.claim in (Claim.SUSPECT, Claim.DEAD)
        known_origin = update.origin == shared.id or shared.roster.get(update.origin) is not None
        if accuses and (not known_origin or update.origin == update.member):
            shared.drops[Drop.BAD_ORIGIN] += 1
            return
        age = age_of(update.incarnation, member.incarnation)
        new = next_state(member.state, update.claim, age)
        if new is None:
            return
        if new is MemberState.SUSPECT:
            news = self._accuse(member, update, age)
        else:
            news = True
            member.suspicion = None
        member.incarnation = update.incarnation
        self._move(member, new)
        if news:
            self._speech.publish(update)
        if accuses and news and member.linked_since(shared.now - shared.config.link_heard_window_ms / 1000):
            self._speech.tell(member)

    def heard(self, member: Member, incarnation: int) -> None:
        """A message or link frame of `member` itself came: by that it claims to be alive."""
        self.apply(Update(member.id, member.id, Claim.ALIVE, incarnation))

    # --- suspicions ---

    def suspect(self, member: Member) -> None:
        """This agent's own probe failed."""
        self.apply(Update(member.id, self._shared.id, Claim.SUSPECT, member.incarnation))

    def deadline(self) -> float:
        """When the first suspicion ends; infinite when nobody is suspect."""
        window = self._shared.config.link_heard_window_ms / 1000
        return min((member.dead_at(window) for member in self._shared.roster.suspects), default=float("inf"))

    def expire(self) -> None:
        """Whoever's suspicion has run out is dead: only the own timer concludes that, whatever others say."""
        window = self._shared.config.link_heard_window_ms / 1000
        for member in list(self._shared.roster.suspects):
            if member.dead_at(window) > self._shared.now:
                continue
            new = next_state(member.state, Timer.EXPIRED, Age.SAME)
            assert new is not None, "only a suspect has a suspicion"
            member.suspicion = None
            self._move(member, new)
            self._speech.publish(Update(member.id, self._shared.id, Claim.DEAD, member.incarnation))

    def forgive(self, lateness_s: float) -> None:
        """Give all suspects that time again."""
        for member in self._shared.roster.suspects:
            if member.suspicion is not None:
                member.suspicion.shift(lateness_s)

    def _accuse(self, member: Member, update: Update, age: Age) -> bool:
        """Start, confirm or shorten the suspicion of `member` (Lifeguard §IV.B). True when the claim was news."""
        config, roster = self._shared.config, self._shared.roster
        news = False
        if member.suspicion is None or age is Age.NEWER:
            shortest, longest = suspicion_bounds_s(config, roster.live_count())
            wanted = min(config.suspicion_confirmations, roster.confirmers_of(member.id))
            member.suspicion = Suspicion(
                origin=update.origin, wanted=wanted, shortest_s=shortest, longest_s=longest, now=self._shared.now
            )
            news = True
        if update.claim is Claim.DEAD:
            return member.suspicion.claim_dead() or news
        return member.suspicion.confirm(update.origin) or news

    # --- this agent itself ---

    def _answer(self, update: Update) -> None:
        """Somebody talks about this agent: refute what is wrong by raising the own incarnation (SWIM §4.2)."""
        shared = self._shared
        if update.incarnation > min(shared.incarnation + MAX_INCARNATION_STEP, MAX_INCARNATION - 1):
            shared.drops[Drop.INCARNATION_STEP] += 1
            return
        if update.incarnation < shared.incarnation:
            return
        if update.claim is Claim.ALIVE:
            shared.incarnation = update.incarnation  # an earlier life of this agent got that far
            return
        if shared.leaving:
            if update.incarnation > shared.incarnation:
                shared.incarnation = update.incarnation
                self._speech.announce(Claim.LEFT)
            return
        if update.incarnation == shared.incarnation and update.claim is not Claim.LEFT:
            # What was said of an earlier life says nothing about the health of this one.
            shared.awareness.adjust(1)
        shared.incarnation = update.incarnation + 1
        self._speech.announce(Claim.ALIVE)

    def _move(self, member: Member, new: MemberState) -> None:
        if member.state is new:
            return
        now = self._shared.now
        self._shared.outputs.append(MemberChanged(member.id, member.state, new, now))
        self._shared.roster.move(member, new, now)
