"""Who listens on a port of this host. Shell (reads /proc); call it in a thread.

A holder is described by its program's name and its unit, never by its command line, which may contain a password.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from agent.model.doctor import PortUse, Protocol
from agent.procfs import PROC

_WAITS: Final = {"tcp": "0A", "udp": "07"}
"""The state of a socket that waits for others (proc(5), /proc/net/tcp; the kernel's tcp_states.h)."""

_UNIT: Final = re.compile(r"/([^/]+\.(?:service|scope))(?:/|$)", re.MULTILINE)


def port_uses(wanted: Iterable[tuple[int, Protocol]], *, agent: int | None, address: str = "") -> tuple[PortUse, ...]:
    """Who has each of these ports; `agent`: the pid of the agent that should. `address`: only holders that are in its
    way.
    """
    pairs = tuple(wanted)
    inodes = {pair: listeners(*pair, address=address) for pair in pairs}
    holders = socket_holders({inode for found in inodes.values() for inode in found})
    return tuple(_use(pair, inodes[pair], holders, agent) for pair in pairs)


def _use(pair: tuple[int, Protocol], inodes: list[str], holders: dict[str, int], agent: int | None) -> PortUse:
    port, protocol = pair
    pids = [holders.get(inode) for inode in inodes]
    if not inodes:
        return PortUse(port=port, protocol=protocol, held_by="nobody")
    if agent is not None and agent in pids:
        return PortUse(port=port, protocol=protocol, held_by="agent")
    return PortUse(port=port, protocol=protocol, held_by="other", holder=describe(pids[0]))


def listeners(port: int, protocol: Protocol, *, address: str = "") -> list[str]:
    """Inodes of the sockets that wait there. With an IPv4 `address`: those bound to it, to all, or as broadcasts."""
    found = []
    mine = _hexadecimal(address)
    for file in (protocol, protocol + "6"):
        try:
            lines = (PROC / "net" / file).read_text().splitlines()[1:]
        except OSError:  # a kernel without IPv6
            continue
        for fields in map(str.split, lines):
            local, _, number = fields[1].rpartition(":")
            if fields[3] != _WAITS[protocol] or int(number, 16) != port:
                continue
            if not mine or local.strip("0") == "" or local in (mine, f"{'FF' * 3}7F") or len(local) > len(mine):
                found.append(fields[9])
    return found


def _hexadecimal(address: str) -> str:
    """As /proc/net has IPv4 addresses: bytes in the machine's order; empty for all and for what is none."""
    parts = address.split(".")
    if len(parts) != 4 or not all(part.isdecimal() for part in parts) or address == "0.0.0.0":  # noqa: S104 compared
        return ""
    return "".join(f"{int(part):02X}" for part in reversed(parts))


def socket_holders(inodes: set[str]) -> dict[str, int]:
    """The pid that has each socket open, of those we may look at."""
    names = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[str, int] = {}
    if not names:
        return found
    for entry in os.listdir(PROC):
        for target in _opened(entry) if entry.isdigit() else ():
            if target in names:
                found.setdefault(names[target], int(entry))
    return found


def _opened(pid: str) -> Iterator[str]:
    """The sockets that the process has open; none if it ended or we may not look."""
    directory = PROC / pid / "fd"
    try:
        descriptors = os.listdir(directory)
    except OSError:
        return
    for descriptor in descriptors:
        with contextlib.suppress(OSError):  # closed meanwhile
            yield os.readlink(directory / descriptor)


def describe(pid: int | None) -> str:
    """ "pid 12 (python3, squatter.service)"."""
    if pid is None:
        return "another program"
    directory = PROC / str(pid)
    name = _first_line(directory / "comm")
    try:
        unit = _UNIT.findall((directory / "cgroup").read_text(errors="replace"))
    except OSError:
        unit = []
    return f"pid {pid} ({', '.join([name or 'ended meanwhile', *unit[-1:]])})"


def _first_line(path: Path) -> str:
    try:
        return path.read_text(errors="replace").strip().partition("\n")[0]
    except OSError:
        return ""
