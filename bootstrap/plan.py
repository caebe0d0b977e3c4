"""What to do on a host: pure, from its facts and what is wanted."""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Final

import msgspec
from msgspec import Struct

from agent.errors import Conflict, InputError, RuntimeUnavailable
from agent.model.decode import convert
from agent.model.types import HostAddress, Label, is_label
from bootstrap.bundle import Target
from bootstrap.inventory import InventoryHost
from bootstrap.probe import Facts, Python

PYTHON_MIN: Final = (3, 11)
PYTHON_MAX: Final = (3, 14)
"""The newest that every locked wheel exists for."""
FREE_BYTES: Final = 314_572_800  # two versions side by side, one of them being unpacked, and a ledger
CLOCK_TOLERANCE_S: Final = 30.0  # as far as hosts believe each other without question

CONFIG_MARK: Final = "# Written by bootstrap install, which renews it as long as nobody edits it: "
CONTAINER_INTERFACES: Final = ("lo", "docker*", "veth*", "br-*")
"""As the agent has it: these addresses exist on every host."""

_LAUNCHER: Final = """\
#!{python} -IS
# The agent of this host, from the version that this file lies in; it needs nothing that was installed otherwise (-S).
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "lib"))

from agent.cli.main import main

main()
"""


class Options(Struct, frozen=True, kw_only=True):
    """Options of the command line, for all hosts."""

    docker: bool = True
    open_firewall: bool = False


class HostPlan(Struct, frozen=True, kw_only=True):
    """What is to be done; on the host, only what differs is changed."""

    name: Label
    address: HostAddress
    advertise: bool
    python: Python
    target: Target
    docker: bool
    firewall: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]

    @property
    def launcher(self) -> str:
        """The program that starts the agent."""
        return _LAUNCHER.format(python=self.python.path)


def make_plan(host: InventoryHost, facts: Facts, options: Options, own: Target, now_s: float) -> HostPlan:
    """The host's plan; `own` is this machine's target, `now_s` its clock. Raises MusterError saying why there can't be
    one.
    """
    _check(facts)
    python = choose_python(facts, own)
    notes = [f"its agent didn't run, {facts.installed.ended}"] if facts.installed.ended else []
    off_s = facts.clock_ms / 1000 - now_s
    if abs(off_s) > CLOCK_TOLERANCE_S:
        side = "ahead of" if off_s > 0 else "behind"
        notes.append(
            f"its clock is {abs(off_s):.0f} s {side} this machine's: let it use NTP (timedatectl set-ntp true)"
        )
    docker = options.docker and not facts.docker.present
    if docker and facts.package_manager != "apt":
        docker = False
        notes.append("no Docker, and no apt to install it with: it runs process services and votes")
    elif not docker and not facts.docker.present:
        notes.append("no Docker: it runs process services and votes")
    elif facts.docker.present and not facts.docker.answers:
        notes.append("Docker doesn't answer: `systemctl status docker` there says why")
    if docker:
        check_room(facts)
    commands = tuple(command for firewall in facts.firewalls for command in firewall.commands)
    for firewall in facts.firewalls:
        notes += _firewall_notes(firewall.name, firewall.commands, firewall.lasting, options.open_firewall)
    address, alone = choose_address(host, facts)
    return HostPlan(
        name=_name(host, facts),
        address=address,
        advertise=host.advertise is not None or not alone,
        python=python,
        target=Target(python=python.version[:2], machine=facts.machine, libc=facts.libc),
        docker=docker,
        firewall=commands if options.open_firewall else (),
        notes=tuple(notes),
    )


def check_room(facts: Facts) -> None:
    """For hosts that get the agent's files, or Docker. Raises RuntimeUnavailable when a disk is too full."""
    for path, disk in sorted(facts.disks.items()):
        if not path.startswith("/etc") and disk.free_bytes < FREE_BYTES:
            free, wanted = disk.free_bytes // 2**20, FREE_BYTES // 2**20
            fix = f"`df -h {path}` and `du` there show what could be removed."
            raise RuntimeUnavailable(f"{free} MiB free, {wanted} MiB are needed", where=path, fix=fix)


def choose_python(facts: Facts, own: Target) -> Python:
    """One that is recent enough: this machine's version, for which no wheels need fetching, else the host's python3.

    Raises RuntimeUnavailable.
    """
    fit = [python for python in facts.pythons if PYTHON_MIN <= python.version[:2] <= PYTHON_MAX]
    whole = [python for python in fit if not python.lacks]
    if (facts.machine, facts.libc) == (own.machine, own.libc):
        whole.sort(key=lambda python: python.version[:2] != own.python)
    if whole:
        return whole[0]
    if fit:
        what = f"its {fit[0].path} lacks {', '.join(fit[0].lacks)}"
        raise RuntimeUnavailable(what, fix="Install all of Python there: apt install python3")
    first = facts.pythons[0]
    version = ".".join(map(str, first.version))
    lowest, highest = (".".join(map(str, bound)) for bound in (PYTHON_MIN, PYTHON_MAX))
    fix = f"Install another one, e.g. apt install python{lowest}; another place: python=/usr/local/bin/python{lowest}"
    raise RuntimeUnavailable(f"its python3 is {version}, {lowest} to {highest} is needed", fix=fix)


def choose_address(host: InventoryHost, facts: Facts) -> tuple[HostAddress, bool]:
    """Where others reach it: what the list says, else where ssh came in, else its first usable address.

    The second is true when the host has no other one, so that the agent may follow a change by itself. Raises
    InputError.
    """
    usable = [
        each.address
        for each in facts.addresses
        if not any(fnmatchcase(each.interface, pattern) for pattern in CONTAINER_INTERFACES) and _usable(each.address)
    ]
    if host.advertise is not None:
        return host.advertise, False
    chosen = facts.ssh_address if _usable(facts.ssh_address) else next(iter(usable), None)
    if chosen is None:
        fix = f"Name it in {host.where}: advertise=ADDRESS"
        raise InputError("it has no address that others could reach", fix=fix)
    address: HostAddress = convert(chosen, HostAddress, "address")
    return address, usable == [chosen]


def config_text(plan: HostPlan, seeds: Sequence[str], labels: Mapping[str, str]) -> str:
    """agent.toml: its first line names the digest of the rest, which says whether somebody edited it."""
    keys: dict[str, object] = {"name": plan.name}
    if plan.advertise:
        keys["advertise"] = plan.address
    keys["seeds"] = sorted(seeds)
    # JSON's strings and lists of them are TOML's as well.
    lines = [f"{key} = {msgspec.json.encode(value).decode()}\n" for key, value in keys.items()]
    if labels:
        lines.append("\n[labels]\n")
        lines += [f"{_toml(key)} = {_toml(value)}\n" for key, value in sorted(labels.items())]
    rest = "".join(lines)
    return f"{CONFIG_MARK}{_digest(rest)}\n{rest}"


def is_ours(config: str | None) -> bool:
    """Whether agent.toml is missing, or as we wrote it."""
    if config is None:
        return True
    first, _, rest = config.partition("\n")
    return first == f"{CONFIG_MARK}{_digest(rest)}"


def seeds_of(members: Mapping[str, tuple[str, int]], own_name: str) -> list[str]:
    """host:port of the others; `members` is name → (address, peer port)."""
    return [
        f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        for name, (address, port) in sorted(members.items())
        if name != own_name
    ]


def _check(facts: Facts) -> None:
    if facts.system != "Linux":
        raise RuntimeUnavailable(f"it runs {facts.system}; the agent needs Linux")
    if not facts.root:
        raise RuntimeUnavailable("the helper isn't root there", fix="Use root@, or a user that may use sudo.")
    if not facts.systemd:
        raise RuntimeUnavailable("it doesn't run systemd, which starts the agent", fix="Use another host.")
    for path, disk in sorted(facts.disks.items()):
        if disk.read_only:
            fix = "`dmesg` there may say why; `mount -o remount,rw /` if it shouldn't be."
            raise RuntimeUnavailable("the disk is read-only", where=path, fix=fix)
    if facts.taken:
        told = "; ".join(f"{each.port}/{each.protocol}: {each.holder}" for each in facts.taken)
        fix = "Stop that there, or let it use another port."
        raise Conflict(f"a port of the agent's is taken: {told}", fix=fix)


def _name(host: InventoryHost, facts: Facts) -> Label:
    if host.name is not None:
        return host.name
    if not is_label(facts.hostname) or facts.hostname == "localhost":
        fix = f"Name it in {host.where}: name=NAME"
        raise InputError("its host name is of no use in a cluster", fix=fix)
    return facts.hostname


def _firewall_notes(name: str, commands: Sequence[Sequence[str]], lasting: bool, opened: bool) -> list[str]:
    listed = "; ".join(" ".join(command) for command in commands)
    if not opened:
        return [f"{name} drops what agents say. Open it: {listed} (or --open-firewall does)"]
    return [] if lasting else [f"{name} forgets this at its next start; keep it in its configuration: {listed}"]


def _usable(address: str) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    return not (parsed.is_loopback or parsed.is_link_local or parsed.is_unspecified or parsed.is_multicast)


def _toml(text: str) -> str:
    return msgspec.json.encode(text).decode()


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def needs_restart(held: str | None, wanted: str) -> bool:
    """Whether a running agent has to read the configuration again: not for seeds, which only help at a start."""

    def told(text: str) -> list[str]:
        return [line for line in text.splitlines() if not line.startswith(("seeds = ", CONFIG_MARK))]

    return held is not None and told(held) != told(wanted)
