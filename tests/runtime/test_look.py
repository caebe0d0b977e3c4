"""Looking at this very machine: who has a port, how full disks are, how fast writes are."""

from __future__ import annotations

import logging
import os
import socket
from pathlib import Path

import pytest

from agent.model.doctor import Protocol
from agent.runtime import holders, look
from agent.telemetry.recent import MAX_LINE_CHARACTERS, MAX_LINES, RecentLog


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_a_port_is_the_agents_somebody_elses_or_nobodys(protocol: Protocol) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET, kind) as squatter:
        squatter.bind(("127.0.0.1", 0))
        if protocol == "tcp":
            squatter.listen()
        port = squatter.getsockname()[1]
        (ours,) = holders.port_uses([(port, protocol)], agent=os.getpid())
        (others,) = holders.port_uses([(port, protocol)], agent=1)
        assert ours.held_by == "agent"
        assert others.held_by == "other"
        name = Path("/proc/self/comm").read_text().strip()
        assert others.holder.startswith(f"pid {os.getpid()} ({name}")
    (free,) = holders.port_uses([(port, protocol)], agent=os.getpid())
    assert free.held_by == "nobody"


def test_only_who_is_in_the_way_of_an_address_holds_its_port() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as squatter:
        squatter.bind(("127.0.0.2", 0))
        squatter.listen()
        port = squatter.getsockname()[1]
        assert holders.listeners(port, "tcp", address="127.0.0.1") == []
        assert len(holders.listeners(port, "tcp", address="127.0.0.2")) == 1
        assert len(holders.listeners(port, "tcp", address="0.0.0.0")) == 1


def test_a_holder_is_told_without_its_command_line() -> None:
    told = holders.describe(os.getpid())
    arguments = Path("/proc/self/cmdline").read_bytes().split(b"\0")
    assert all(argument.decode() not in told for argument in arguments[1:] if len(argument) > 4)
    assert holders.describe(None) == "another program"


def test_disks_are_told_once_each_and_a_missing_path_stands_for_its_parent(tmp_path: Path) -> None:
    (found,) = look.disks([str(tmp_path / "not" / "there"), str(tmp_path)])
    assert found.path == str(tmp_path / "not" / "there")
    assert found.size_mib > 0
    assert not found.read_only


def test_writes_are_timed_and_leave_nothing(tmp_path: Path) -> None:
    taken = look.syncs_ms(tmp_path)
    assert len(taken) == look.SYNCS
    assert all(each > 0 for each in taken)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        look.syncs_ms(tmp_path / "gone")


def test_a_command_that_is_not_there_says_nothing_and_one_that_fails_tells_its_code() -> None:
    assert look.ask(["no-such-command-anywhere"]) is None
    assert look.ask(["false"]) == (1, "")
    assert look.ask(["echo", "yes"]) == (0, "yes\n")


def test_a_docker_that_nobody_serves_is_told_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/docker.sock")
    found = look.docker()
    assert found is not None
    assert (found.answers, found.reason) == (False, "its socket isn't there")


def said(message: str) -> logging.LogRecord:
    record = logging.LogRecord("agent.x", logging.INFO, "x.py", 1, message, None, None)
    record.created, record.msecs = 12.345, 345.0
    return record


def test_the_newest_lines_are_kept_and_no_more() -> None:
    log = RecentLog()
    for number in range(MAX_LINES + 5):
        log.handle(said(f"line {number}"))
    log.handle(said("x" * 10_000))
    assert len(log.lines) == MAX_LINES
    assert log.lines[0] == "1970-01-01T00:00:12.345Z INFO    line 6"
    assert len(log.lines[-1]) == MAX_LINE_CHARACTERS
