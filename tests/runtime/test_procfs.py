"""Processes are known again by their marks, at any moment, and nothing waits for one that has none."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent import procfs
from tests.support.waiting import wait_for_sync

SLEEP = ("/bin/sleep", "60")
TRIES = 40  # half of them are within exec when the kernel lets go of the parent


@contextmanager
def started(environment: dict[str, str]) -> Iterator[int]:
    """A process that was begun this moment; its exec may go on."""
    pid = os.posix_spawn(SLEEP[0], SLEEP, environment)
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def test_an_exec_that_ends_between_two_looks_hides_no_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ = tmp_path / "7" / "environ"
    environ.parent.mkdir()
    environ.write_bytes(b"")

    def exec_ends(_pid: int) -> procfs.Stat:
        environ.write_bytes(b"A=1\0B=2")
        return procfs.Stat("S", 1, False)

    monkeypatch.setattr(procfs, "PROC", tmp_path)
    monkeypatch.setattr(procfs, "stat", exec_ends)
    assert procfs.entries(7) == [b"A=1", b"B=2"]


def test_a_process_is_found_by_its_mark_also_within_its_exec(tmp_path: Path) -> None:
    mark = f"TEST_PROCFS={tmp_path}".encode()
    for _ in range(TRIES):
        with started({"TEST_PROCFS": str(tmp_path)}) as pid:
            assert procfs.find(mark.__eq__) == [pid]
    assert procfs.find(mark.__eq__) == []


def test_a_process_with_an_empty_environment_is_not_waited_for() -> None:
    with started({}) as pid:
        wait_for_sync(lambda: Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"/bin/sleep"))
        begun = time.monotonic()
        assert procfs.entries(pid) == []
        assert time.monotonic() - begun < procfs.EXEC_WAIT_S
        seen = procfs.stat(pid)
        assert seen is not None
        assert not seen.within_exec


def test_a_process_that_ended_and_was_not_waited_for_has_no_entries() -> None:
    process = subprocess.Popen(["/bin/true"])
    wait_for_sync(lambda: (seen := procfs.stat(process.pid)) is not None and seen.ended, what="a zombie")
    begun = time.monotonic()
    assert procfs.entries(process.pid) == []
    assert time.monotonic() - begun < procfs.EXEC_WAIT_S
    process.wait()
    assert procfs.stat(process.pid) is None


@pytest.mark.parametrize("name", ["a) Z (", "a b\nc"])
def test_a_name_that_looks_like_other_fields_is_only_a_name(name: str, tmp_path: Path) -> None:
    program = tmp_path / name
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([str(program), "60"])
    try:
        wait_for_sync(lambda: Path(f"/proc/{process.pid}/comm").read_text().startswith(name[:3]))
        seen = procfs.stat(process.pid)
        assert seen is not None
        assert not seen.ended
        assert seen.start > 0
    finally:
        process.kill()
        process.wait()
