"""Commands and files on the host."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import stat
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from bootstrap.remote import layout
from bootstrap.remote.wire import Failure

QUICK_TIMEOUT_S = 30.0  # what asks a daemon that answers at once, unless the machine is busy
OUTPUT_SHOWN_CHARACTERS = 600

# A host's administrator's own settings must not change what the commands say or do.
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}

_DISK = {
    errno.EROFS: (
        "the disk is read-only",
        "`dmesg` may say why; `mount -o remount,rw /` if it shouldn't be.",
    ),
    errno.ENOSPC: ("no space left on the disk", "`df -h` shows where; remove something, then run this again."),
    errno.EDQUOT: ("the disk quota is used up", "Raise it, or remove something, then run this again."),
    errno.EACCES: ("not allowed, though this is root", "Look for SELinux, AppArmor or a network file system there."),
    errno.EPERM: ("not allowed, though this is root", "Look for the immutable flag: `lsattr` shows it."),
}


class Output(NamedTuple):
    """How a command ended. `code` -1: there is no such command, -2: it didn't end in time."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """The end of what it wrote, for a person."""
        text = self.err.strip() or self.out.strip()
        return text[-OUTPUT_SHOWN_CHARACTERS:]


def run(argv: Sequence[str], data: bytes | None = None, timeout_s: float = QUICK_TIMEOUT_S) -> Output:
    """Run to the end. Never writes to our own output, never reads our own input."""
    try:
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if data is not None else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            cwd="/",
        )
    except OSError as error:
        return Output(-1, "", f"{argv[0]}: {error.strerror}")
    try:
        out, err = process.communicate(data, timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Output(-2, "", f"{shown(argv)} did not end within {timeout_s:g} s")
    return Output(process.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace"))


def must(argv: Sequence[str]) -> None:
    """Run it to the end. Raises Failure when it fails."""
    output = run(argv)
    if output.code != 0:
        raise Failure(f"`{shown(argv)}` failed: {output.said or output.code}")


def shown(argv: Sequence[str]) -> str:
    """A command line for a person."""
    return " ".join(argv)


def which(name: str) -> str | None:
    """The command's path on a usual system."""
    for directory in ENVIRONMENT["PATH"].split(":"):
        path = os.path.join(directory, name)
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return path
    return None


def read(path: str, limit: int = 1_048_576) -> bytes | None:
    """The file's content; None when it isn't there, or can't be read."""
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError:
        return None


def put(path: str, data: bytes, mode: int, dry: bool = False) -> bool:
    """Make the file have that content, whole or not at all; whether that changed anything. Raises Failure."""
    try:
        if read(path, len(data) + 1) == data and stat.S_IMODE(os.stat(path).st_mode) == mode:
            return False
        if dry:
            return True
        directory = os.path.dirname(path)
        os.makedirs(directory, 0o755, exist_ok=True)
        beside = os.path.join(directory, f".{os.path.basename(path)}.{os.urandom(6).hex()}")
        handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(handle, mode)
                file.write(data)
                file.flush()
                os.fsync(handle)
            os.replace(beside, path)
        except BaseException:
            os.unlink(beside)
            raise
    except OSError as error:
        raise disk_failure(error, path) from error
    return True


def link(path: str, target: str, dry: bool = False) -> bool:
    """Make `path` a symbolic link to `target`, in one step; whether that changed anything. Raises Failure."""
    try:
        if os.path.islink(path) and os.readlink(path) == target:
            return False
        if dry:
            return True
        os.makedirs(os.path.dirname(path), 0o755, exist_ok=True)
        beside = f"{path}.{os.urandom(6).hex()}"
        os.symlink(target, beside)
        os.replace(beside, path)
    except OSError as error:
        raise disk_failure(error, path) from error
    return True


@contextmanager
def alone(step: Callable[[str], None]) -> Iterator[None]:
    """Nobody else changes this host meanwhile: a program whose operator left may still be installing Docker.

    Raises OSError when our own operator left while this waited: nobody wants it any more.
    """
    handle = os.open(layout.LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not hold(handle):
            step("waiting: another `bootstrap` is at work there")
            fcntl.flock(handle, fcntl.LOCK_EX)
            step("going on")
        yield
    finally:
        os.close(handle)


def hold(handle: int) -> bool:
    """Lock the open file or directory until it is closed, at the latest when the process ends; False: somebody else has
    it.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def digest(path: str) -> str:
    """sha256 of a file, in hexadecimal; empty when it can't be read."""
    try:
        with open(path, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()
    except OSError:
        return ""


def disk_failure(error: OSError, path: str) -> Failure:
    """The error, with what a person can do about it."""
    what, fix = _DISK.get(error.errno or 0, (str(error.strerror or error), ""))
    return Failure(what, str(error.filename or path), fix)


def lines(text: str) -> list[str]:
    """The lines that aren't blank."""
    return [line for line in text.splitlines() if line.strip()]
