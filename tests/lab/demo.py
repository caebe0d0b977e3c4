"""`make demo`: Muster at work on a LAN of booted hosts where this machine can have one, else on loopback addresses.

It says what it does as root before it does it, and leaves nothing but the base tree, however it ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from agent.errors import EXIT_ERROR, EXIT_INTERRUPTED, EXIT_OK, MusterError
from bootstrap.demo import demo as loopback_demo
from bootstrap.story import Step, Story
from tests.lab import base, state
from tests.lab import lab as labs
from tests.lab.lab import Lab
from tests.lab.lan_story import LanStory
from tests.lab.process import LabError

HOSTS = 3
BEAT_S = 10.0
"""Between two lines that say how far the first time's set-up is."""

MEGABYTE = 1_000_000
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def why_no_lan(machine: str | None, kernel: str | None, missing: list[str], built: bool, debian: bool) -> str | None:
    """Why there can be no LAN here, in a line, or None.

    `machine` and `kernel`: what they refuse. `missing`: packages. `built`: the base tree is there. `debian`: this is
    Debian or a child of it, where packages may be installed.
    """
    if machine is not None:
        return machine
    if not debian and missing:
        return f"this isn't Debian or Ubuntu, so {' '.join(missing)} can't be installed"
    if not debian and not built:
        return "this isn't Debian or Ubuntu, so the hosts' Debian can't be made"
    return kernel


def look() -> str | None:
    """`why_no_lan` of this machine, which stays as it is."""
    try:
        machine = labs.machine_lacks()
        missing = base.missing_tools()
        kernel = None if machine or missing else labs.kernel_lacks()
    except (LabError, OSError) as error:
        return one_line(error)
    return why_no_lan(machine, kernel, missing, base.is_built(), is_debian(_os_release()))


def is_debian(os_release: str) -> bool:
    """os-release(5): ID, or one of ID_LIKE, is debian; and there is apt."""
    pairs = (line.partition("=") for line in os_release.splitlines())
    names = " ".join(value.strip("\"'") for key, _, value in pairs if key in ("ID", "ID_LIKE")).split()
    return "debian" in names and shutil.which("apt-get") is not None


def announce(story: Story, missing: list[str], built: bool) -> None:
    """What is about to be done to this machine, and what to type for less."""
    story.say(
        "Muster on a LAN of three hosts: booted Debian with systemd, sshd and Docker, each in namespaces of its own."
    )
    story.say("As root, on this machine, this")
    if missing:
        story.say(f"  installs {' '.join(missing)} with apt-get;")
    if not built:
        story.say(f"  makes the hosts' Debian, 500 MB in {base.cache_dir()}, once, in 1 to 2 minutes;")
    story.say(f"  boots the hosts for a minute, with their disks in {state.labs_dir()};")
    story.say("  removes the hosts at the end, or on Ctrl-C. Your own network and Docker stay untouched.")
    story.say("`make demo MODE=loopback` needs no root and installs nothing.")


def prepare(story: Story) -> None:
    """The tools and the base tree. Raises LabError, OSError."""
    if base.is_built() and not base.missing_tools():
        return
    with story.step("Set up, the first time only") as step, beating(step):
        base.ensure(lambda line: step.note(line.removeprefix("lab: ")))
        step.note(f"It stays for the next time; to remove it: rm -r {base.cache_dir()}")
    if reason := labs.kernel_lacks():
        raise LabError(reason)


@contextmanager
def beating(step: Step) -> Iterator[None]:
    """Every BEAT_S a line says how long it has been, and how much there is."""
    done, began = threading.Event(), time.monotonic()

    def beat() -> None:
        while not done.wait(BEAT_S):
            if megabytes := base.written_bytes() // MEGABYTE:
                step.note(f"… {time.monotonic() - began:.0f} s, {megabytes} MB on disk")

    thread = threading.Thread(target=beat, name="demo-progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def boot(story: Story, name: str) -> Lab:
    """The LAN. Raises LabError, OSError."""
    with story.step("Boot three hosts on a LAN of their own") as step:
        lab = Lab.up(HOSTS, name=name)
        for host in lab.hosts.values():
            step.note(f"{host.name}  {host.address}")
    return lab


def clean_up(story: Story, name: str) -> None:
    """Remove all there is of the lab, and tell. Nothing interrupts it. Raises LabError when something resists."""
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    try:
        if labs.leftovers(name):
            with story.step("Remove the hosts, their disks and their network") as step:
                labs.down(name)
                if left := labs.leftovers(name):
                    raise LabError(f"left over: {'; '.join(left)}")
                step.note("Nothing is left: no process, namespace, mount or file.")
    finally:
        labs.down(name)  # also when there is nobody to tell any more: a closed terminal or pipe


def show_lan(story: Story) -> str | None:
    """The whole story, cleaned up however it ends. Returns why there could be no LAN, or None.

    Raises MusterError or LabError when what is shown fails.
    """
    name = f"demo{os.getpid()}"
    announce(story, base.missing_tools(), base.is_built())
    try:
        try:
            prepare(story)
            lab = boot(story, name)
        except (LabError, OSError) as error:
            return one_line(error)
        LanStory(story, lab).run()
    finally:
        clean_up(story, name)
    story.say(f"\nThat was all of it, in {story.elapsed_s:.0f} s. `make lab` makes a LAN that stays, to try things on.")
    return None


def one_line(error: Exception) -> str:
    """The last line of what it says is the one that says why; commands quote their output before it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if len(lines) == 1 else f"{lines[0]} … {lines[-1]}" if lines else type(error).__name__


def _os_release() -> str:
    try:
        return Path("/etc/os-release").read_text(errors="replace")
    except OSError:
        return ""


def _stop(number: int, frame: object) -> None:
    raise KeyboardInterrupt


def _run(story: Story, mode: str | None) -> int:
    reason = look()
    if reason is None:
        for number in STOPPING:
            signal.signal(number, _stop)
        reason = show_lan(story)
        if reason is None:
            return EXIT_OK
    if mode == "lan":
        click.echo(f"error: no LAN here: {reason}", err=True)
        return EXIT_ERROR
    story.say(f"No LAN of hosts here ({reason}); so on loopback addresses.\n")
    for number in STOPPING:
        signal.signal(number, signal.default_int_handler)
    return _loopback()


def _loopback() -> int:
    code = loopback_demo.main(args=[], prog_name="bootstrap demo", standalone_mode=False)
    return code if isinstance(code, int) else EXIT_OK


@click.command()
@click.option(
    "--mode", type=click.Choice(["lan", "loopback"]), help="Where the hosts are, instead of what is possible."
)
def main(mode: str | None) -> None:
    """Show a cluster at work, on a LAN of booted hosts where this machine can have one."""
    try:
        code = _loopback() if mode == "loopback" else _run(Story.on(sys.stdout), mode)
    except (MusterError, LabError) as error:
        click.echo(f"error: {error}", err=True)
        code = EXIT_ERROR
    except (click.Abort, KeyboardInterrupt):
        click.echo("stopped", err=True)
        code = EXIT_INTERRUPTED
    sys.exit(code)


if __name__ == "__main__":
    main(prog_name="make demo")
