"""The time that the ledger goes by: the coordinator's clock, unless the others' clocks say that it is wrong. Pure.

Ledger time never goes back, so one stamp from a clock that is years ahead would stay for good. Hosts without a
real-time clock boot in 1970, or at the time when they were switched off. That is behind the ledger's time, so such a
clock is known to be wrong.
"""

from __future__ import annotations

from collections.abc import Collection

from agent.model.types import Millis

AGREES_MS = 60_000  # as far as an operator's clock may be off; nobody is corrected for less
AHEAD_MS = 86_400_000  # of two clocks the later one is believed up to a day; a stamp further ahead than this is refused

PAIR = 2


def settled_ms(own_ms: Millis, others_ms: Collection[Millis], ledger_ms: Millis) -> Millis:
    """The time that the coordinator goes by, in epoch milliseconds.

    `own_ms` is its clock, `others_ms` are its peers'. A clock behind the ledger's time (`ledger_ms`) isn't counted,
    unless all are behind. The own clock counts while it is near the median; of two clocks, which have no majority,
    while it isn't a day ahead.
    """
    clocks = sorted(clock for clock in (own_ms, *others_ms) if clock >= ledger_ms - AGREES_MS)
    if not clocks:
        return own_ms
    median = clocks[(len(clocks) - 1) // 2]
    tolerance = AHEAD_MS if len(clocks) <= PAIR else AGREES_MS
    return own_ms if own_ms in clocks and abs(own_ms - median) <= tolerance else median


def is_far_ahead(stamp_ms: Millis, own_ms: Millis, ledger_ms: Millis) -> bool:
    """Whether a voter whose clock says `own_ms` refuses to acknowledge an entry with that stamp.

    A voter whose clock is behind the ledger can't judge, and accepts what the others accept.
    """
    return own_ms >= ledger_ms - AGREES_MS and stamp_ms > max(ledger_ms, own_ms + AHEAD_MS)
