"""The agent's private files and directories, and what their errors say."""

from __future__ import annotations

import errno
from pathlib import Path

from agent.errors import DiskFull, NeedsRepair, StorageError
from agent.files import write_whole

ANEW_FIX = (
    "Stop the agent, move `identity` and `ledger.db*` out of the data directory, `agent expel` the host if it still is "
    "a member, then run `bootstrap install` for it: it comes back as a new member."
)
"""For who has lost one of the two, or can't vouch for it."""

ROOM_FIX = "Make room there (`df`, `df -i` and `quota` say of what there is none left, `du` where it went)."


def refused(what: str, error: OSError, path: Path, fix: str = "") -> StorageError:
    """The error for an OSError; a DiskFull when there is no room, with making room as its `fix`."""
    if is_full(error):
        return DiskFull(f"{what}: {error.strerror}", where=str(path), fix=ROOM_FIX)
    return StorageError(f"{what}: {error.strerror}", where=str(path), fix=fix)


def is_full(error: OSError) -> bool:
    """Whether there was no room, on the disk or within a quota."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def make_directory(path: Path) -> None:
    """The directory, 0700, with its parents. Raises StorageError."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise refused("the directory can't be made", error, path) from error


def write_private(path: Path, data: bytes) -> None:
    """Replace the file's content, 0600, in one step that survives a power cut. Raises StorageError."""
    try:
        write_whole(path, data)
    except OSError as error:
        fix = "Check the disk (`df`, `dmesg`) and the directory's owner and mode."
        raise refused("the file can't be written", error, path, fix) from error


def read_private(path: Path) -> bytes:
    """The file's content. Raises StorageError; NeedsRepair when others could read it."""
    try:
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise NeedsRepair(
                f"other users may open it (mode {mode:04o})",
                where=str(path),
                fix=f"Run `chmod 600 {path}` and start the agent; if somebody may have read it, "
                "give this host a fresh identity.",
            )
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"the file can't be read: {error.strerror}", where=str(path)) from error
