"""Whether there is room on a disk, and what the ledger makes of a disk without."""

from __future__ import annotations

import errno
import os
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from agent.errors import DiskFull, StorageError
from agent.raft import Entry, EntryKind
from agent.storage.database import LedgerFile
from agent.storage.room import ROOM_BYTES, ROOM_FILES, lack_of_room

FILES = 24  # the disk has: enough for a look and a ledger


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small one."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    directory = tmp_path / "disk"
    directory.mkdir()
    options = f"size={2 * ROOM_BYTES},nr_inodes={FILES + 1},mode=700"  # one is the root's
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", directory], check=True)
    yield directory
    subprocess.run(["umount", directory], check=True)


def use_up_files(disk: Path) -> None:
    """None can be made any more."""
    for number in range(FILES + 1):
        with suppress(OSError):
            (disk / str(number)).touch()


def lacks(directory: Path) -> int | None:
    """The errno."""
    lack = lack_of_room(directory)
    return lack.errno if lack is not None else None


def test_what_was_tried_is_gone_again(disk: Path) -> None:
    assert [lacks(disk) for _ in range(3)] == [None] * 3
    assert list(disk.iterdir()) == []


def test_bytes_and_files_are_looked_for(disk: Path) -> None:
    (disk / "filling").write_bytes(bytes(ROOM_BYTES + 1))
    assert lacks(disk) == errno.ENOSPC
    (disk / "filling").unlink()
    assert lacks(disk) is None
    for number in range(FILES - ROOM_FILES + 1):
        (disk / str(number)).touch()
    assert lacks(disk) == errno.ENOSPC
    (disk / "0").unlink()
    assert lacks(disk) is None


def test_what_it_may_not_look_at_is_no_lack_of_room(tmp_path: Path) -> None:
    assert lacks(tmp_path / "gone") is None


def ledger(directory: Path) -> LedgerFile:
    entry = Entry(index=1, term=0, kind=EntryKind.NORMAL, data=b"genesis")
    return LedgerFile(directory / "ledger.db", agent_id="a", genesis_entry=entry)


def test_a_ledger_is_told_a_full_disk_also_where_only_its_inodes_are_used_up(disk: Path) -> None:
    """SQLite says that it is "unable to open database file" then: its WAL."""
    ledger(disk).close()
    use_up_files(disk)
    with pytest.raises(DiskFull) as failed:
        ledger(disk)
    assert failed.value.what == "the ledger can't be opened: No space left on device"
    assert "`df -i`" in failed.value.fix


@pytest.mark.parametrize("full", [True, False])
def test_and_where_a_quota_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool) -> None:
    """SQLite takes that for a disk's failure ("disk I/O error"), as it does of real ones."""
    if full:
        quota = OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))
        monkeypatch.setattr("agent.storage.database.lack_of_room", lambda _: quota)
    with closing(ledger(tmp_path)) as file:
        refused = sqlite3.OperationalError("disk I/O error")
        refused.sqlite_errorcode = sqlite3.SQLITE_IOERR_WRITE
        failed = file._writing_failed(refused)
    assert isinstance(failed, DiskFull) is full
    assert isinstance(failed, StorageError)
    assert failed.what.endswith("Disk quota exceeded" if full else "disk I/O error")
