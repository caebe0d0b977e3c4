"""Namespaces, bridges and cables. A lab's bridges live in one namespace of their own ("lan"), each host has one for
itself; nothing is ever made in the network of the machine. Made with iproute2 through `ip -batch`.
"""

from __future__ import annotations

import os
from pathlib import Path

from tests.lab import cgroups, faults
from tests.lab.layout import NETWORK, PREFIX_BITS, ROUTER, Layout, Nic, Node, Segment
from tests.lab.process import execute

NAMESPACES = Path("/run/netns")
BRIDGES: dict[Segment, str] = {"lan": "br-lan", "inner": "br-inner"}


def namespace(lab: str, node: str) -> str:
    return f"{cgroups.PREFIX}{lab}.{node}"


def namespaces(lab: str) -> list[str]:
    """The network namespaces of that lab that exist."""
    if not NAMESPACES.is_dir():
        return []
    return sorted(path.name for path in NAMESPACES.iterdir() if path.name.startswith(namespace(lab, "")))


def enter(lab: str, node: str) -> list[str]:
    """The argv prefix that runs a command in a node's network. Not `ip netns exec`, which mounts a fresh /sys over the
    cgroups."""
    return ["nsenter", f"--net={NAMESPACES / namespace(lab, node)}", "--"]


def create(lab: str, layout: Layout) -> None:
    """Make the bridges. STP and snooping stay off: a cable put in works at once, and multicast reaches everybody."""
    execute(["ip", "netns", "add", namespace(lab, "lan")])
    segments: list[Segment] = ["lan", "inner"] if layout.bastion else ["lan"]
    batch = ["link set lo up"]
    for segment in segments:
        batch.append(f"link add {BRIDGES[segment]} type bridge mcast_snooping 0 stp_state 0 forward_delay 0")
        batch.append(f"link set {BRIDGES[segment]} up")
    batch.append(f"address add {NETWORK['lan']}.{ROUTER}/{PREFIX_BITS} dev {BRIDGES['lan']}")
    _ip(lab, "lan", batch)
    # A router without a way out says "unreachable" at once, so that nothing in the lab waits for the internet.
    _forward(lab, "lan")


def attach(lab: str, node: Node, *, cable_out: bool = False) -> None:
    """Make a node's namespace and plug it in. It starts empty: a machine that boots has no old sockets or rules."""
    execute(["ip", "netns", "add", namespace(lab, node.name)])
    inner = ["link set lo up"]
    outer = []
    for nic in node.nics:
        outer.append(
            f"link add {nic.port} type veth "
            f"peer name {nic.interface} address {nic.mac} netns {namespace(lab, node.name)}"
        )
        outer.append(f"link set {nic.port} master {BRIDGES[nic.segment]} {'down' if cable_out else 'up'}")
        inner.append(f"address add {nic.address}/{PREFIX_BITS} dev {nic.interface} broadcast +")
        inner.append(f"link set {nic.interface} up")
        inner += _routes(nic)
    _ip(lab, "lan", outer)
    _ip(lab, node.name, inner)
    if node.forwards:
        _forward(lab, node.name)


def detach(lab: str, node: Node) -> None:
    """Take a node's namespace away, cables first: the peers see silence, not the goodbye of its sockets."""
    if not attached(lab, node):
        return
    unplug(lab, node)
    # The kernel clears a namespace in its own time; its ports must be free for the next boot now.
    _ip(lab, "lan", [f"link delete {nic.port}" for nic in node.nics])
    execute(["ip", "netns", "delete", namespace(lab, node.name)])


def attached(lab: str, node: Node) -> bool:
    return (NAMESPACES / namespace(lab, node.name)).exists()


def unplug(lab: str, node: Node) -> None:
    _ip(lab, "lan", [f"link set {nic.port} down" for nic in node.nics])


def plug(lab: str, node: Node) -> None:
    _ip(lab, "lan", [f"link set {nic.port} up" for nic in node.nics])


def apply_faults(lab: str, layout: Layout, broken: faults.Faults) -> None:
    """Make the bridges drop what `broken` says, and nothing else. Cables are plugged one by one, by the caller."""
    execute([*enter(lab, "lan"), "nft", "-f", "-"], input=faults.ruleset(broken, layout))


def remove(lab: str) -> None:
    """Remove every namespace of the lab; bridges and cables go with them."""
    for name in namespaces(lab):
        execute(["ip", "netns", "delete", name], check=False)
        (NAMESPACES / name).unlink(missing_ok=True)  # a name without a namespace, after a crash between the two


def processes(lab: str) -> set[int]:
    """Processes in the lab's networks, in a cgroup of the lab or not (somebody's nsenter)."""
    inodes = set()
    own = os.stat("/proc/self/ns/net")
    for name in namespaces(lab):
        status = (NAMESPACES / name).stat()
        if status.st_dev == own.st_dev and status.st_ino != own.st_ino:  # a plain file is no namespace
            inodes.add((status.st_dev, status.st_ino))
    return set(cgroups.sharing_network(inodes)) if inodes else set()


def _routes(nic: Nic) -> list[str]:
    routes = [] if nic.gateway is None else [f"route add default via {nic.gateway} dev {nic.interface}"]
    return routes + [f"route add {target} via {via}" for target, via in nic.routes]


def _forward(lab: str, node: str) -> None:
    execute([*enter(lab, node), "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward"])


def _ip(lab: str, node: str, batch: list[str]) -> None:
    execute(["ip", "-netns", namespace(lab, node), "-batch", "-"], input="\n".join(batch) + "\n")
