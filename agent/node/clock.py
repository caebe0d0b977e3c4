"""The ledger's clock on the coordinator: its own, checked against the clocks in its peers' reports
(agent.control.clock).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

from msgspec import Struct, field

from agent.control.clock import AGREES_MS, AHEAD_MS, settled_ms
from agent.model.types import AgentId, Millis
from agent.node.instant import Instant
from agent.raft.quorum import majority

# A coordinator that hears no clocks stamps by its own after this long, if that can't do much harm; reports come within
# a round trip.
UNHEARD_S = 1.0

# A clock that jumped counts again after this long: two reports (agent.node.local_host) have confirmed a peer's then.
HOLDS_S = 10.0

VOTERS_JUDGE = 3  # from so many voters on their clocks count; of fewer there is no majority, so every host's does


class _Clock(NamedTuple):
    """What a clock said when our monotonic one was 0, and from when on (monotonic) it counts."""

    base_ms: Millis
    counts_from: float


class LedgerClock(Struct):
    """For one coordinator's time in office.

    `_base_ms`: our clock when our monotonic one was 0, as far as it is believed; None out of office. `_jumped`: where
    it jumped to, while that isn't believed yet. A clock that jumps, ours or a peer's, counts again once it has held for
    a while; ours earlier if the others confirm it. So several clocks that are wrong one after another, some of them
    only remembered as wrong, are no majority.
    """

    me: AgentId
    _heard: dict[AgentId, _Clock] = field(default_factory=dict)
    _base_ms: Millis | None = None
    _jumped: _Clock | None = None

    def begin(self, when: Instant) -> None:
        """A time in office begins; from now on, jumps of our clock are noticed."""
        self._base_ms, self._jumped = base_ms(when), None

    def heard(self, peer: AgentId, at_ms: Millis, when: Instant) -> None:
        """A peer reports what its clock says."""
        if peer == self.me:
            return
        now, known = base_ms(Instant(when.mono, at_ms)), self._heard.get(peer)
        if known is None or abs(now - known.base_ms) <= AGREES_MS:
            counts_from = known.counts_from if known is not None else when.mono
        else:
            counts_from = when.mono + HOLDS_S
        self._heard[peer] = _Clock(now, counts_from)

    def forget(self) -> None:
        """The next time in office starts without them."""
        self._heard.clear()
        self._base_ms = self._jumped = None

    def now_ms(self, ledger_ms: Millis, voters: Collection[AgentId], when: Instant) -> Millis:
        """The time; see `settled_ms`."""
        counted = self._counted(self._judges(self._heard, voters), when)
        others = [clock.base_ms + int(when.mono * 1000) for clock in counted.values()]
        return settled_ms(self._own_ms(others, voters, when), others, ledger_ms)

    def _counted(self, judges: Collection[AgentId], when: Instant) -> dict[AgentId, _Clock]:
        """Those of the judges whose clocks we know and believe."""
        heard = self._heard.items()
        return {peer: clock for peer, clock in heard if peer in judges and when.mono >= clock.counts_from}

    def _own_ms(self, others: Collection[Millis], voters: Collection[AgentId], when: Instant) -> Millis:
        """Our clock, or where it would be if it hadn't jumped, until that is believed.

        The others are asked about the clock alone: the ledger may have been stamped by the wrong one before.
        """
        if self._base_ms is None:
            return when.wall_ms
        base = base_ms(when)
        if abs(base - self._base_ms) > AGREES_MS and not self._is_believed(base, others, voters, when):
            return when.wall_ms - base + self._base_ms
        self._base_ms, self._jumped = base, None
        return when.wall_ms

    def _is_believed(
        self, base: Millis, others: Collection[Millis], voters: Collection[AgentId], when: Instant
    ) -> bool:
        """Whether our clock's jump was right, as far as anybody can tell."""
        if self._jumped is None or abs(base - self._jumped.base_ms) > AGREES_MS:
            self._jumped = _Clock(base, when.mono + HOLDS_S)
        if not others and len(voters) < VOTERS_JUDGE:
            return True  # nobody judges
        agreeing = sum(abs(other - when.wall_ms) <= AGREES_MS for other in others)
        return agreeing >= majority(len(others)) or when.mono >= self._jumped.counts_from

    def is_checked(
        self, ledger_ms: Millis, voters: Collection[AgentId], linked: Collection[AgentId], since: float, when: Instant
    ) -> bool:
        """Whether a coordinator that is one `since` then may stamp.

        Enough of the peers that are there have reported their time, by clocks that count, or haven't for a moment. With
        three voters and more, enough for a majority have, so that a coordinator without links can't write into its log
        by a clock that is years ahead; one whose clock isn't a day ahead of the ledger needs that for a moment only.
        """
        judges = self._judges(linked, voters)
        wanted = max(majority(len(voters)), 2) - 1
        if len(voters) < VOTERS_JUDGE:
            wanted = min(len(judges), wanted)
        if len(self._counted(judges, when)) >= wanted:
            return True
        harmless = len(voters) < VOTERS_JUDGE or when.wall_ms <= ledger_ms + AHEAD_MS
        return harmless and when.mono >= since + UNHEARD_S

    @staticmethod
    def _judges(peers: Collection[AgentId], voters: Collection[AgentId]) -> set[AgentId]:
        return set(peers) & set(voters) if len(voters) >= VOTERS_JUDGE else set(peers)


def base_ms(when: Instant) -> Millis:
    """The clock when the monotonic one was 0: it stays the same while nobody sets the clock."""
    return when.wall_ms - int(when.mono * 1000)
