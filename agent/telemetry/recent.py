"""The format of the agent's own log, and its newest lines, for `agent doctor --bundle`."""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import Final

MAX_LINES: Final = 200  # a look at the last minutes of trouble; all of it is in the journal
MAX_LINE_CHARACTERS: Final = 500


class _Lines(logging.Formatter):
    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"


def lines(*, dated: bool) -> logging.Formatter:
    """How a message becomes a line, or several when it tells of an error: with the time (RFC 3339), level, text."""
    return _Lines(("%(asctime)s " if dated else "") + "%(levelname)-7s %(message)s")


class RecentLog(logging.Handler):
    """Keeps the newest lines that are logged, a bounded number."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(lines(dated=True))
        self._lines: deque[str] = deque(maxlen=MAX_LINES)

    def emit(self, record: logging.LogRecord) -> None:
        """One message, which may have several lines."""
        self._lines.extend(line[:MAX_LINE_CHARACTERS] for line in self.format(record).splitlines() if line.strip())

    @property
    def lines(self) -> tuple[str, ...]:
        """The oldest first."""
        return tuple(self._lines)
