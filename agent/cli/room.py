"""When a disk is full, the agent stops everything and waits here until there is room, so that nobody has to log in."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

from agent.errors import DiskFull
from agent.storage.files import ROOM_FIX, is_full
from agent.storage.room import ROOM_BYTES, ROOM_FILES, lack_of_room

logger = logging.getLogger(__name__)

ROUND_S = 1.0  # between two signs of life to systemd
PAUSE_S = 5.0  # between two looks; twice as long each time that there seemed to be room, and was none
MAX_PAUSE_S = 60.0
LASTS_S = 60.0  # what is full again sooner is so for the same reason


def is_for_want_of_room(error: BaseException | None) -> bool:
    """Whether the agent failed because a disk is full."""
    return isinstance(error, DiskFull) or (isinstance(error, OSError) and is_full(error))


class Room:
    """The agent's waits for room. One line says that it waits and one that it continues, however often it tries in
    between.

    It looks where there was no room, since a part of `data_dir`, or the log's directory, may have a disk of its own.
    Not every error says where that was, so only running the agent shows that there is room: `found` is called then.
    `waiting` is called about once a second.
    """

    def __init__(self, data_dir: Path, waiting: Callable[[], None]) -> None:
        self._data_dir, self._waiting = data_dir, waiting
        self._lacking: Path | None = None
        self._pause_s = PAUSE_S
        self._tried_at = -LASTS_S

    def wait(self, error: Exception) -> None:
        """Return when it is worth a try; the first time, log what is full."""
        directory = self._directory_of(error)
        if self._lacking is None:
            what = f"{error.where}: {error.what}" if isinstance(error, DiskFull) else str(error)
            room = f"{ROOM_BYTES // 2**20} MiB in {ROOM_FILES} files fit in {directory}"
            logger.error("%s. %s It takes no part until %s, and then goes on by itself.", what, ROOM_FIX, room)
        self._lacking = directory
        again = time.monotonic() - self._tried_at < LASTS_S
        self._pause_s = min(2 * self._pause_s, MAX_PAUSE_S) if again else PAUSE_S
        self._pause()
        while lack_of_room(directory) is not None:
            self._pause()
        self._tried_at = time.monotonic()

    def found(self) -> None:
        """The agent runs: log that, if it had to wait."""
        if self._lacking is not None:
            logger.info("there is room again in %s", self._lacking)
            self._lacking = None

    def _directory_of(self, error: Exception) -> Path:
        """Where there was no room."""
        named = error.where if isinstance(error, DiskFull) else getattr(error, "filename", None)
        if not isinstance(named, str):
            return self._data_dir
        where = self._data_dir / named
        return next(path for path in (where, *where.parents) if path.is_dir())

    def _pause(self) -> None:
        until = time.monotonic() + self._pause_s
        while time.monotonic() < until:
            self._waiting()
            time.sleep(min(ROUND_S, self._pause_s))
