"""The agent's files: a version's directory, made beside its place and moved there in one step."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import threading
from typing import Any

from bootstrap.remote import layout
from bootstrap.remote.archive import extract
from bootstrap.remote.system import digest, disk_failure, hold, link, put, read
from bootstrap.remote.wire import Failure, Wire

MAX_MANIFEST_BYTES = 16_777_216  # 100,000 files
SHOWN = 5  # damaged files that are told by name


def look(version: str, manifest: str) -> dict[str, Any]:
    """Whether that version is there and every file of it is as it came: `damaged` are paths, and how many more."""
    directory = os.path.join(layout.VERSIONS, version)
    if not os.path.isdir(directory):
        return {"present": False, "damaged": []}
    listed = read(os.path.join(directory, layout.MANIFEST), MAX_MANIFEST_BYTES)
    if listed is None or hashlib.sha256(listed).hexdigest() != manifest:
        return {"present": True, "damaged": [layout.MANIFEST]}
    damaged = []
    for line in listed.decode().splitlines():
        wanted, _, path = line.partition("  ")
        if digest(os.path.join(directory, path)) != wanted:
            damaged.append(path)
    return {"present": True, "damaged": damaged[:SHOWN] + ["…"] * (len(damaged) > SHOWN)}


class Staging:
    """A version that came and isn't in its place yet: other hosts may have to be looked at first."""

    def __init__(self) -> None:
        self._version = ""
        self._beside = ""
        self._held = -1
        self._syncing: threading.Thread | None = None
        self._error: OSError | None = None

    def unpack(self, wire: Wire, ask: dict[str, Any]) -> None:
        """Take the tarball that follows and check its digest. Raises Failure."""
        self.end()
        place = os.path.join(layout.VERSIONS, ask["version"])
        self._version = ask["version"]
        self._beside = f"{layout.VERSIONS}/.{self._version}.{os.urandom(6).hex()}"
        try:
            os.makedirs(self._beside, 0o755)
            self._held = os.open(self._beside, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            hold(self._held)  # against `_prune` of another program
            if extract(wire.blob(), self._beside) != ask["sha256"]:
                raise Failure("the files that came aren't those that were sent", place, "Run this again.")
        except OSError as error:
            self.end()
            raise disk_failure(error, place) from error
        except BaseException:
            self.end()
            raise
        self._error = None
        self._syncing = threading.Thread(target=self._sync)  # while the operator's side sees to the others
        self._syncing.start()

    def place(self, version: str) -> None:
        """Move it to its place, if that version came. If an earlier one runs, only once it is on disk.

        Raises Failure.
        """
        if not self._beside or version != self._version:
            return
        place = os.path.join(layout.VERSIONS, version)
        if os.path.islink(layout.CURRENT):  # which is to lead there next, at each boot
            self.settle()
        try:
            _move(self._beside, place)
        except OSError as error:
            raise disk_failure(error, place) from error
        finally:
            self.end()

    def settle(self) -> None:
        """Wait until what came is on disk. Raises Failure."""
        self._synced()
        if self._error is not None:
            raise disk_failure(self._error, layout.VERSIONS) from self._error

    def end(self) -> None:
        """Leave nothing of it beside its place."""
        if self._beside:
            shutil.rmtree(self._beside, ignore_errors=True)
            self._beside = ""
        if self._held >= 0:
            os.close(self._held)
            self._held = -1

    def _synced(self) -> None:
        if self._syncing is not None:
            self._syncing.join()
            self._syncing = None

    def _sync(self) -> None:
        try:
            _sync(layout.VERSIONS)
        except OSError as error:
            self._error = error


def activate(version: str, launcher: str, dry: bool) -> list[str]:
    """Point `current` and the command to that version, and remove all but the last one before it; what changed.

    `launcher`: the text of the program that starts the agent. Raises Failure.
    """
    changed = []
    before = os.path.basename(os.path.realpath(layout.CURRENT)) if os.path.islink(layout.CURRENT) else ""
    path = os.path.join(layout.VERSIONS, version, layout.LAUNCHER)
    if put(path, launcher.encode(), 0o755, dry):
        changed.append(path)
    if link(layout.CURRENT, "versions/" + version, dry):
        changed.append(f"{layout.CURRENT} → {version}")
        if not dry:
            _prune((version, before))
    if not _foreign_command() and link(layout.COMMAND, f"{layout.CURRENT}/{layout.LAUNCHER}", dry):
        changed.append(layout.COMMAND)
    return changed


def _prune(kept: tuple[str, ...]) -> None:
    """Removes older versions. The last one before stays: an agent may still run from it, and it is the way back. So
    does what another program is bringing just now; the remains of one that died go.
    """
    for other in sorted(os.listdir(layout.VERSIONS)):
        if other in kept:
            continue
        path = os.path.join(layout.VERSIONS, other)
        try:
            handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:  # gone by itself
            continue
        if hold(handle):
            shutil.rmtree(path, ignore_errors=True)
        os.close(handle)


def foreign_command() -> list[str]:
    """A note when another program has the command's place."""
    if _foreign_command():
        return [f"{layout.COMMAND} is another program; ours is {layout.CURRENT}/{layout.LAUNCHER}"]
    return []


def _foreign_command() -> bool:
    if not os.path.lexists(layout.COMMAND):
        return False
    return not (os.path.islink(layout.COMMAND) and os.readlink(layout.COMMAND).startswith(layout.ROOT))


def _move(beside: str, place: str) -> None:
    """A damaged version is moved away first; what runs from it keeps its files."""
    away = f"{layout.VERSIONS}/.old.{os.urandom(6).hex()}"
    if os.path.lexists(place):
        os.rename(place, away)
    os.rename(beside, place)
    shutil.rmtree(away, ignore_errors=True)


def _sync(directory: str) -> None:
    """To the disk, with one call for the whole file system (syncfs(2))."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(handle) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), directory)
    finally:
        os.close(handle)
