"""Whether host ports are free, asked of the kernel by binding them. Shell (opens sockets)."""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable

from agent.model.ledger import AssignedPort

_TAKEN = frozenset({errno.EADDRINUSE, errno.EACCES})


def taken_ports(address: str, ports: Iterable[AssignedPort]) -> tuple[int, ...]:
    """The host ports among `ports` that can't be bound on `address`, in order.

    SO_REUSEADDR for TCP: connections of an ended server in TIME_WAIT don't count, everything that listens does,
    on the wildcard address too (socket(7)). Raises OSError when `address` isn't one of this host's.
    """
    return tuple(port.host_port for port in ports if not _free(address, port))


def _free(address: str, port: AssignedPort) -> bool:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if port.protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port.host_port))
            if kind == socket.SOCK_STREAM:
                probe.listen(1)  # two may bind with SO_REUSEADDR; only one may listen
        except OSError as error:
            if error.errno in _TAKEN:
                return False
            raise
    return True


def local_address(publish_address: str) -> str:
    """Where this host itself reaches what is published on `publish_address`: loopback for a wildcard."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}.get(publish_address, publish_address)  # noqa: S104  # only compared, never bound
