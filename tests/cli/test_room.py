"""An agent on a full disk waits until there is room."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import pytest

from agent.cli import room
from agent.cli.room import Room, is_for_want_of_room
from agent.errors import DiskFull, StorageError
from agent.storage import room as looks
from tests.support.waiting import wait_for_sync

TIMEOUT_S = 30.0
FULL = DiskFull("no space left", where="/data/ledger.db")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(room, "ROUND_S", 0.001)
    monkeypatch.setattr(room, "PAUSE_S", 0.002)
    caplog.set_level("INFO")


@pytest.fixture
def signs() -> list[None]:
    """Of life, one for each."""
    return []


@pytest.fixture
def waits(tmp_path: Path, signs: list[None]) -> Room:
    return Room(tmp_path, lambda: signs.append(None))


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


def test_it_says_so_once_gives_signs_of_life_and_goes_on_once_there_is_room(
    waits: Room, signs: list[None], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(looks, "ROOM_BYTES", 2**62)
    waiting = threading.Thread(target=waits.wait, args=(FULL,))
    waiting.start()
    try:
        wait_for_sync(lambda: len(signs) > 10, TIMEOUT_S, what="signs of life")
    finally:
        monkeypatch.setattr(looks, "ROOM_BYTES", 0)
        waiting.join(TIMEOUT_S)
    assert not waiting.is_alive()
    (line,) = said(caplog)
    assert "\n" not in line
    assert line.startswith("/data/ledger.db: no space left. Make room there ")


def test_it_says_that_it_goes_on_once_it_does_however_often_it_tried(
    waits: Room, signs: list[None], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where an error doesn't tell which disk it is that is full."""
    waits.found()
    assert said(caplog) == []
    for _ in range(3):
        waits.wait(OSError(errno.ENOSPC, "no space left"))
    waits.found()
    waits.found()
    assert len(signs) > 2
    first, last = said(caplog)
    assert first.startswith("[Errno 28] no space left. Make room there ")
    assert last == f"there is room again in {tmp_path}"


def test_what_is_full_again_at_once_is_tried_less_and_less_often(waits: Room, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(waits, "_pause", lambda: pauses.append(waits._pause_s))
    monkeypatch.setattr(room, "PAUSE_S", 5.0)
    for _ in range(6):
        waits.wait(FULL)
        waits.found()
    assert pauses == [5.0, 10.0, 20.0, 40.0, 60.0, 60.0]
    waits._tried_at -= room.LASTS_S
    waits.wait(FULL)
    assert pauses[-1] == 5.0


@pytest.mark.parametrize("where", ["audit", "audit/1/not yet", "audit/segment"])
@pytest.mark.parametrize("error", [lambda path: DiskFull("full", where=path), lambda path: OSError(28, "full", path)])
def test_it_waits_for_room_where_there_was_none(
    waits: Room, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str, error: type[Exception]
) -> None:
    """The audit segments, say, may have a disk of their own."""
    audit = tmp_path / "audit"
    audit.mkdir()
    (audit / "segment").touch()
    waits.wait(error(str(tmp_path / where)))
    waits.found()
    line, again = said(caplog)
    assert f" until 16 MiB in 16 files fit in {audit}, and then" in line
    assert again == f"there is room again in {audit}"


def test_nothing_else_is_waited_for() -> None:
    assert is_for_want_of_room(FULL)
    assert is_for_want_of_room(OSError(errno.ENOSPC, "no space"))
    assert is_for_want_of_room(OSError(errno.EDQUOT, "no quota"))
    assert not is_for_want_of_room(OSError(errno.EIO, "input/output error"))
    assert not is_for_want_of_room(StorageError("the ledger is damaged"))
