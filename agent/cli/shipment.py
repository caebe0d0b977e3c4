"""The files that a plan's relative paths name, on the operator's disk: found, bounded, and named by their content."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import Struct

from agent.errors import InputError, TooLarge
from agent.model.decode import convert
from agent.model.stack import MAX_FILES, MAX_FILES_BYTES, Stack
from agent.model.types import Digest

_READ_BYTES = 1_048_576


class Shipment(Struct, frozen=True, kw_only=True):
    """The stack with its files in it, where their contents are, and the mounts for which there is nothing to send."""

    stack: Stack
    contents: dict[Digest, Path]
    absent: tuple[str, ...]


def pack(stack: Stack, directory: Path) -> Shipment:
    """Packs what `stack` mounts by relative paths, from `directory`, where the plan is.

    Links may lead anywhere inside the directory, and nowhere out of it. Raises InputError or TooLarge naming the file.
    """
    volumes = [volume for service in stack.services.values() for volume in service.volumes]
    if not volumes:
        return Shipment(stack=stack, contents={}, absent=())
    from agent.host.files import shipped_path  # with all of a host's part behind it: 15 ms

    mounts = {mount for volume in volumes if (mount := shipped_path(volume)) is not None}
    root = directory.resolve()
    files: dict[str, dict[str, Any]] = {}
    contents: dict[Digest, Path] = {}
    absent = []
    total = 0
    for mount in sorted(mounts):
        if not (root / mount).exists():
            absent.append(mount)
            continue
        for path in _below(root / mount, root):
            name = path.relative_to(root).as_posix()
            if name in files:
                continue
            total += path.stat().st_size
            if len(files) == MAX_FILES or total > MAX_FILES_BYTES:
                raise TooLarge(
                    f"more than {MAX_FILES} files or {MAX_FILES_BYTES // 1_048_576} MiB to send",
                    where=f"./{mount}",
                    fix="Put data into an image or a named volume.",
                )
            digest, size = _digest(path)
            contents[digest] = path
            mode = stat.S_IMODE(path.stat().st_mode) & 0o777
            files[name] = {"digest": digest, "size": size, "mode": mode}
    fields = {"name": stack.name, "services": stack.services, "files": files}
    return Shipment(stack=convert(fields, Stack, "files"), contents=contents, absent=tuple(absent))


def _below(path: Path, root: Path) -> Iterator[Path]:
    """The file, or all files below the directory. Raises InputError for what can't be sent."""
    if not path.resolve().is_relative_to(root):
        raise InputError("leads out of the plan's directory", where=_shown(path, root), fix="Copy it in there.")
    if path.is_dir():
        if path.is_symlink() and path.resolve() in path.absolute().parents:
            raise InputError("leads back to a directory that it is in", where=_shown(path, root))
        for entry in sorted(os.listdir(path)):
            yield from _below(path / entry, root)
    elif path.is_file():
        yield path
    else:
        raise InputError("neither a file nor a directory", where=_shown(path, root), fix="Move it out of there.")


def _digest(path: Path) -> tuple[Digest, int]:
    found, size = hashlib.sha256(), 0
    try:
        with path.open("rb") as file:
            while data := file.read(_READ_BYTES):
                found.update(data)
                size += len(data)
    except OSError as error:
        raise InputError(f"can't be read: {(error.strerror or 'error').lower()}", where=str(path)) from None
    return found.hexdigest(), size


def _shown(path: Path, root: Path) -> str:
    return f"./{path.relative_to(root).as_posix()}"
