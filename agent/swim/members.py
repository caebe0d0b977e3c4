"""What this agent knows of each member, and choosing among them."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator, Mapping

import msgspec
from msgspec import Struct

from agent.swim.messages import MAX_ID_BYTES
from agent.swim.states import PROBED_STATES, MemberState
from agent.swim.suspicion import Suspicion


class MemberView(msgspec.Struct, frozen=True, kw_only=True):
    """One member as this agent sees it. Times are in the driver's monotonic seconds.

    since: when the state began. last_heard: the last datagram or link frame from the member itself, None before one.
    """

    state: MemberState
    incarnation: int
    since: float
    last_heard: float | None


class Member(Struct):
    """The changing record behind a view. Invariant: `suspicion` is set exactly while `state` is SUSPECT."""

    id: str
    address: str
    since: float
    state: MemberState = MemberState.UNKNOWN
    incarnation: int = 0
    last_heard: float | None = None
    last_link_frame: float | None = None
    told_at: float | None = None  # when it was last pinged only to be told what is said of it
    own_incarnation: int = 0  # the last one it named itself
    suspicion: Suspicion | None = None

    @property
    def probed(self) -> bool:
        """Whether it takes part in the rounds of probes and gossip."""
        return self.state in PROBED_STATES

    @property
    def disputed(self) -> bool:
        """Whether it should hear what is believed of it: it can refute, or learn its last incarnation."""
        blamed = self.state in (MemberState.SUSPECT, MemberState.DEAD, MemberState.LEFT)
        return blamed or self.incarnation > self.own_incarnation

    def linked_since(self, when: float) -> bool:
        """Whether a link frame came at `when` or later."""
        return self.last_link_frame is not None and self.last_link_frame >= when

    def dead_at(self, link_heard_window_s: float) -> float:
        """When its suspicion ends in death: not while its link is heard. Infinite when it isn't suspect."""
        if self.suspicion is None:
            return float("inf")
        if self.last_link_frame is None:
            return self.suspicion.deadline
        return max(self.suspicion.deadline, self.last_link_frame + link_heard_window_s)

    def view(self) -> MemberView:
        """A frozen copy for callers."""
        return MemberView(state=self.state, incarnation=self.incarnation, since=self.since, last_heard=self.last_heard)


class ProbeOrder:
    """Round robin in an order shuffled anew for each round (SWIM §4.3).

    Every member that stays eligible is chosen once per round, so at most 2n - 1 choices lie between two of its turns.
    """

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._order: list[str] = []
        self._position = 0

    def add(self, member: str) -> None:
        """Enter `member` at a random place of the rest of this round."""
        self._order.insert(self._rng.randint(self._position, len(self._order)), member)

    def remove(self, member: str) -> None:
        """Take `member` out. Raises ValueError when it isn't in."""
        index = self._order.index(member)
        del self._order[index]
        if index < self._position:
            self._position -= 1

    def next(self, eligible: Callable[[str], bool]) -> str | None:
        """The next member for which `eligible` holds, None when there is none."""
        for _ in range(2 * len(self._order)):  # the rest of this round, then at most one whole round
            if self._position >= len(self._order):
                self._rng.shuffle(self._order)
                self._position = 0
            member = self._order[self._position]
            self._position += 1
            if eligible(member):
                return member
        return None


class Roster:
    """All members of the ledger but this agent, always in the order of their ids, so that runs repeat per seed."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._members: dict[str, Member] = {}
        self.alone = True  # whether nobody is in it; asked after every input, as `suspects` is
        self._ids: list[str] = []
        self._order = ProbeOrder(rng)
        self._sync_position = 0
        self._suspects: dict[str, Member] = {}
        self._gone: dict[str, Member] = {}
        # Those that are suspect, always as it is now: mostly none, and asked about after every input.
        self.suspects: Collection[Member] = self._suspects.values()

    def __iter__(self) -> Iterator[Member]:
        return iter(self._members.values())

    def get(self, member: str) -> Member | None:
        """The record of `member`, None when the ledger doesn't name it (or it is this agent)."""
        return self._members.get(member)

    def move(self, member: Member, state: MemberState, now: float) -> None:
        """`member` is in another state from `now` on."""
        member.state, member.since = state, now
        if state is MemberState.SUSPECT:
            self._suspects[member.id] = member
        else:
            self._suspects.pop(member.id, None)
        if member.probed:
            self._gone.pop(member.id, None)
        else:
            self._gone[member.id] = member

    def replace(self, addresses: Mapping[str, str], now: float) -> list[str]:
        """Make exactly the keys of `addresses` members. Returns the ids that were removed.

        Raises ValueError for an id that no message could carry.
        """
        for member in addresses:
            if not 1 <= len(member.encode()) <= MAX_ID_BYTES:
                raise ValueError(f"member id {member!r} must have 1 to {MAX_ID_BYTES} bytes")
        removed = [member for member in self._members if member not in addresses]
        for member in removed:
            self._order.remove(member)
            self._suspects.pop(member, None)
            self._gone.pop(member, None)
        before = self._members
        self._members = {}
        for member in sorted(addresses):
            known = before.get(member)
            if known is None:
                known = Member(id=member, address=addresses[member], since=now)
                self._order.add(member)
            known.address = addresses[member]
            self._members[member] = known
        self._ids = list(self._members)
        self.alone = not self._ids
        return removed

    def next_probe_target(self, needless: Callable[[Member], bool]) -> Member | None:
        """The next one in turn that isn't dead or gone (SWIM §4.3), nor `needless`."""
        members = self._members
        chosen = self._order.next(lambda id: members[id].probed and not needless(members[id]))
        return None if chosen is None else self._members[chosen]

    def sample(self, count: int, *, without: str = "") -> list[Member]:
        """Up to `count` random members that aren't dead or gone."""
        skipped = self._members.get(without)
        eligible = len(self._ids) - len(self._gone) - (skipped is not None and skipped.probed)
        if eligible < max(2 * count, len(self._ids) // 2):
            few = [member for member in self if member.probed and member.id != without]
            return self._rng.sample(few, min(count, eligible))
        chosen: dict[str, Member] = {}
        # Drawn again where one may not be taken: with most alive that is rare, and a list costs as much as there are
        # members, for each message.
        while len(chosen) < min(count, eligible):
            member = self._members[self._rng.choice(self._ids)]
            if member.probed and member.id != without:
                chosen[member.id] = member
        return list(chosen.values())

    def one_dead(self) -> Member | None:
        """A random member that is dead or gone."""
        return self._gone[self._rng.choice(sorted(self._gone))] if self._gone else None

    def in_turn(self, count: int) -> list[Member]:
        """The next `count` members of an endless round over all."""
        ids = self._ids
        if not ids:
            return []
        chosen = [ids[(self._sync_position + step) % len(ids)] for step in range(min(count, len(ids)))]
        self._sync_position = (self._sync_position + len(chosen)) % len(ids)
        return [self._members[member] for member in chosen]

    def live_count(self) -> int:
        """Members that aren't dead or gone, this agent included: n in every logarithm."""
        return 1 + len(self._ids) - len(self._gone)

    def confirmers_of(self, member: str) -> int:
        """How many could confirm a suspicion of `member`: this agent and all alive, less the first to suspect."""
        return sum(other.state is MemberState.ALIVE and other.id != member for other in self)
