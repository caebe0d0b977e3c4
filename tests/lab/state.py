"""What is written down about a lab, so that any process can go on with it: one directory each, `state.json` in it.

<labs>/<name>/state.json, lock              LabState; an exclusive flock while something changes
<labs>/<name>/hosts/<host>/upper, work      a machine's disk: an overlay over the base tree
<labs>/<name>/hosts/<host>/docker           its /var/lib/docker, on the real file system
<labs>/<name>/hosts/<host>/console.log      what its init said, over all boots
<labs>/<name>/operator/home                 the operator's HOME
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tests.lab.faults import Faults
from tests.lab.layout import Layout
from tests.lab.process import LabError

LABS_DIR = "MUSTER_LAB_DIR"


def labs_dir() -> Path:
    """Where disks lie: not on overlayfs, and big enough. MUSTER_LAB_DIR moves it."""
    return Path(os.environ.get(LABS_DIR, "/var/lib/muster-lab"))


def labs_dir_of(worker: str) -> Path:
    """That of a test run's worker (gw0, gw1, …): none sweeps what a test of another one leaves behind on purpose."""
    return labs_dir().with_name(f"{labs_dir().name}-{worker}")


def all_labs_dirs() -> list[Path]:
    """Ours, and those of test runs' workers."""
    return [labs_dir(), *sorted(labs_dir().parent.glob(labs_dir_of("gw*").name))]


class Owner(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The process that a lab belongs to; a lab whose owner has ended is a leftover."""

    pid: int
    start_ticks: int
    boot_id: str

    @classmethod
    def me(cls) -> Owner:
        return cls(pid=os.getpid(), start_ticks=_start_ticks(os.getpid()), boot_id=_boot_id())

    def lives(self) -> bool:
        try:
            return self.boot_id == _boot_id() and self.start_ticks == _start_ticks(self.pid)
        except OSError:
            return False


class LabState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`owner` None: the lab stays until somebody takes it down. `cgroups`: its own in each hierarchy."""

    name: str
    owner: Owner | None
    base: str
    layout: Layout
    cgroups: tuple[str, ...]
    faults: Faults = Faults()


# Not at the first reading, which threads do at once (agent.model.decode).
_decoder = msgspec.json.Decoder(LabState)


def directory(name: str) -> Path:
    return labs_dir() / name


def host_directory(name: str, host: str) -> Path:
    return directory(name) / "hosts" / host


def operator_home(name: str) -> Path:
    return directory(name) / "operator" / "home"


def create(state: LabState) -> None:
    """Claim the name: the directory appears with its state in it, or not at all. Raises LabError if it is taken."""
    with registry():
        if directory(state.name).exists():
            raise LabError(
                f"lab {state.name!r} is up already: use another name, or python -m tests.lab --name {state.name} down"
            )
        fresh = labs_dir() / ".fresh"
        fresh.mkdir(exist_ok=True)
        (fresh / "state.json").write_bytes(msgspec.json.encode(state))
        fresh.rename(directory(state.name))


def load(name: str) -> LabState:
    """Raises LabError if there is no such lab, or its state can't be read."""
    try:
        return _decoder.decode((directory(name) / "state.json").read_bytes())
    except FileNotFoundError as error:
        raise LabError(f"no lab {name!r} is up") from error
    except msgspec.DecodeError as error:
        raise LabError(f"state of lab {name!r} is not readable ({error}): take it down") from error


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """One change of a lab at a time, over threads and processes. Raises LabError if there is no such lab."""
    with _flock(directory(name) / "lock", f"no lab {name!r} is up"):
        yield


@contextlib.contextmanager
def registry() -> Iterator[None]:
    """One process at a time claims names or sweeps."""
    labs_dir().mkdir(parents=True, exist_ok=True)
    with _flock(labs_dir() / ".lock", f"{labs_dir()} is gone"):
        yield


def save(state: LabState) -> None:
    """Under the lock. Replaces the state at once, so a reader never sees half of it."""
    path = directory(state.name) / "state.json"
    path.with_suffix(".next").write_bytes(msgspec.json.encode(state))
    path.with_suffix(".next").rename(path)


def names() -> list[str]:
    """All labs, living or left over."""
    if not labs_dir().is_dir():
        return []
    return sorted(path.name for path in labs_dir().iterdir() if not path.name.startswith("."))


def abandoned(name: str) -> bool:
    """True for a lab whose owner has ended without taking it down."""
    try:
        owner = load(name).owner
    except LabError:
        return False  # somebody else is taking it down just now, or a person has to look
    return owner is not None and not owner.lives()


def mounts_below(path: Path) -> list[str]:
    """Mount points of this process's namespace at or below `path`; the lab itself makes none there."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return [point for point in points if point == str(path) or point.startswith(f"{path}/")]


def remove(name: str) -> None:
    """Delete the lab's directory. Raises LabError rather than delete through a mount."""
    if mounts := mounts_below(directory(name)):
        raise LabError(f"something is mounted in the lab's directory: umount {' '.join(mounts)}")
    if directory(name).exists():
        shutil.rmtree(directory(name))


@contextlib.contextmanager
def _flock(path: Path, absent: str) -> Iterator[None]:
    try:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except FileNotFoundError as error:
        raise LabError(absent) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _start_ticks(pid: int) -> int:
    # proc(5): field 22, counted behind the command, which may hold spaces and brackets.
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
