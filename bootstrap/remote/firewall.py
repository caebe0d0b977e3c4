"""Active firewalls on this host, asked with its own commands."""

from __future__ import annotations

from typing import Any, Optional

from agent.formats import firewalls as reading
from bootstrap.remote.system import run, shown, which
from bootstrap.remote.wire import Failure


def firewalls(wanted: reading.Open) -> list[dict[str, Any]]:
    """Each active firewall that blocks some of it: its name, and the commands that open it.

    `lasting`: whether these survive a reboot.
    """
    return reading.firewalls(wanted, _ask)


def open_firewall(commands: list[list[str]]) -> None:
    """Run them. Raises Failure."""
    for command in commands:
        output = run(command)
        if output.code != 0:
            raise Failure(f"`{shown(command)}` failed: {output.said}")


def _ask(argv: list[str]) -> Optional[tuple[int, str]]:  # noqa: UP045 older Pythons than ours read this
    if which(argv[0]) is None:
        return None
    output = run(argv)
    return output.code, output.out
