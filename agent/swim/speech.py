"""What this agent says: the messages it sends, and the news and beliefs piggybacked on them (SWIM §4.1)."""

from __future__ import annotations

from typing import Final

from agent.swim.gossip import GossipQueue, retransmit_limit
from agent.swim.members import Member
from agent.swim.messages import MAX_UPDATES_PER_MESSAGE, Ack, Gossip, Nack, Ping, PingRequest, SwimMessage, Update
from agent.swim.outputs import Send
from agent.swim.shared import Shared
from agent.swim.states import CLAIM_OF, Claim

# Members told directly of a clean stop; the rest hear it from them. Enough for every cluster of ordinary size.
MAX_LEAVE_MESSAGES: Final = 32

# The sequence of pings whose Ack nobody waits for.
NO_SEQUENCE: Final = 0

_NEVER: Final = float("inf")


class Speech:
    """`news` waits to be told: on other messages, and in rounds of gossip of its own."""

    def __init__(self, shared: Shared) -> None:
        self._shared = shared
        self.news = GossipQueue()
        self._gossip_at = shared.now

    # --- news ---

    def deadline(self) -> float:
        """When the next round of gossip is due; infinite while there is no news, or nobody to hear it."""
        return self._gossip_at if self.news.size and not self._shared.roster.alone else _NEVER

    def begin(self) -> None:
        """There is somebody to talk to: time without members isn't lateness."""
        self._gossip_at = max(self._gossip_at, self._shared.now)

    def announce(self, claim: Claim) -> None:
        """Publish a claim about this agent itself, in its own incarnation."""
        shared = self._shared
        self.publish(Update(shared.id, shared.id, claim, shared.incarnation))

    def publish(self, update: Update) -> None:
        """Queue news; the next round of gossip is at most one interval away, at once after a quiet time."""
        if not self.news.size:
            self._gossip_at = max(self._gossip_at, self._shared.now)
        self.news.add(update)

    def gossip(self) -> None:
        """Tell news to a few at random, when that is due."""
        shared, roster = self._shared, self._shared.roster
        if not self.news.size or self._gossip_at > shared.now:
            return
        self._gossip_at = shared.now + shared.config.gossip_interval_ms / 1000
        targets = roster.sample(shared.config.gossip_fanout)
        for member in targets:
            updates = self._updates_for(member)
            if updates:
                self._send(member, Gossip(shared.incarnation, updates))
        if not targets:
            self.news.clear()  # nobody listens; whoever comes back is told the states in turn
        elif roster.live_count() == 2:
            self.news.forget(targets[0].id)  # the only listener is told about itself directly

    def say_farewell(self) -> None:
        """Tell members directly that this agent left."""
        shared = self._shared
        farewell = Gossip(shared.incarnation, (Update(shared.id, shared.id, Claim.LEFT, shared.incarnation),))
        for member in shared.roster.sample(MAX_LEAVE_MESSAGES):
            self._send(member, farewell, over_link=True)

    # --- messages ---

    def ping(self, member: Member, sequence: int = NO_SEQUENCE, *, over_link: bool = False) -> None:
        """Over its link as well when there is something that it should refute."""
        message = Ping(sequence, self._shared.incarnation, self._updates_for(member))
        self._send(member, message, over_link=over_link or member.disputed)

    def ask(self, helper: Member, sequence: int, target: str) -> None:
        """Let `helper` ping `target`."""
        self._send(helper, PingRequest(sequence, self._shared.incarnation, target, self._updates_for(helper)))

    def ack(self, member: Member, sequence: int, *, over_link: bool = False) -> None:
        """The member that `sequence` asks about is there."""
        self._send(member, Ack(sequence, self._shared.incarnation, self._updates_for(member)), over_link=over_link)

    def nack(self, member: Member, sequence: int) -> None:
        """The member that `sequence` asks about is silent so far."""
        self._send(member, Nack(sequence, self._shared.incarnation, self._updates_for(member)))

    def tell(self, member: Member) -> None:
        """Ping `member` out of turn, over its link too: it should know what is said of it. Once per interval."""
        shared, told_at = self._shared, member.told_at
        if shared.leaving:
            return
        if told_at is not None and shared.now - told_at < shared.config.probe_interval_ms / 1000:
            return
        member.told_at = shared.now
        self.ping(member, over_link=True)

    def _send(self, member: Member, message: SwimMessage, *, over_link: bool = False) -> None:
        self._shared.outputs.append(Send(member.id, member.address, message, over_link))

    # --- what goes along ---

    def _updates_for(self, member: Member) -> tuple[Update, ...]:
        """What to piggyback to `member`: first what is said of itself (buddy system, Lifeguard §IV.C), then news, then
        states in turn."""
        config, roster = self._shared.config, self._shared.roster
        updates = [self._belief(member)] if member.disputed and member.state in CLAIM_OF else []
        limit = retransmit_limit(config.retransmit_multiplier, roster.live_count())
        updates += self.news.take(MAX_UPDATES_PER_MESSAGE - len(updates), limit, without=member.id)
        told = {update.member for update in updates}
        room = min(config.sync_updates, MAX_UPDATES_PER_MESSAGE - len(updates))
        for other in roster.in_turn(room):
            if other.id not in told and other.id != member.id and other.state in CLAIM_OF:
                updates.append(self._belief(other))
        return tuple(updates)

    def _belief(self, member: Member) -> Update:
        """The own state of `member` as a claim. A suspicion keeps its first origin: repeating it confirms nothing."""
        origin = member.suspicion.origin if member.suspicion else self._shared.id
        return Update(member.id, origin, CLAIM_OF[member.state], member.incarnation)
