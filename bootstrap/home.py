"""Making a cluster home: the cluster's id, its anchor, the operator's key and the recovery key."""

from __future__ import annotations

import base64
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import Conflict, InputError, MusterError
from agent.home import (
    ANCHOR_FILE,
    ANCHOR_KEY_FILE,
    CLUSTER_FILE,
    ISSUED_DIRECTORY,
    OPERATOR_FILE,
    OPERATOR_KEY_FILE,
    RECOVERY_FILE,
    ClusterFile,
    Home,
    OperatorFile,
    as_json,
    open_home,
    write_file,
)
from agent.instruction import new_key, private_pem, public_hex
from agent.model.decode import convert
from agent.model.types import ClusterId, Label, OperatorName
from bootstrap.certificates import make_anchor

RECOVERY_NAME = "recovery"
ENDED_DIRECTORY = "ended"
_LOCK_FILE = ".lock"


def new_cluster_id() -> ClusterId:
    """80 random bits in 16 base32 characters."""
    return base64.b32encode(secrets.token_bytes(10)).decode().lower()


def create_home(path: Path, *, name: Label, operator: OperatorName, recovery_file: Path) -> Home:
    """A home for a cluster that doesn't exist yet, at `path`: whole, or not at all.

    The recovery key (an admin like the operator) goes to `recovery_file` alone, 0600; tell the user to put it away
    offline. Raises Conflict when either path exists, InputError for bad names, MusterError when the disk refuses.
    """
    if operator == RECOVERY_NAME:
        raise InputError(f'the operator can\'t be named "{RECOVERY_NAME}", the recovery key is')
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        fix = "Use it with --home, or name another directory."
        raise Conflict("something is there already, and a home is never overwritten", where=str(path), fix=fix)
    if path.absolute() in recovery_file.absolute().parents:
        raise InputError("the recovery key can't be kept inside the home it recovers", where=str(recovery_file))
    temporary = path.absolute().with_name(f".{path.name}.{secrets.token_hex(8)}")
    recovery_written = False
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        temporary.mkdir(mode=0o700)
        recovery_pem = _fill(temporary, name=name, operator=operator)
        write_file(recovery_file, recovery_pem, mode=0o600)
        recovery_written = True
        temporary.rename(path.absolute())
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if recovery_written:
            recovery_file.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise MusterError(f"can't be made: {error.strerror}", where=str(path)) from None
        raise
    return open_home(path)


def put_aside(home: Home) -> Path:
    """Move the home of a cluster that is gone; returns its place beside those that are found by name.

    Raises Conflict when something is there, MusterError when the disk refuses.
    """
    aside = home.path.absolute().parent / ENDED_DIRECTORY / f"{home.path.absolute().name}-{home.cluster.id}"
    if aside.exists():
        raise Conflict("something is there already", where=str(aside), fix="Move it away.")
    try:
        aside.parent.mkdir(mode=0o700, exist_ok=True)
        home.path.absolute().rename(aside)
    except OSError as error:
        raise MusterError(f"can't be moved to {aside}: {error.strerror}", where=str(home.path)) from None
    return aside


def _fill(directory: Path, *, name: Label, operator: OperatorName) -> bytes:
    """Writes every file of a fresh home; returns the recovery key in PEM, which none of them holds."""
    cluster = convert({"id": new_cluster_id(), "name": name}, ClusterFile, "cluster")
    anchor_key = ec.generate_private_key(ec.SECP256R1())
    operator_key, recovery_key = new_key(), new_key()
    named = convert({"name": operator, "key": public_hex(operator_key)}, OperatorFile, "operator")
    recovery = OperatorFile(name=RECOVERY_NAME, key=public_hex(recovery_key))
    anchor_pem = anchor_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (directory / ISSUED_DIRECTORY).mkdir(mode=0o700)
    write_file(directory / ANCHOR_KEY_FILE, anchor_pem, mode=0o600)
    write_file(directory / ANCHOR_FILE, make_anchor(anchor_key, cluster.id, name).encode(), mode=0o644)
    write_file(directory / OPERATOR_KEY_FILE, private_pem(operator_key), mode=0o600)
    write_file(directory / OPERATOR_FILE, as_json(named), mode=0o644)
    write_file(directory / RECOVERY_FILE, as_json(recovery), mode=0o644)
    write_file(directory / CLUSTER_FILE, as_json(cluster), mode=0o600)
    return private_pem(recovery_key)


@contextmanager
def locked(home: Home) -> Iterator[None]:
    """Keeps other threads and processes out of the home's writing side; waits for them."""
    descriptor = os.open(home.path / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
