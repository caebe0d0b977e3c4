"""Where a disk is full the agent ends all that it does, and waits here until there is room: nobody has to log in."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from pathlib import Path

from agent.errors import DiskFull
from agent.storage.files import ROOM_FIX, is_full

logger = logging.getLogger(__name__)

ROOM_BYTES = 16 * 1024 * 1024  # with a log's or a snapshot's worth of it, it would be full again at once
ROUND_S = 1.0  # between two looks, and two signs of life to systemd
PAUSE_S = 5.0  # at least: what is full may be a quota, or inodes, of which the look tells nothing


def is_for_want_of_room(error: Exception) -> bool:
    """Whether the agent failed because a disk is full."""
    return isinstance(error, DiskFull) or (isinstance(error, OSError) and is_full(error))


def wait_for_room(error: Exception, data_dir: Path, waiting: Callable[[], None]) -> None:
    """Say what is full, once, and return when there is room; `waiting` is called about once a second.

    A part of `data_dir` may have a disk of its own: room is looked for where there was none.
    """
    what, directory = str(error), data_dir
    if isinstance(error, DiskFull):
        what, where = f"{error.where}: {error.what}", Path(error.where)
        directory = next(path for path in (where, *where.parents) if path.is_dir())
    room = f"{ROOM_BYTES // 2**20} MiB in {directory}"
    logger.error("%s. %s It takes no part until there are %s, and then goes on by itself.", what, ROOM_FIX, room)
    pause_until = time.monotonic() + PAUSE_S
    while time.monotonic() < pause_until or _free_bytes(directory) < ROOM_BYTES:
        waiting()
        time.sleep(ROUND_S)
    logger.info("there is room again in %s", directory)


def _free_bytes(directory: Path) -> int:
    """What this process may use of it: root may also what is reserved."""
    state = os.statvfs(directory)
    return (state.f_bfree if os.geteuid() == 0 else state.f_bavail) * state.f_frsize
