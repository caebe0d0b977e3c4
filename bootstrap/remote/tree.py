"""The agent's files: a version's directory, made beside its place and moved there in one step."""

from __future__ import annotations

import ctypes
import hashlib
import os
import secrets
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from typing import Any

from bootstrap.remote import layout
from bootstrap.remote.system import ENVIRONMENT, digest, disk_failure, link, put, read, which
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


def unpack(wire: Wire, ask: dict[str, Any]) -> None:
    """Take the tarball that follows, check its digest, and put it in its place. Raises Failure."""
    version, wanted = ask["version"], ask["sha256"]
    place = os.path.join(layout.VERSIONS, version)
    beside = f"{layout.VERSIONS}/.{version}.{secrets.token_hex(6)}"
    try:
        os.makedirs(beside, 0o755)
        try:
            if _extract(wire.blob(), beside) != wanted:
                raise Failure("the files that came aren't those that were sent", place, "Run this again.")
            _sync(beside)
            _move(beside, place)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
    except OSError as error:
        raise disk_failure(error, place) from error


def activate(version: str, launcher: str, dry: bool) -> list[str]:
    """Let `current` and the command lead to that version, and remove versions before the last one; what changed.

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
    """The version before stays: an agent may still run from it, and it is the way back."""
    for other in sorted(os.listdir(layout.VERSIONS)):
        if other not in kept:
            shutil.rmtree(os.path.join(layout.VERSIONS, other), ignore_errors=True)


def foreign_command() -> list[str]:
    """A note when the command's place is taken by somebody else's program."""
    if _foreign_command():
        return [f"{layout.COMMAND} is another program; ours is {layout.CURRENT}/{layout.LAUNCHER}"]
    return []


def _foreign_command() -> bool:
    if not os.path.lexists(layout.COMMAND):
        return False
    return not (os.path.islink(layout.COMMAND) and os.readlink(layout.COMMAND).startswith(layout.ROOT))


def _extract(blocks: Iterator[bytes], directory: str) -> str:
    """Unpack into the directory; the sha256 of what came. All of it is read whatever happens."""
    seen = hashlib.sha256()
    if which("tar") is None or which("gzip") is None:
        return _extract_slowly(blocks, directory)
    argv = ["tar", "-xzf", "-", "--no-same-owner", "-C", directory]
    process = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=ENVIRONMENT
    )
    assert process.stdin is not None
    broken = False
    for block in blocks:
        seen.update(block)
        if not broken:
            try:
                process.stdin.write(block)
            except BrokenPipeError:
                broken = True
    _, complaint = process.communicate()
    if process.returncode != 0:
        text = complaint.decode("utf-8", "replace")
        for number, name in (("No space left", 28), ("Read-only file system", 30), ("quota exceeded", 122)):
            if number in text:
                raise OSError(name, os.strerror(name), directory)
        raise Failure(f"tar failed: {text.strip()[-300:]}", directory)
    return seen.hexdigest()


def _extract_slowly(blocks: Iterator[bytes], directory: str) -> str:
    """Where there is no tar command."""
    import tempfile

    seen = hashlib.sha256()
    with tempfile.TemporaryFile(dir=layout.VERSIONS) as file:
        for block in blocks:
            seen.update(block)
            file.write(block)
        file.seek(0)
        with tarfile.open(fileobj=file, mode="r:gz") as archive:
            if hasattr(tarfile, "data_filter"):
                archive.extractall(directory, filter="data")
            else:
                archive.extractall(directory)  # noqa: S202 the operator's own tarball; its digest is checked next
    return seen.hexdigest()


def _move(beside: str, place: str) -> None:
    """A damaged version is moved away first; what runs from it keeps its files."""
    away = f"{layout.VERSIONS}/.old.{secrets.token_hex(6)}"
    if os.path.lexists(place):
        os.rename(place, away)
    os.rename(beside, place)
    shutil.rmtree(away, ignore_errors=True)


def _sync(directory: str) -> None:
    """To the disk, before anything leads there: one call for the whole file system (syncfs(2))."""
    handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        library = ctypes.CDLL(None, use_errno=True)
        if library.syncfs(handle) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), directory)
    finally:
        os.close(handle)
