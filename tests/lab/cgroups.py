"""The lab's cgroups: they hold every process the lab starts, so they are its pid files, kept by the kernel itself.

On cgroup v1 a lab's cgroups lie below the caller's own in every hierarchy, so limits set on the caller hold for the
lab as well. On v2 they lie at the mount's root: a cgroup that holds processes, as the caller's does, can't pass
controllers on ("no internal processes", kernel documentation cgroup-v2).
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from tests.lab.process import LabError, wait_until

PREFIX = "mlab."
"""Begins the name of everything the lab makes on the machine; a dot ends the lab's name behind it."""

KILL_TIMEOUT_S = 10.0
"""SIGKILL takes milliseconds, unless a process sits in the kernel; then a person has to look."""


class Hierarchy(msgspec.Struct, frozen=True, kw_only=True):
    """One mounted cgroup tree: `name` is a controller list, "systemd" or "" (v2); `base` is where a lab's go."""

    name: str
    mount: Path
    base: Path

    @property
    def is_v2(self) -> bool:
        return not self.name


def hierarchies(mountinfo: str, own: str) -> list[Hierarchy]:
    """Read /proc/self/mountinfo and /proc/self/cgroup; systemd's tree comes first, for that is where processes are
    looked for (no container may leave its cgroup there)."""
    entries = [line.split(":", 2) for line in own.splitlines()]
    paths = {frozenset(controllers.split(",")): path for _, controllers, path in entries}
    found: dict[frozenset[str], Hierarchy] = {}
    for line in mountinfo.splitlines():
        fields, _, tail = line.partition(" - ")
        root, mount = fields.split()[3:5]
        kind, _, options = tail.split()[:3]
        for controllers, path in paths.items():
            if kind == "cgroup2" and controllers == {""}:
                name = ""
            elif kind == "cgroup" and controllers <= set(options.split(",")):
                name = ",".join(sorted(controllers)).removeprefix("name=")
            else:
                continue
            inside = os.path.relpath(path, root)
            base = Path(mount) if inside in (".", "..") or inside.startswith("../") else Path(mount, inside)
            found.setdefault(controllers, Hierarchy(name=name, mount=Path(mount), base=base))
    if list(found) == [frozenset({""})]:
        pure = found[frozenset({""})]
        return [msgspec.structs.replace(pure, base=pure.mount)]
    return sorted(found.values(), key=lambda h: (h.name != "systemd", not h.is_v2, h.name))


def here() -> list[Hierarchy]:
    return hierarchies(Path("/proc/self/mountinfo").read_text(), Path("/proc/self/cgroup").read_text())


def make_for_lab(lab: str) -> list[Path]:
    """Make a lab's cgroup in every hierarchy, the one that processes are found in first."""
    found = here()
    if len(found) == 1:  # v2 alone: then this is where the machine's controllers come from
        pass_controllers_on(found[0].base)
    own = make([hierarchy.base for hierarchy in found], f"{PREFIX}{lab}")
    for directory in own:
        pass_controllers_on(directory)
    return own


def make(parents: Iterable[Path], name: str) -> list[Path]:
    """Make one child in each parent, ready to take processes; the first is in the hierarchy processes are found in."""
    made = []
    for parent in parents:
        directory = parent / name
        directory.mkdir(exist_ok=True)
        for knob in ("cpuset.cpus", "cpuset.mems"):  # v1 cpusets start empty and then refuse processes
            if (directory / knob).exists() and not (directory / knob).read_text().strip():
                (directory / knob).write_text((parent / knob).read_text())
        made.append(directory)
    return made


def pass_controllers_on(directory: Path) -> None:
    """On v2, let children use what this cgroup has; where it can't, Docker runs without limits, and says so."""
    control, available = directory / "cgroup.subtree_control", directory / "cgroup.controllers"
    if control.exists():
        for controller in available.read_text().split():
            with contextlib.suppress(OSError):
                control.write_text(f"+{controller}")


def labs_cgroups(lab: str) -> list[Path]:
    """Every cgroup of that lab, whoever made it and wherever the maker's own cgroup was."""
    found = []
    for hierarchy in here():
        for directory, children, _ in os.walk(hierarchy.mount):
            if PREFIX + lab in children:
                found.append(Path(directory, PREFIX + lab))
            children[:] = [child for child in children if not child.startswith(PREFIX)]
    return found


def pids(directory: Path) -> set[int]:
    """The processes in a cgroup and below it. Zombies don't count: they hold nothing."""
    found: set[int] = set()
    for path, _, files in os.walk(directory):
        if "cgroup.procs" in files:
            with contextlib.suppress(OSError):  # the cgroup went away, or is a threaded one
                found.update(map(int, Path(path, "cgroup.procs").read_text().split()))
    return found - {0}


def init_of(directory: Path) -> int | None:
    """The process that is number 1 in a PID namespace directly below ours (a container in the host is one deeper)."""
    depth = len(_namespace_pids(os.getpid()))
    for pid in sorted(pids(directory)):
        inner = _namespace_pids(pid)
        if len(inner) == depth + 1 and inner[-1] == 1:
            return pid
    return None


def kill(pid: int, directories: Iterable[Path] | None = None) -> None:
    """SIGKILL through a pidfd; with `directories`, only while the process still is in one of them."""
    with contextlib.suppress(ProcessLookupError):
        handle = os.pidfd_open(pid)
        try:
            if directories is None or any(pid in pids(directory) for directory in directories):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        finally:
            os.close(handle)


def kill_all(directories: list[Path]) -> None:
    """End every process in these cgroups. Raises LabError if one outlives SIGKILL."""

    def none_left() -> bool:
        left = set().union(*map(pids, directories))
        for pid in left:
            kill(pid, directories)
        return not left

    wait_until(none_left, f"processes of {', '.join(map(str, directories))} gone", KILL_TIMEOUT_S)


def remove(directories: Iterable[Path]) -> None:
    """Remove cgroups with all below them. They must be empty; raises LabError if they don't become so."""

    def removed(directory: Path) -> bool:
        for path, _, _ in os.walk(directory, topdown=False):
            with contextlib.suppress(OSError):  # the kernel lets go of a dead process's cgroup a moment later
                os.rmdir(path)
        return not directory.exists()

    for directory in directories:
        wait_until(functools.partial(removed, directory), f"cgroup {directory} removed", KILL_TIMEOUT_S)


def sharing_network(inodes: set[tuple[int, int]]) -> Iterator[int]:
    """The processes whose network namespace is one of these (device, inode)."""
    for entry in os.listdir("/proc"):
        if re.fullmatch(r"[0-9]+", entry):
            with contextlib.suppress(OSError):
                status = os.stat(f"/proc/{entry}/ns/net")
                if (status.st_dev, status.st_ino) in inodes:
                    yield int(entry)


def check_supported() -> str | None:
    """Why no init can run here, or None."""
    found = here()
    if not any(hierarchy.is_v2 or hierarchy.name == "systemd" for hierarchy in found):
        return "no cgroup v2 and no systemd cgroup hierarchy is mounted"
    return None


def _namespace_pids(pid: int) -> list[int]:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return []
    for line in status.splitlines():
        if line.startswith("NSpid:"):
            return [int(number) for number in line.split()[1:]]
    raise LabError("this kernel does not tell PID namespaces apart (no NSpid in /proc/PID/status)")
