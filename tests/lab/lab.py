"""The lab: a LAN of real hosts on one machine. `up` makes it, `attach` finds it again, `down` leaves nothing."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from tests.lab import base, cgroups, network, operators, state
from tests.lab.faults import Faults
from tests.lab.host import Host, prepare_disk
from tests.lab.layout import check_lab_name, plan
from tests.lab.operators import Operator
from tests.lab.process import LabError, execute, wait_until

BOOTS_AT_ONCE = 8
"""A boot is a burst of CPU; more of them at once only make each other late."""

INIT_DEATH_TIMEOUT_S = 5.0
"""How long `down` lets launchers tidy up behind their dead inits before it ends them as well."""

NSPAWN_RUN = Path("/run/systemd/nspawn")

DEFAULT_NAME = "muster"


class Lab:
    """`hosts` are n1…; `bastion` is there if some of them are behind it; `operator` is the desk. A context manager:
    leaving it takes the lab down. May be used from several threads."""

    def __init__(self, now: state.LabState) -> None:
        self.name = now.name
        self.layout = now.layout
        self.base = tree = base.Base(key=now.base, path=base.cache_dir() / now.base)
        places = [Path(path) for path in now.cgroups]
        self._machines = {node.name: Host(now.name, node, tree, places) for node in now.layout.machines}
        self.hosts = {node.name: self._machines[node.name] for node in now.layout.hosts}
        self.bastion = self._machines.get("bastion")
        self.operator = Operator(now.name, places[0] / "operator")

    @classmethod
    def up(
        cls,
        n: int,
        *,
        name: str = DEFAULT_NAME,
        without_docker: Collection[str] = (),
        ssh_port: Mapping[str, int] | None = None,
        behind_bastion: Collection[str] = (),
        bastion_routes: bool = False,
        cgroup_v2: Collection[str] = (),
        keep: bool = False,
    ) -> Self:
        """Boot hosts n1..n`n` and return when all of them answer; builds the base tree if it isn't there.

        `ssh_port`: host → port. `behind_bastion`: hosts on a segment of their own, which the operator's ssh reaches
        through the host "bastion" only; with `bastion_routes` the other hosts reach them as well (broadcast doesn't).
        `cgroup_v2`: hosts that see cgroup v2 alone, also on a v1 machine (without limits there). A lab that is not to
        `keep` belongs to this process: once that has ended, the next `up` of anybody removes it.

        Raises LabError when the machine can't, or a lab of that name is up.
        """
        layout = plan(
            n,
            without_docker=without_docker,
            ssh_port=ssh_port,
            behind_bastion=behind_bastion,
            bastion_routes=bastion_routes,
            cgroup_v2=cgroup_v2,
        )
        check_lab_name(name)
        if reason := machine_lacks():
            raise LabError(reason)
        tree = base.ensure()
        places = [hierarchy.base / f"{cgroups.PREFIX}{name}" for hierarchy in cgroups.here()]
        now = state.LabState(
            name=name,
            owner=None if keep else state.Owner.me(),
            base=tree.key,
            layout=layout,
            cgroups=tuple(map(str, places)),
        )
        sweep()
        state.create(now)
        try:
            return cls._boot(now)
        except BaseException:
            down(name)
            raise

    @classmethod
    def attach(cls, name: str = DEFAULT_NAME) -> Self:
        """The lab that some process has made. Raises LabError if there is none."""
        return cls(state.load(check_lab_name(name)))

    @classmethod
    def _boot(cls, now: state.LabState) -> Self:
        cgroups.make(cgroups.make_for_lab(now.name)[:1], "operator")
        lab = cls(now)
        network.create(now.name, now.layout)
        network.attach(now.name, now.layout.operator)
        key = operators.prepare(now.name, now.layout)
        machines = list(lab._machines.values())
        keys = {host.name: prepare_disk(host, now.layout.hosts_file(), key) for host in machines}
        operators.write_known_hosts(now.name, keys, now.layout)
        in_parallel(lambda host: host.start(), machines)
        return lab

    @staticmethod
    def unavailable() -> str | None:
        """One line on why no lab can run here, or None: for skips. Needs the base tree built, for a test run should not
        install packages."""
        if reason := machine_lacks():
            return reason
        if base.missing_tools() or not base.is_built():
            return "the lab's base tree is not built: python -m tests.lab base"
        return kernel_lacks()

    @property
    def faults(self) -> Faults:
        """What is broken now."""
        return state.load(self.name).faults

    def host(self, name: str) -> Host:
        """A host or the bastion by name. Raises LabError if there is none."""
        if name not in self._machines:
            raise LabError(f"no host {name!r} in lab {self.name!r}: there are {', '.join(self._machines)}")
        return self._machines[name]

    def partition(self, *groups: Iterable[str]) -> None:
        """Cut the LAN between these groups; nodes in no group ("operator" is one too) still reach all of them.

        One partition replaces another."""
        sides = tuple(tuple(sorted(group)) for group in groups)
        self._break(lambda faults: faults.with_partition(*sides), *(name for side in sides for name in side))

    def block(self, source: str, target: str) -> None:
        """Lose everything from `source` to `target`; the other direction goes on."""
        self._break(lambda faults: faults.with_block(source, target), source, target)

    def loss(self, name: str, percent: float) -> None:
        """Lose that share of the frames to and of those from the host; 0 ends it."""
        self._break(lambda faults: faults.with_loss(name, percent), name)

    def heal(self) -> None:
        """The network is whole again: no partition, block or loss, every cable in. Hosts that are off stay off."""
        for name in self.faults.cables_out:
            self.host(name).cable_in()
        self._break(lambda faults: Faults(cables_out=faults.cables_out))

    def down(self) -> None:
        """Remove the lab, hosts that are broken or half-made included. Doing it twice is no error."""
        down(self.name)

    def leftovers(self) -> list[str]:
        """What of the lab is on the machine; empty after `down`."""
        return leftovers(self.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    def _break(self, change: Callable[[Faults], Faults], *names: str) -> None:
        for name in names:
            self.layout.node(name)
        with state.locked(self.name):
            now = state.load(self.name)
            now = msgspec.structs.replace(now, faults=change(now.faults))
            network.apply_faults(self.name, self.layout, now.faults)
            state.save(now)


def down(name: str) -> None:
    """Remove whatever there is of a lab, also without its state. Raises LabError naming what resists."""
    check_lab_name(name)
    own = cgroups.labs_cgroups(name)
    inits = {init for place in own for child in place.iterdir() if child.is_dir() and (init := cgroups.init_of(child))}
    for init in inits:
        cgroups.kill(init, own)
    if inits:
        _wait_for_launchers(own)
    cgroups.kill_all(own)
    for pid in network.processes(name):
        cgroups.kill(pid)
    cgroups.remove(own)
    network.remove(name)
    for path in _nspawn_entries(name):
        path.rmdir()
    state.remove(name)


def sweep() -> list[str]:
    """Take down the labs whose owner has ended without doing it; returns their names."""
    with state.registry():
        abandoned = [name for name in state.names() if state.abandoned(name)]
        for name in abandoned:
            down(name)
    return abandoned


def leftovers(name: str) -> list[str]:
    """Everything of a lab that is on the machine, one line each: namespaces, processes, cgroups, mounts, files."""
    check_lab_name(name)
    own = cgroups.labs_cgroups(name)
    pids = set().union(network.processes(name), *map(cgroups.pids, own))
    found = [f"process {pid}: {_command(pid)}" for pid in sorted(pids)]
    found += [f"namespace {namespace}" for namespace in network.namespaces(name)]
    found += [f"cgroup {path}" for path in own]
    found += [f"mount {point}" for point in state.mounts_below(state.directory(name))]
    found += [f"nspawn {path}" for path in _nspawn_entries(name)]
    found += [f"files {state.directory(name)}"] if state.directory(name).exists() else []
    return found


def in_parallel(action: Callable[[Host], object], hosts: Iterable[Host]) -> None:
    """Do it to all hosts; the first error is raised after all of them have ended."""
    with ThreadPoolExecutor(BOOTS_AT_ONCE, thread_name_prefix="lab") as pool:
        for done in [pool.submit(action, host) for host in hosts]:
            done.result()


def machine_lacks() -> str | None:
    """Why this machine can't have a lab whatever is installed on it, or None."""
    if sys.platform != "linux":
        return "the lab needs Linux"
    if os.geteuid() != 0:
        return "the lab needs root"
    if (
        "\toverlay\n" not in Path("/proc/filesystems").read_text()
        and not execute(["modprobe", "overlay"], check=False).ok
    ):
        return "the lab needs a kernel with overlayfs"
    state.labs_dir().mkdir(parents=True, exist_ok=True)
    kind = execute(["stat", "--file-system", "--format=%T", str(state.labs_dir())]).stdout.strip()
    if kind == "overlayfs":
        return f"{state.labs_dir()} is on overlayfs, where no overlay can lie: set MUSTER_LAB_DIR to a real disk"
    return cgroups.check_supported()


def kernel_lacks() -> str | None:
    """What of the lab's network this kernel refuses, or None; needs the tools."""
    trial = "ip link add b0 type bridge && ip link add v0 type veth peer name v1 && nft add table bridge trial"
    result = execute(["unshare", "--net", "--mount", "sh", "-c", trial], check=False)
    return None if result.ok else f"this kernel can't make the lab's network: {result.stderr.strip()[-200:]}"


def _wait_for_launchers(own: list[Path]) -> None:
    hosts = [child for place in own for child in place.iterdir() if child.is_dir() and child.name != "operator"]
    try:
        wait_until(lambda: not any(map(cgroups.pids, hosts)), "launchers ended", INIT_DEATH_TIMEOUT_S)
    except LabError:
        return  # they are killed next


def _nspawn_entries(name: str) -> list[Path]:
    """Directories that systemd-nspawn leaves in /run when it is killed itself."""
    prefix = network.namespace(name, "")
    return [path for kind in ("propagate", "unix-export") for path in (NSPAWN_RUN / kind).glob(f"{prefix}*")]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()[:100]
    except OSError:
        return "ended"
