"""The newest lines of the agent's own log, for `agent doctor --bundle`."""

from __future__ import annotations

from collections import deque
from typing import Final

MAX_LINES: Final = 200  # a look at the last minutes of trouble; all of it is in the journal
MAX_LINE_CHARACTERS: Final = 500


class RecentLog:
    """A sink for loguru; what it keeps is bounded."""

    def __init__(self) -> None:
        self._lines: deque[str] = deque(maxlen=MAX_LINES)

    def write(self, message: str) -> None:
        """One message, which may have several lines."""
        self._lines.extend(line[:MAX_LINE_CHARACTERS] for line in message.splitlines() if line.strip())

    @property
    def lines(self) -> tuple[str, ...]:
        """The oldest first."""
        return tuple(self._lines)
