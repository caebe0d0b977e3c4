"""A plan's files in the stack's directory, put there from the blob store: each whole or not at all. Blocking.

`<data_dir>/stacks/<stack>/<path>`; `<data_dir>/stack-files/<stack>.json` says what was put there. A file that still is
as it was put there isn't touched, so a replica with a writable mount keeps its changes until another content is
deployed. A replica may also have put links into its mounts: no path is followed through one.
"""

import contextlib
import errno
import os
import secrets
import shutil
import stat
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct

from agent.errors import MusterError, NotAllowed, NotFound
from agent.model.spec import MountedFile
from agent.model.types import Label, is_label
from agent.storage.blobs import BlobStore
from agent.storage.files import make_directory, write_private

DIRECTORY_MODE = 0o755  # programs in containers aren't root; nobody else on the host gets through the data directory
_COPY_BYTES = 1_048_576


class _Laid(Struct, frozen=True, forbid_unknown_fields=True):
    digest: str
    mode: int


class StackFiles:
    """The files of one data directory. Calls for one stack must come one after another."""

    def __init__(self, data_dir: Path, blobs: BlobStore) -> None:
        self._stacks = data_dir / "stacks"
        self._records = data_dir / "stack-files"
        self._blobs = blobs

    def lacking(self, stack: Label, files: Iterable[MountedFile]) -> tuple[MountedFile, ...]:
        """Those that aren't there as they are wanted."""
        laid = self._read(stack)
        return tuple(file for file in files if not self._is_laid(stack, file, laid))

    def lay(self, stack: Label, file: MountedFile) -> None:
        """Put the file there. Raises NotFound when the store lacks its content, NotAllowed when something is in the
        way.
        """
        root = self._stacks / stack
        root.mkdir(mode=0o750, parents=True, exist_ok=True)
        *parents, name = file.path.split("/")
        with _directory(root, parents, file.path) as directory:
            beside = f".{secrets.token_hex(8)}.muster"
            try:
                self._copy(file, beside, directory)
                os.rename(beside, name, src_dir_fd=directory, dst_dir_fd=directory)
            except IsADirectoryError:
                raise _in_the_way(file.path, "there is a directory of that name") from None
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(beside, dir_fd=directory)
            os.fsync(directory)
        self._write(stack, {**self._read(stack), file.path: _Laid(file.digest, file.mode)})

    def sweep(self, keep: Mapping[Label, Collection[str]], in_use: Collection[Label]) -> None:
        """Remove what was put there and isn't kept ({stack: paths}). Stacks in use keep all their files.

        Of a stack that keeps nothing the directories are removed too, unless something else is in them.
        """
        with contextlib.suppress(FileNotFoundError):
            for entry in os.listdir(self._records):
                stack = entry.removesuffix(".json")
                if is_label(stack) and stack not in in_use:
                    self._sweep(stack, keep.get(stack, ()))

    def _sweep(self, stack: Label, keep: Collection[str]) -> None:
        laid = self._read(stack)
        for path in laid.keys() - keep:
            *parents, name = path.split("/")
            with (
                contextlib.suppress(FileNotFoundError, IsADirectoryError, MusterError),
                _directory(self._stacks / stack, parents, path, make=False) as directory,
            ):
                os.unlink(name, dir_fd=directory)
        left = {path: laid[path] for path in laid.keys() & keep}
        if left:
            self._write(stack, left)
        else:
            self._remove_empty(stack, laid)
            (self._records / f"{stack}.json").unlink(missing_ok=True)

    def _remove_empty(self, stack: Label, paths: Iterable[str]) -> None:
        parents = {tuple(path.split("/")[:depth]) for path in paths for depth in range(1, path.count("/") + 1)}
        for *above, name in sorted(parents, key=len, reverse=True):
            with (
                contextlib.suppress(OSError, MusterError),
                _directory(self._stacks / stack, above, name, make=False) as directory,
            ):
                os.rmdir(name, dir_fd=directory)
        with contextlib.suppress(OSError):
            (self._stacks / stack).rmdir()

    def _is_laid(self, stack: Label, file: MountedFile, laid: Mapping[str, _Laid]) -> bool:
        if laid.get(file.path) != _Laid(file.digest, file.mode):
            return False
        try:
            return stat.S_ISREG(os.lstat(self._stacks / stack / file.path).st_mode)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def _copy(self, file: MountedFile, name: str, directory: int) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        handle = os.open(name, flags, 0o600, dir_fd=directory)
        with open(handle, "wb") as target:
            try:
                with self._blobs.path(file.digest).open("rb") as source:
                    shutil.copyfileobj(source, target, _COPY_BYTES)
            except FileNotFoundError:
                raise NotFound("its content went away while it was laid", where=file.path) from None
            os.fchmod(handle, file.mode)
            target.flush()
            os.fsync(handle)

    def _read(self, stack: Label) -> dict[str, _Laid]:
        """Empty also when it can't be read: then everything is put there again."""
        try:
            return msgspec.json.decode((self._records / f"{stack}.json").read_bytes(), type=dict[str, _Laid])
        except (FileNotFoundError, msgspec.DecodeError):
            return {}

    def _write(self, stack: Label, laid: Mapping[str, _Laid]) -> None:
        make_directory(self._records)
        write_private(self._records / f"{stack}.json", msgspec.json.encode(laid))


@contextlib.contextmanager
def _directory(root: Path, parents: list[str], path: str, *, make: bool = True) -> Iterator[int]:
    """A descriptor of the directory `parents` below `root`, made where it is missing; links aren't followed."""
    handle = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in parents:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, DIRECTORY_MODE, dir_fd=handle)
            try:
                below = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=handle)
            except OSError as error:
                if error.errno in (errno.ELOOP, errno.ENOTDIR):
                    raise _in_the_way(path, f"{part} isn't a directory") from None
                raise
            os.close(handle)
            handle = below
        yield handle
    finally:
        os.close(handle)


def _in_the_way(path: str, what: str) -> NotAllowed:
    return NotAllowed(
        f"file ./{path} can't be put into the stack's directory: {what}", fix="Move it away on that host."
    )
