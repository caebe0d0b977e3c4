"""Makes a client from the options: with the cluster home if there is one, else over the local socket of this host's
agent.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from agent.cli.options import DEFAULT_SOCKET, Options
from agent.client import Client, home_client, socket_client
from agent.command import tell
from agent.errors import InputError, NotFound
from agent.home import Home, find_home, open_home

T = TypeVar("T")


def with_client(options: Options, use: Callable[[Client], Awaitable[T]], *, others: bool = False) -> T:
    """Run `use` with a client, in an event loop of its own. `others`: as `open_client`."""
    client = open_client(options, others=others)

    async def run() -> T:
        async with client:
            return await use(client)

    return asyncio.run(run())


def open_client(options: Options, *, others: bool = False) -> Client:
    """`others`: ask --via first but not only, for questions that every member is asked or that only one can answer.

    Raises InputError, or NotFound when there is neither a home nor an agent on this host.
    """
    if options.socket is not None:
        if options.via is not None:
            raise InputError("asks one agent, --via another", where="--socket", fix="Give one of them.")
        return socket_client(Path(options.socket), home=_home_if_any(options), notice=notice)
    try:
        home = open_home(find_home(options.home, os.environ))
    except NotFound as error:
        named = options.home is not None or options.via is not None or os.environ.get("MUSTER_HOME")
        if named or not os.access(DEFAULT_SOCKET, os.W_OK):
            if not named:
                _look_for_its_status()
            fix = f"{error.fix} On a host of the cluster, root may ask its agent: `sudo agent status`."
            raise NotFound(error.what, where=error.where, fix=fix) from None
        return socket_client(Path(DEFAULT_SOCKET), notice=notice)
    return home_client(home, via=options.via, others=others, notice=notice)


def notice(text: str) -> None:
    """Prints a sentence for the person on standard error."""
    tell(f"note: {text}")


def _look_for_its_status() -> None:
    """Raises NotFound if this host has an agent that doesn't serve, with what it last told systemd of the reason."""
    from agent.cli.host_look import UNIT, last_status

    active, said = last_status()
    if said and active == "failed":
        fix = f"When that is done: `sudo systemctl start {UNIT}`. `sudo agent doctor` looks for more."
        raise NotFound(f"the agent of this host ended: {said}", fix=fix)
    if said:
        fix = f"`sudo agent doctor` and `journalctl -u {UNIT} -n 5` say more."
        raise NotFound(f"the agent of this host doesn't serve now: {said}", fix=fix)
    if active not in ("", "active"):
        fix = f"`sudo systemctl start {UNIT}`; `sudo agent doctor` looks for more."
        raise NotFound(f"the agent of this host doesn't run: its unit is {active}", fix=fix)


def _home_if_any(options: Options) -> Home | None:
    """Reads over the socket need none."""
    try:
        return open_home(find_home(options.home, os.environ))
    except NotFound:
        if options.home is not None:
            raise
        return None
