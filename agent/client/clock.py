"""The cluster's time, from the `Date` of its answers (RFC 9110 §6.6.1): an operator's clock may be wrong. Pure."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

WARN_OFFSET_S = 30.0  # as far as hosts believe each other without question
RESOLUTION_S = 2.0  # `Date` has whole seconds and travelled: below this the two clocks agree


class ClusterClock:
    """`offset_s`: how far the cluster is ahead of this machine."""

    def __init__(self) -> None:
        self.offset_s = 0.0

    def now(self, local_s: float) -> float:
        """Seconds since the epoch by the cluster's clock."""
        return local_s + self.offset_s

    def heard(self, date: str | None, local_s: float) -> None:
        """A `Date` header, got at `local_s`. One that isn't a date says nothing."""
        if date is None:
            return
        try:
            at = parsedate_to_datetime(date).timestamp()
        except (ValueError, TypeError, OverflowError):
            return
        offset = at + 0.5 - local_s
        self.offset_s = offset if abs(offset) >= RESOLUTION_S else 0.0

    @property
    def wrong(self) -> bool:
        """Whether this machine's clock is so far off that people should know."""
        return abs(self.offset_s) > WARN_OFFSET_S
