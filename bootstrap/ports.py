"""Ports of this machine: whether they are free, who has them, and choosing free ones."""

from __future__ import annotations

import errno
import random
import socket
from collections.abc import Sequence
from typing import Literal, NamedTuple

import psutil

from agent.errors import Conflict, MusterError

Protocol = Literal["tcp", "udp"]

# Between the services that have registered numbers and the ports that Linux lends to outgoing connections (32768).
FIRST_PORT, LAST_PORT = 20_000, 32_000
TRIES = 200  # a machine where 200 random ports are taken has other troubles

KINDS = {"tcp": socket.SOCK_STREAM, "udp": socket.SOCK_DGRAM}


class Wanted(NamedTuple):
    """A port to listen on."""

    address: str
    port: int
    protocol: Protocol

    def __str__(self) -> str:
        return f"{self.address}:{self.port}/{self.protocol}"


def is_free(wanted: Wanted) -> bool:
    """Asks the kernel by binding; connections in TIME_WAIT don't count (SO_REUSEADDR, socket(7)).

    Raises MusterError when it can't be bound for another reason, e.g. the address isn't this machine's.
    """
    with socket.socket(socket.AF_INET, KINDS[wanted.protocol]) as probe:
        try:
            if wanted.protocol == "tcp":
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((wanted.address, wanted.port))
            if wanted.protocol == "tcp":
                probe.listen(1)  # two may bind with SO_REUSEADDR; only one may listen
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise MusterError(f"can't be bound: {error.strerror}", where=str(wanted)) from None
            return False
    return True


def holder(wanted: Wanted) -> str:
    """Who listens there, for a person: "pid 12 (nginx: master)"; where we may not look, it just says that somebody
    does.
    """
    try:
        connections = psutil.net_connections(kind=f"{wanted.protocol}4")
    except psutil.AccessDenied:
        connections = []
    for connection in connections:
        if not connection.laddr or connection.laddr.port != wanted.port or connection.raddr:
            continue
        if connection.laddr.ip not in (wanted.address, "0.0.0.0"):  # noqa: S104 - compared, not bound
            continue
        if connection.pid is not None:
            return f"pid {connection.pid} ({_name(connection.pid)})"
    return "another program (run this as root to learn which)"


def require_free(wanted: Sequence[Wanted], *, fix: str) -> None:
    """Raises Conflict naming the first port that is taken, and by whom."""
    for one in wanted:
        if not is_free(one):
            raise Conflict(f"the port is taken by {holder(one)}", where=str(one), fix=fix)


def choose(addresses: Sequence[str], *, taken: Sequence[int] = ()) -> int:
    """A port that is free for TCP and UDP on every one of these addresses. Raises MusterError when none is found."""
    for port in random.sample(range(FIRST_PORT, LAST_PORT), TRIES):
        if port not in taken and all(
            is_free(Wanted(address, port, protocol)) for address in addresses for protocol in ("tcp", "udp")
        ):
            return port
    raise MusterError(f"none of {TRIES} ports tried between {FIRST_PORT} and {LAST_PORT} is free")


def _name(pid: int) -> str:
    try:
        process = psutil.Process(pid)
        return " ".join(process.cmdline())[:80] or process.name()
    except psutil.Error:
        return "ended meanwhile"
