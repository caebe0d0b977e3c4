"""Processes are known by a mark in their environment: found again, ended, and never taken for one another."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import procfs
from bootstrap import processes
from bootstrap.ports import Wanted, choose, is_free
from tests.support.waiting import wait_for_sync

SLEEPER = "import time; print('up', flush=True); time.sleep(60)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
PARENT = (
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'],"
    " start_new_session=True); print('up', flush=True); time.sleep(60)"
)


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[bytes]:
    """A mark of this test's own; what carries it is gone afterwards."""
    mark = f"TEST_PROCESSES={tmp_path}".encode()
    yield mark
    for pid in procfs.find(mark.__eq__):
        os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):  # a grandchild is its parent's to wait for
            os.waitpid(pid, 0)
    wait_for_sync(lambda: procfs.find(mark.__eq__) == [])
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:  # what the test itself has ended
            pass


def started(code: str, mark: bytes, tmp_path: Path) -> int:
    output = tmp_path / "output"
    name, _, value = mark.decode().partition("=")
    pid = processes.spawn([sys.executable, "-c", code], environ={**os.environ, name: value}, output=output)
    wait_for_sync(lambda: "up" in output.read_text(), what="the process runs")
    return pid


def test_a_process_is_found_by_its_mark_alone(mark: bytes, tmp_path: Path) -> None:
    pid = started(SLEEPER, mark, tmp_path)
    assert procfs.find(mark.__eq__) == [pid]
    assert processes.has(pid, mark)
    assert os.getsid(pid) == pid, "it must outlive the terminal of whoever started it"


def test_a_process_carries_its_mark_from_the_start(mark: bytes, tmp_path: Path) -> None:
    """Within exec the kernel says of a process that it has no environment: it must not be taken for one that ended."""
    name, _, value = mark.decode().partition("=")
    for _ in range(20):
        pid = processes.spawn(["/bin/sleep", "60"], environ={name: value}, output=tmp_path / "output")
        assert processes.has(pid, mark)
        assert processes.end(pid, mark, signal.SIGKILL, 5)


def test_a_process_without_the_mark_is_never_signalled(mark: bytes, tmp_path: Path) -> None:
    pid = started(SLEEPER, mark, tmp_path)
    assert processes.end(pid, b"TEST_PROCESSES=another", signal.SIGKILL, 5)
    assert processes.has(pid, mark)
    assert processes.end(pid, mark, signal.SIGKILL, 5)
    assert not processes.has(pid, mark)


def test_a_process_that_is_gone_has_ended(mark: bytes) -> None:
    assert processes.end(2**22 - 1, mark, signal.SIGKILL, 5)


def test_a_process_that_runs_on_is_told(mark: bytes, tmp_path: Path) -> None:
    pid = started(STUBBORN, mark, tmp_path)
    assert not processes.end(pid, mark, signal.SIGTERM, 0.1)
    assert processes.has(pid, mark)


def test_the_end_of_a_process_is_after_its_ports_are_free(mark: bytes, tmp_path: Path) -> None:
    listener = (
        "import socket, time; s = socket.create_server(('127.0.0.1', {})); print('up', flush=True); time.sleep(60)"
    )
    for _ in range(5):
        wanted = Wanted("127.0.0.1", choose(["127.0.0.1"]), "tcp")
        pid = started(listener.format(wanted.port), mark, tmp_path)
        assert not is_free(wanted)
        assert processes.end(pid, mark, signal.SIGKILL, 5)
        assert is_free(wanted)
        (tmp_path / "output").unlink()


@pytest.mark.parametrize("code", [SLEEPER, STUBBORN], ids=["ends at SIGTERM", "ignores SIGTERM"])
def test_everything_with_a_mark_ends(code: str, mark: bytes, tmp_path: Path) -> None:
    pid = started(code, mark, tmp_path)
    assert processes.end_all([mark], grace_s=0.2) == []
    assert not processes.has(pid, mark)


def test_what_left_the_process_group_ends_too(mark: bytes, tmp_path: Path) -> None:
    started(PARENT, mark, tmp_path)
    wait_for_sync(lambda: len(procfs.find(mark.__eq__)) == 2)
    assert processes.end_all([mark], grace_s=2) == []
    assert procfs.find(mark.__eq__) == []


def test_without_marks_nothing_is_ended() -> None:
    assert processes.end_all([], grace_s=0) == []


def test_a_program_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        processes.spawn(["/nonexistent/program"], environ={}, output=tmp_path / "output")
