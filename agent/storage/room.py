"""Whether there is room on a disk. Only trying covers everything: bytes, files (inodes) and quotas."""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from agent.storage.files import is_full

ROOM_BYTES: Final = 16 * 1024 * 1024  # with a log's or a snapshot's worth of it, it would be full again at once
ROOM_FILES: Final = 16  # a start makes some: the ledger's WAL with its index, and what replaces a file in one step


def lack_of_room(directory: Path) -> OSError | None:
    """The error with which ROOM_FILES files with ROOM_BYTES don't fit there now; None when they fit, or another error
    comes.

    What was tried is removed at once, and it isn't even tried if the bytes aren't free: others need the last of them.
    """
    import tempfile  # only where a disk was full

    try:
        if _free_bytes(directory) < ROOM_BYTES:
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        with ExitStack() as tried:
            files = [tried.enter_context(tempfile.TemporaryFile(dir=directory)) for _ in range(ROOM_FILES)]
            os.posix_fallocate(files[0].fileno(), 0, ROOM_BYTES)
    except OSError as error:
        return error if is_full(error) else None
    return None


def _free_bytes(directory: Path) -> int:
    """What this process may use of it; for root that includes the reserve."""
    state = os.statvfs(directory)
    return (state.f_bfree if os.geteuid() == 0 else state.f_bavail) * state.f_frsize
