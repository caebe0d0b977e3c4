"""`make demo`: where it goes, and on real hosts that it shows what it promises and leaves nothing, however it ends."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bootstrap.demo import demo as loopback_demo
from bootstrap.story import Story
from tests.lab import demo, leftovers
from tests.lab.demo import announce, is_debian, one_line, why_no_lan

ROOT = Path(__file__).parents[2]
DEBIAN = 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nID=debian\n'
UBUNTU = "NAME=Ubuntu\nID=ubuntu\nID_LIKE=debian\n"
FEDORA = 'NAME="Fedora Linux"\nID=fedora\n'
END_TIMEOUT_S = 30.0


# Where it goes


def test_a_machine_that_has_everything_gets_a_lan() -> None:
    assert why_no_lan(None, None, missing=[], built=True, debian=True) is None


def test_debian_gets_a_lan_though_all_is_to_be_installed() -> None:
    assert why_no_lan(None, None, missing=["debootstrap"], built=False, debian=True) is None


def test_another_distribution_gets_one_only_if_nothing_is_to_be_installed() -> None:
    assert why_no_lan(None, None, missing=[], built=True, debian=False) is None
    assert "debootstrap nftables" in (
        why_no_lan(None, None, missing=["debootstrap", "nftables"], built=False, debian=False) or ""
    )
    assert "isn't Debian" in (why_no_lan(None, None, missing=[], built=False, debian=False) or "")


def test_what_the_machine_or_its_kernel_refuses_is_the_reason() -> None:
    assert why_no_lan("the lab needs root", "no bridge", missing=[], built=True, debian=True) == "the lab needs root"
    assert why_no_lan(None, "no bridge", missing=[], built=True, debian=True) == "no bridge"


def test_debian_and_its_children_are_known_by_os_release(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert is_debian(DEBIAN)
    assert is_debian(UBUNTU)
    assert is_debian('ID=mint\nID_LIKE="ubuntu debian"\n')
    assert not is_debian(FEDORA)
    assert not is_debian("")


def test_without_apt_it_is_no_debian_that_could_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert not is_debian(DEBIAN)


def test_what_it_will_install_and_build_is_said_before() -> None:
    file = io.StringIO()
    announce(Story.on(file), ["debootstrap", "nftables"], built=False)
    assert "installs debootstrap nftables with apt-get" in file.getvalue()
    assert "500 MB" in file.getvalue()
    assert "MODE=loopback" in file.getvalue()
    file = io.StringIO()
    announce(Story.on(file), [], built=True)
    assert "apt-get" not in file.getvalue()
    assert "500 MB" not in file.getvalue()


def test_a_reason_takes_one_line() -> None:
    assert one_line(RuntimeError("exit 1: debootstrap: I: x\nI: y\nE: no network\n")) == (
        "exit 1: debootstrap: I: x … E: no network"
    )
    assert one_line(RuntimeError("one")) == "one"
    assert one_line(RuntimeError()) == "RuntimeError"


def shown(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *arguments: str) -> tuple[int, str, str]:
    """Exit status, output and errors of the command where there can be no LAN, with the loopback story left out."""
    monkeypatch.setattr(demo, "look", lambda: "the lab needs root")
    monkeypatch.setattr(loopback_demo, "main", lambda **_: print("the loopback story"))
    with pytest.raises(SystemExit) as ended:
        demo.main(args=list(arguments))
    captured = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, captured.out, captured.err


def test_elsewhere_it_says_why_in_a_line_and_shows_the_loopback_story(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = shown(capsys, monkeypatch)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "No LAN of hosts here (the lab needs root); so on loopback addresses.",
        "",
        "the loopback story",
    ]


def test_who_asks_for_the_lan_gets_no_other_story(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown(capsys, monkeypatch, "--mode", "lan") == (1, "", "error: no LAN here: the lab needs root\n")


def test_who_asks_for_loopback_hears_nothing_of_a_lan(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shown(capsys, monkeypatch, "--mode", "loopback") == (0, "the loopback story\n", "")


# On real hosts


@contextmanager
def running_demo() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.lab.demo", "--mode", "lan"],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=END_TIMEOUT_S)


def read_until(process: subprocess.Popen[str], text: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if text in line:
            return
    pytest.fail(f"{text!r} isn't shown in {''.join(seen)}")


@pytest.mark.lab
@pytest.mark.timeout(240)
@pytest.mark.usefixtures("lab_name")
def test_the_lan_demo_shows_what_it_promises_and_leaves_nothing() -> None:
    with running_demo() as process:
        out, _ = process.communicate()
    assert process.returncode == 0, out
    assert "✗" not in out
    for line in (
        "$ bootstrap install hosts.txt",
        "cluster muster: 3 installed",
        "has muster-web:demo",
        "$ agent deploy examples/web/plan.docker.json --via n",
        "web: healthy",
        "hello from n1 slot 1",
        "s after the cut",
        "4/4",
        "Nothing is left",
    ):
        assert line in out
    assert leftovers(f"demo{process.pid}") == []


@pytest.mark.lab
@pytest.mark.usefixtures("lab_name")
@pytest.mark.parametrize("moment", ["Boot three hosts", "n1: looking"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_demo_that_is_stopped_leaves_nothing(moment: str, number: signal.Signals) -> None:
    with running_demo() as process:
        read_until(process, moment)
        process.send_signal(number)
        out, _ = process.communicate(timeout=END_TIMEOUT_S)
    assert process.returncode == 130, out
    assert leftovers(f"demo{process.pid}") == []


@pytest.mark.lab
@pytest.mark.usefixtures("lab_name")
def test_a_demo_that_nobody_reads_leaves_nothing() -> None:
    with running_demo() as process:
        read_until(process, "n1: looking")
        assert process.stdout is not None
        process.stdout.close()
        assert process.wait(END_TIMEOUT_S) != 0
    assert leftovers(f"demo{process.pid}") == []
