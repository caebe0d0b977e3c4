"""The cluster's time, taken from the `Date` of its answers (RFC 9110 §6.6.1), since an operator's clock may be wrong.
Pure.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime

WARN_OFFSET_S = 30.0  # as far as hosts believe each other without question
RESOLUTION_S = 2.0  # `Date` has whole seconds and travelled: below this the two clocks agree

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
# RFC 9110 §5.6.7, IMF-fixdate, which is what agents send. The standard library's parser takes 3 ms to import.
_DATE = re.compile(
    rf"[A-Z][a-z]{{2}}, (\d{{2}}) ({'|'.join(_MONTHS)}) (\d{{4}}) (\d{{2}}):(\d{{2}}):(\d{{2}}) GMT", re.ASCII
)


class ClusterClock:
    """`offset_s`: how far the cluster is ahead of this machine."""

    def __init__(self) -> None:
        self.offset_s = 0.0

    def now(self, local_s: float) -> float:
        """Seconds since the epoch by the cluster's clock."""
        return local_s + self.offset_s

    def heard(self, date: str | None, local_s: float) -> None:
        """Takes in a `Date` header that arrived at `local_s`; one that isn't a date is ignored."""
        if date is None or (at := _seconds(date)) is None:
            return
        offset = at + 0.5 - local_s
        self.offset_s = offset if abs(offset) >= RESOLUTION_S else 0.0

    @property
    def wrong(self) -> bool:
        """Whether this machine's clock is so far off that people should know."""
        return abs(self.offset_s) > WARN_OFFSET_S


def _seconds(date: str) -> float | None:
    """Since the epoch; None for what isn't a date."""
    found = _DATE.fullmatch(date)
    if found is None:
        return None
    day, month, year, hour, minute, second = found.groups()
    try:
        at = datetime(int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second), tzinfo=UTC)
    except ValueError:  # such as the 31st of April
        return None
    return at.timestamp()
