"""Who is in a lab and where its cables go: pure, from the options of `Lab.up` to a frozen `Layout`.

segment lan    10.77.0.0/24   .1 router (answers "unreachable"), .2 operator, .3 bastion, .11… hosts
segment inner  10.77.1.0/24   .3 bastion, .11… hosts behind it
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from typing import Literal

import msgspec

from tests.lab.process import LabError

MAX_HOSTS = 60
"""Memory is the bound in practice (120 MB a host); this one keeps addresses and interface names in form."""

Segment = Literal["lan", "inner"]

NETWORK: dict[Segment, str] = {"lan": "10.77.0", "inner": "10.77.1"}
PREFIX_BITS = 24
ROUTER = 1
OPERATOR = 2
BASTION = 3
FIRST_HOST = 11

_LAB_NAME = re.compile(r"[a-z][a-z0-9-]{0,19}")


class Nic(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One cable: `interface` at the host's end, `port` at the bridge's end in the lab's own namespace."""

    interface: str
    port: str
    segment: Segment
    address: str
    gateway: str | None
    routes: tuple[tuple[str, str], ...] = ()

    @property
    def mac(self) -> str:
        """A fixed, locally administered address, so that a host that boots again is the same one to its peers."""
        return "02:4d:" + ":".join(f"{int(part):02x}" for part in self.address.split("."))


class Node(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A machine of the lab. `jump` names the bastion that the operator's ssh has to pass."""

    name: str
    nics: tuple[Nic, ...]
    ssh_port: int = 22
    docker: bool = True
    cgroup_v2: bool = False
    jump: str | None = None
    forwards: bool = False

    @property
    def address(self) -> str:
        return self.nics[0].address


class Layout(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    operator: Node
    hosts: tuple[Node, ...]
    bastion: Node | None = None

    @property
    def machines(self) -> tuple[Node, ...]:
        """Everything that boots."""
        return self.hosts if self.bastion is None else (*self.hosts, self.bastion)

    @property
    def nodes(self) -> tuple[Node, ...]:
        """Everything with a cable."""
        return (self.operator, *self.machines)

    def node(self, name: str) -> Node:
        for node in self.nodes:
            if node.name == name:
                return node
        raise LabError(f"no host {name!r} in this lab: there are {', '.join(node.name for node in self.nodes)}")

    def hosts_file(self) -> str:
        lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost"]
        lines += [f"{node.address} {node.name}" for node in self.nodes]
        return "\n".join(lines) + "\n"


def plan(
    n: int,
    *,
    without_docker: Collection[str] = (),
    ssh_port: Mapping[str, int] | None = None,
    behind_bastion: Collection[str] = (),
    bastion_routes: bool = False,
    cgroup_v2: Collection[str] = (),
) -> Layout:
    """Lay out hosts n1..n`n`. Raises LabError for a count or a host name out of range."""
    if not 1 <= n <= MAX_HOSTS:
        raise LabError(f"{n} hosts asked for, 1 to {MAX_HOSTS} are possible")
    ports = dict(ssh_port or {})
    names = [f"n{index}" for index in range(1, n + 1)]
    asked = {*without_docker, *ports, *behind_bastion, *cgroup_v2}
    if unknown := sorted(asked - set(names)):
        raise LabError(f"options name {', '.join(unknown)}, but the hosts are n1 to n{n}")
    if bad := sorted(name for name, port in ports.items() if not 0 < port < 65536):
        raise LabError(f"ssh port of {', '.join(bad)} is not within 1 to 65535")
    to_inner = (f"{NETWORK['inner']}.0/{PREFIX_BITS}", _address("lan", BASTION)) if bastion_routes else None
    hosts = tuple(
        Node(
            name=name,
            nics=(_nic(name, "inner" if name in behind_bastion else "lan", FIRST_HOST + index, to_inner),),
            ssh_port=ports.get(name, 22),
            docker=name not in without_docker,
            cgroup_v2=name in cgroup_v2,
            jump="bastion" if name in behind_bastion else None,
        )
        for index, name in enumerate(names)
    )
    bastion = Node(
        name="bastion",
        nics=(_nic("bastion", "lan", BASTION), _nic("bastion", "inner", BASTION, interface="eth1")),
        docker=False,
        forwards=bastion_routes,
    )
    operator = Node(name="operator", nics=(_nic("operator", "lan", OPERATOR),), docker=False)
    return Layout(operator=operator, hosts=hosts, bastion=bastion if behind_bastion else None)


def check_lab_name(name: str) -> str:
    """Names go into namespaces, cgroups and paths, where a dot ends them. Raises LabError."""
    if not _LAB_NAME.fullmatch(name):
        raise LabError(f"lab name {name!r}: a small letter, then up to 19 small letters, digits or hyphens")
    return name


def _nic(
    name: str, segment: Segment, number: int, to_inner: tuple[str, str] | None = None, *, interface: str = "eth0"
) -> Nic:
    # A second interface has no default route; everybody else needs one, or mDNS and 255.255.255.255 have no way out.
    gateway = _address(segment, ROUTER if segment == "lan" else BASTION) if interface == "eth0" else None
    return Nic(
        interface=interface,
        port=f"p{name}" if interface == "eth0" else f"p{name}1",
        segment=segment,
        address=_address(segment, number),
        gateway=gateway,
        routes=(to_inner,) if to_inner and segment == "lan" else (),
    )


def _address(segment: Segment, number: int) -> str:
    return f"{NETWORK[segment]}.{number}"
