"""What a host said about itself (`bootstrap.remote.probe`), as checked types."""

from __future__ import annotations

from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from agent.model.types import Port

PORTS: Final[tuple[tuple[int, Literal["tcp", "udp"]], ...]] = ((9999, "tcp"), (9998, "tcp"), (9998, "udp"))
"""What the agent must have for itself (docs/operations.md "Files and ports"); beacons share 9999/udp."""

OPEN: Final = (*PORTS, (9999, "udp"), (5353, "udp"))
"""What a firewall must let in: also beacons and mDNS."""

Text = Annotated[str, Meta(max_length=1024)]


class Python(Struct, frozen=True, kw_only=True):
    """An interpreter; `lacks` are modules of the standard library that aren't there."""

    path: Annotated[str, Meta(max_length=1024, pattern=r"\A/[A-Za-z0-9/._+-]*\Z")]
    version: tuple[int, int, int]
    lacks: tuple[Text, ...]


class Docker(Struct, frozen=True, kw_only=True):
    present: bool
    answers: bool


class Disk(Struct, frozen=True, kw_only=True):
    free_bytes: int
    read_only: bool


class Taken(Struct, frozen=True, kw_only=True):
    """A port that another program listens on."""

    port: Port
    protocol: Literal["tcp", "udp"]
    holder: Text


class Firewall(Struct, frozen=True, kw_only=True):
    """An active one that blocks the agents' traffic; `commands` open it, also across a reboot when `lasting`."""

    name: Text
    commands: tuple[tuple[Text, ...], ...]
    lasting: bool


class InterfaceAddress(Struct, frozen=True, kw_only=True):
    interface: Text
    address: Text


class Installed(Struct, frozen=True, kw_only=True):
    """What of Muster is installed there. `certificate` is in PEM, `config` the text of agent.toml. `ended`: how
    an agent was found that should be running, else empty.
    """

    config: Annotated[str, Meta(max_length=1_048_576)] | None
    certificate: Annotated[str, Meta(max_length=65_536)] | None
    granted: bool
    active: Text
    enabled: Text
    ended: str


class Facts(Struct, frozen=True, kw_only=True):
    """Everything. `clock_ms` since the epoch; `ssh_address`: where the operator's ssh came in, or empty. `disks`: by
    directory, the disks of the agent's files, its data and its configuration.
    """

    hostname: Text
    system: Text
    machine: Annotated[str, Meta(max_length=64, pattern=r"\A[A-Za-z0-9_]+\Z")]
    libc: Literal["gnu", "musl"]
    root: bool
    systemd: bool
    clock_ms: int
    pythons: Annotated[tuple[Python, ...], Meta(min_length=1, max_length=16)]
    docker: Docker
    package_manager: Text
    disks: dict[str, Disk]
    taken: tuple[Taken, ...]
    firewalls: tuple[Firewall, ...]
    addresses: tuple[InterfaceAddress, ...]
    ssh_address: Text
    installed: Installed
