"""An agent on a full disk waits until there is room."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from agent.cli import room
from agent.cli.room import is_for_want_of_room, wait_for_room
from agent.errors import DiskFull, StorageError
from tests.support.waiting import wait_for_sync

TIMEOUT_S = 30.0
FULL = DiskFull("no space left", where="/data/ledger.db")


def test_it_says_so_once_gives_signs_of_life_and_goes_on_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(room, "ROUND_S", 0.001)
    monkeypatch.setattr(room, "PAUSE_S", 0.0)
    monkeypatch.setattr(room, "ROOM_BYTES", 2**62)
    signs: list[None] = []
    waiting = threading.Thread(target=wait_for_room, args=(FULL, tmp_path, lambda: signs.append(None)))
    waiting.start()
    try:
        wait_for_sync(lambda: len(signs) > 10, TIMEOUT_S, what="signs of life")
    finally:
        room.ROOM_BYTES = 0
        waiting.join(TIMEOUT_S)
    assert not waiting.is_alive()
    (record,) = (record for record in caplog.records if record.levelname == "ERROR")
    line = record.getMessage()
    assert "\n" not in line
    assert line.startswith("/data/ledger.db: no space left. Make room there ")


def test_it_rests_in_between_where_the_look_says_that_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for a quota."""
    monkeypatch.setattr(room, "ROUND_S", 0.001)
    monkeypatch.setattr(room, "PAUSE_S", 0.02)
    monkeypatch.setattr(room, "ROOM_BYTES", 0)
    signs: list[None] = []
    wait_for_room(FULL, tmp_path, lambda: signs.append(None))
    assert signs


@pytest.mark.parametrize("where", ["audit", "audit/1/not yet", "audit/segment"])
def test_it_waits_for_room_where_there_was_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    """The audit segments, say, may have a disk of their own."""
    monkeypatch.setattr(room, "PAUSE_S", 0.0)
    monkeypatch.setattr(room, "ROOM_BYTES", 0)
    audit = tmp_path / "audit"
    audit.mkdir()
    (audit / "segment").touch()
    caplog.set_level("INFO")
    wait_for_room(DiskFull("full", where=str(tmp_path / where)), tmp_path, lambda: None)
    said, again = (record.getMessage() for record in caplog.records)
    assert f"MiB in {audit}, and then" in said
    assert again == f"there is room again in {audit}"


def test_nothing_else_is_waited_for() -> None:
    assert is_for_want_of_room(FULL)
    assert is_for_want_of_room(OSError(errno.ENOSPC, "no space"))
    assert is_for_want_of_room(OSError(errno.EDQUOT, "no quota"))
    assert not is_for_want_of_room(OSError(errno.EIO, "input/output error"))
    assert not is_for_want_of_room(StorageError("the ledger is damaged"))
