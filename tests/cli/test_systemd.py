"""What the daemon and systemd tell each other (sd_notify(3), sd_watchdog_enabled(3))."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.cli.run import WATCHDOG_SHARE, Systemd
from agent.errors import EXIT_NEEDS_REPAIR, NeedsRepair

ROOT = Path(__file__).resolve().parents[2]
QUEUED_WORDS = 1 + int(Path("/proc/sys/net/unix/max_dgram_qlen").read_text()) * 2  # twice what waits at a receiver


@pytest.fixture
def listening(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """systemd's side, at a path that is relative: an absolute one may be too long for a socket."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as side:
        side.bind("notify")
        side.settimeout(5)
        yield side


def test_what_we_start_is_told_nothing_of_systemd() -> None:
    environ = {"NOTIFY_SOCKET": "/run/systemd/notify", "WATCHDOG_USEC": "20000000", "WATCHDOG_PID": str(os.getpid())}
    assert Systemd.of(environ) == Systemd("/run/systemd/notify", 20.0)
    assert environ == {}


def test_another_process_watchdog_is_none_of_ours() -> None:
    assert Systemd.of({"WATCHDOG_USEC": "20000000", "WATCHDOG_PID": "1"}) == Systemd()


async def test_one_that_is_busy_gets_every_word_later(listening: socket.socket) -> None:
    systemd = Systemd.of({"NOTIFY_SOCKET": "notify"})
    words = [asyncio.create_task(systemd.notify(f"STATUS={number}")) for number in range(QUEUED_WORDS)]
    await asyncio.wait(words, timeout=0.1)
    assert not all(word.done() for word in words), "its queue is full, and the loop turns"
    heard = {await asyncio.to_thread(listening.recv, 100) for _ in words}
    assert heard == {f"STATUS={number}".encode() for number in range(QUEUED_WORDS)}
    await asyncio.gather(*words)


async def test_an_agent_that_has_no_descriptor_left_tells_it_once_it_has_one(listening: socket.socket) -> None:
    systemd = Systemd.of({"NOTIFY_SOCKET": "notify", "WATCHDOG_USEC": "50000"})
    bounds = resource.getrlimit(resource.RLIMIT_NOFILE)
    watching = asyncio.create_task(systemd.watch())
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, bounds[1]))
    try:
        await asyncio.wait([watching], timeout=0.1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, bounds)
    assert not watching.done()
    assert await asyncio.to_thread(listening.recv, 100) == b"WATCHDOG=1"
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


async def test_one_that_is_gone_ends_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    await Systemd.of({"NOTIFY_SOCKET": "nobody"}).notify("WATCHDOG=1")


async def test_the_watchdog_hears_of_a_loop_that_turns(listening: socket.socket) -> None:
    systemd = Systemd.of({"NOTIFY_SOCKET": "notify", "WATCHDOG_USEC": "50000"})
    watching = asyncio.create_task(systemd.watch())
    for _ in range(3):
        assert await asyncio.to_thread(listening.recv, 100) == b"WATCHDOG=1"
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)
    assert WATCHDOG_SHARE < 0.5, "one that comes late isn't missed"


WHAT = "agent.toml: unknown key `nmae`; did you mean `name`?"
FIX = "Correct it, then start the agent again."


async def test_what_needs_repair_is_told_to_it_and_ends_with_the_code_that_the_unit_knows(
    listening: socket.socket, tmp_path: Path
) -> None:
    (tmp_path / "agent.toml").write_text("nmae = 'n1'\n")
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "agent", "run", "--config", "agent.toml"],
        env=os.environ | {"NOTIFY_SOCKET": "notify", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == EXIT_NEEDS_REPAIR
    assert ended.stderr == f"error: {WHAT}\n  {FIX}\n"
    assert await asyncio.to_thread(listening.recv, 4096) == f"STATUS={WHAT} / {FIX}".encode()
    unit = (ROOT / "systemd" / "muster-agent.service").read_text()
    assert "\nRestart=always\n" in unit
    assert f"\nRestartPreventExitStatus={EXIT_NEEDS_REPAIR}\n" in unit


async def test_however_long_that_is_it_fits_in_a_message_and_is_one_line(listening: socket.socket) -> None:
    systemd = Systemd.of({"NOTIFY_SOCKET": "notify"})
    await systemd.needs_repair(NeedsRepair("\udcff\n" + "\U0001f9ef" * 10_000, fix="Shorten it."))
    heard = await asyncio.to_thread(listening.recv, 10_000)
    assert len(heard) <= 4096  # man sd_notify
    assert b"\n" not in heard


async def test_without_systemd_there_is_nobody_to_tell() -> None:
    systemd = Systemd.of({})
    await systemd.notify("READY=1")
    await systemd.watch()
