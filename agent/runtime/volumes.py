"""A named volume's content as a tar stream, and back. Blocking; what is in a volume was written by anybody.

The content is read while it may be written to: a file that shrinks meanwhile is filled with zeros, one that goes away
is left out. Putting back happens beside the old content, which then makes room in one step.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import secrets
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from agent.errors import InputError

_READ_BYTES = 1_048_576
_KINDS = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE)


class _Exactly:
    """Reads a file as exactly that many bytes, whatever happens to it."""

    def __init__(self, file: BinaryIO, size: int) -> None:
        self._file, self._left = file, size

    def read(self, size: int) -> bytes:
        size = min(size, self._left)
        data = self._file.read(size)
        self._left -= size
        return data + bytes(size - len(data))


def pack(directory: Path, target: BinaryIO) -> None:
    """Write all below `directory` to `target`, itself first: modes, owners' numbers, links. No sockets or devices.

    Raises OSError.
    """
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_READ_BYTES) as tar:
        for path in _below(directory):
            name = path.relative_to(directory).as_posix()
            with contextlib.suppress(FileNotFoundError):
                info = tar.gettarinfo(str(path), name)
                if info is None or info.type not in _KINDS:
                    continue
                if not info.isreg():
                    tar.addfile(info)
                    continue
                with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
                    tar.addfile(info, _Exactly(file, info.size))  # type: ignore[arg-type]  # all that addfile reads with


def _below(directory: Path) -> Iterator[Path]:
    yield directory
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for entry in sorted(os.listdir(directory)):
            path = directory / entry
            if path.is_dir() and not path.is_symlink():
                yield from _below(path)
            else:
                yield path


def unpack(archive: Path, directory: Path) -> None:
    """Replace everything in `directory` by the content of `archive`; whole, or nothing changes.

    Nothing may use the directory meanwhile. Raises InputError for what isn't such an archive, OSError.
    """
    beside = directory.with_name(f".{directory.name}.{secrets.token_hex(8)}")
    beside.mkdir(mode=0o700)
    try:
        try:
            with tarfile.open(archive, mode="r:") as tar:
                _extract(tar, beside)
        except (tarfile.TarError, UnicodeError, ValueError) as error:
            raise InputError(f"not a volume's archive: {error}") from None
        os.sync()  # all of it, before the old content goes
        old = beside.with_name(f"{beside.name}.old")
        os.rename(directory, old)
        os.rename(beside, directory)
        shutil.rmtree(old)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _extract(tar: tarfile.TarFile, target: Path) -> None:
    """Modes and owners as they were. Debian's Python 3.11.2 has no filters yet: what they check is checked here."""
    tar.extraction_filter = staticmethod(lambda member, _: member)  # later ones would change modes without it
    seen: set[str] = set()
    directories = []
    for member in tar:
        name = posixpath.normpath(member.name)
        if member.type not in _KINDS:
            raise InputError(f"{member.name!r} is neither file, directory nor link")
        if name in seen:
            raise InputError(f"{member.name!r} stands twice")
        seen.add(name)
        _check_inside(target, posixpath.dirname(name) if name != "." else name, member.name)
        if member.islnk():
            _check_inside(target, member.linkname, member.name)
        member.mode &= 0o1777  # the unit may not make set-uid and set-gid files (RestrictSUIDSGID)
        tar.extract(member, target, set_attrs=not member.isdir(), numeric_owner=True)
        if member.isdir():
            directories.append((member, target / name))
    for member, path in reversed(directories):  # what is in them may be written until now, whatever their modes
        tar.chown(member, str(path), numeric_owner=True)
        tar.chmod(member, str(path))
        tar.utime(member, str(path))


def _check_inside(target: Path, name: str, shown: str) -> None:
    """No name, and no link on its way, leads out of the target."""
    if posixpath.isabs(name) or not (target / name).resolve().is_relative_to(target.resolve()):
        raise InputError(f"{shown!r} leads out of the volume")
