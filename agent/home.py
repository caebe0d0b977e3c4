"""The cluster home on the operator's machine, as the CLI reads it: who the cluster is, and the key to sign with.

`bootstrap.home` creates one. Files: `cluster.json` (ClusterFile), `cluster.crt` (the trust anchor), `cluster.key`
(P-256, signs identities; bootstrap only), `operator.json` and `operator.key` (Ed25519), `recovery.json` (the recovery
key's public half), `genesis.json` and `genesis.jwt` once made, `issued/<agent id>.crt`, `seen.json` (SeenFile),
`restoring.json` (RestoringFile) while there is something in it. The directory is 0700, keys 0600.
"""

import binascii
import os
import re
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta, Struct

from agent.errors import Conflict, InputError, MusterError, NotFound, TooLarge
from agent.files import write_whole
from agent.model.cluster import MAX_MEMBERS
from agent.model.decode import decode_json
from agent.model.explain import shown
from agent.model.types import (
    AgentId,
    CertificatePem,
    ClusterId,
    Digest,
    HostAddress,
    Label,
    OperatorName,
    Port,
    PublicKey,
    is_label,
)

_S = TypeVar("_S", bound=Struct)

_PEM = re.compile(rb"-----BEGIN PRIVATE KEY-----\n([A-Za-z0-9+/=]{64})\n-----END PRIVATE KEY-----\n")
_ED25519_DER = bytes.fromhex("302e020100300506032b657004220420")  # what stands before the 32 bytes (RFC 8410 §7)

MAX_HOME_FILE_BYTES = 4_194_304  # the genesis of 1000 members

CLUSTER_FILE = "cluster.json"
ANCHOR_FILE = "cluster.crt"
ANCHOR_KEY_FILE = "cluster.key"
OPERATOR_FILE = "operator.json"
OPERATOR_KEY_FILE = "operator.key"
NEXT_KEY_FILE = "operator.key.next"
OLD_KEY_FILE = "operator.key.old"
RECOVERY_FILE = "recovery.json"
GENESIS_FILE = "genesis.json"
GENESIS_TOKEN_FILE = "genesis.jwt"  # noqa: S105 - a file's name
ISSUED_DIRECTORY = "issued"
SEEN_FILE = "seen.json"
RESTORING_FILE = "restoring.json"


class KnownMember(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """Where a member was last known: a hint for the client, which checks the id in the member's certificate."""

    id: AgentId
    name: Label
    address: HostAddress
    api_port: Port = 9999
    peer_port: Port = 9998


class ClusterFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`cluster.json`."""

    version: Literal[1] = 1
    id: ClusterId
    name: Label
    epoch: Annotated[int, Meta(ge=1, le=2**31)] = 1
    members: Annotated[tuple[KnownMember, ...], Meta(max_length=MAX_MEMBERS)] = ()


class OperatorFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`operator.json` and `recovery.json`: a name, and the public half of its Ed25519 key."""

    version: Literal[1] = 1
    name: OperatorName
    key: PublicKey


class SeenFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`seen.json`: index and epoch of the newest ledger entry that was submitted from this home."""

    version: Literal[1] = 1
    epoch: int
    index: Annotated[int, Meta(ge=0)]


class HalfRestored(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A stack whose volumes are being put back. `backup`: the manifest's sha256; `revision`: the stack's, meanwhile."""

    backup: Digest
    made_at: Annotated[str, Meta(max_length=64)]
    revision: Annotated[int, Meta(ge=0)]


class RestoringFile(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`restoring.json`: restores whose end this home hasn't seen."""

    version: Literal[1] = 1
    stacks: dict[Label, HalfRestored] = {}


class Home(Struct, frozen=True, kw_only=True):
    """An opened home. Keys are read when they are needed."""

    path: Path
    cluster: ClusterFile
    operator: OperatorFile
    trust_anchor: CertificatePem

    def operator_key(self) -> Ed25519PrivateKey:
        """The key that signs instructions. Raises as `read_private_key`; InputError when it isn't `operator.json`'s."""
        path = self.path / OPERATOR_KEY_FILE
        fix = "Put it back; if it is lost, `agent operator replace --recovery-key FILE` makes another."
        try:
            key = read_private_key(path)
        except NotFound:
            raise NotFound("the operator's key isn't there", where=str(path), fix=fix) from None
        if not isinstance(key, Ed25519PrivateKey) or key.public_key().public_bytes_raw().hex() != self.operator.key:
            raise InputError(f"not the key that {OPERATOR_FILE} names", where=str(path), fix=fix)
        return key


def homes_directory(environ: Mapping[str, str]) -> Path:
    """Where homes are found by their cluster's name (XDG Base Directory): `$XDG_CONFIG_HOME/muster`."""
    configured = environ.get("XDG_CONFIG_HOME", "")
    base = Path(configured) if configured.startswith("/") else Path(environ.get("HOME", "/")) / ".config"
    return base / "muster"


def find_home(explicit: str | None, environ: Mapping[str, str], *, cluster: str | None = None) -> Path:
    """The home's directory: `--home`, else MUSTER_HOME, else that of the cluster's name, else the only one there is.

    Raises NotFound when there is none, InputError when there are several.
    """
    if named := explicit or environ.get("MUSTER_HOME"):
        return Path(named)
    directory = homes_directory(environ)
    if cluster is not None:
        if not is_label(cluster):
            raise InputError(f"{shown(cluster)} is no cluster's name: 1 to 63 of a-z 0-9 -")
        return directory / cluster
    found = sorted(path.parent for path in directory.glob(f"*/{CLUSTER_FILE}"))
    if not found:
        fix = "`bootstrap install` makes one; --home or MUSTER_HOME names one elsewhere."
        raise NotFound("there is no cluster home", where=str(directory), fix=fix)
    if len(found) > 1:
        known = ", ".join(path.name for path in found)
        raise InputError(f"several clusters: {known}", where=str(directory), fix="Name one with --home or MUSTER_HOME.")
    return found[0]


def open_home(path: Path) -> Home:
    """The home in that directory. Raises NotFound, or InputError naming the file and what is wrong in it."""
    if not (path / CLUSTER_FILE).exists():
        fix = "`bootstrap install` makes one; --home or MUSTER_HOME names another."
        raise NotFound("there is no cluster home here", where=str(path), fix=fix)
    return Home(
        path=path,
        cluster=_read(path / CLUSTER_FILE, ClusterFile),
        operator=_read(path / OPERATOR_FILE, OperatorFile),
        trust_anchor=read_file(path / ANCHOR_FILE).decode("ascii", "replace"),
    )


def read_recovery(home: Home) -> OperatorFile:
    """The recovery key's name and public half."""
    return _read(home.path / RECOVERY_FILE, OperatorFile)


def take_next_key(home: Home, operator: OperatorFile) -> None:
    """Make `operator.key.next` the operator's key; the one before is kept as `operator.key.old`.

    Raises MusterError when the disk refuses. After an interrupted call, a second one completes it.
    """
    key, old = home.path / OPERATOR_KEY_FILE, home.path / OLD_KEY_FILE
    made = read_file(home.path / NEXT_KEY_FILE)
    if key.exists() and read_file(key) != made:
        write_file(old, read_file(key), mode=0o600, replace=True)
    write_file(key, made, mode=0o600, replace=True)
    write_file(home.path / OPERATOR_FILE, as_json(operator), mode=0o644, replace=True)
    (home.path / NEXT_KEY_FILE).unlink()


def remember(home: Home, *, epoch: int | None = None, members: Iterable[KnownMember] | None = None) -> Home:
    """Write down the epoch and members that the cluster itself reported; returns the home with them."""
    changes = {
        "epoch": home.cluster.epoch if epoch is None else epoch,
        "members": home.cluster.members if members is None else tuple(sorted(members, key=lambda m: (m.name, m.id))),
    }
    cluster = msgspec.structs.replace(home.cluster, **changes)
    if cluster != home.cluster:
        write_file(home.path / CLUSTER_FILE, as_json(cluster), mode=0o600, replace=True)
    return msgspec.structs.replace(home, cluster=cluster)


def seen_index(home: Home) -> int:
    """How far the ledger was when this home last submitted something; 0 if unknown, or in another epoch."""
    try:
        seen = _read(home.path / SEEN_FILE, SeenFile)
    except MusterError:
        return 0
    return seen.index if seen.epoch == home.cluster.epoch else 0


def remember_seen(home: Home, index: int) -> None:
    """Raises MusterError when the disk refuses."""
    write_file(
        home.path / SEEN_FILE, as_json(SeenFile(epoch=home.cluster.epoch, index=index)), mode=0o600, replace=True
    )


def half_restored(home: Home) -> dict[Label, HalfRestored]:
    """Stacks whose volumes were being put back when a restore was interrupted. Raises InputError when the file is
    damaged.
    """
    try:
        return _read(home.path / RESTORING_FILE, RestoringFile).stacks
    except NotFound:
        return {}


def remember_half_restored(home: Home, stack: Label, half: HalfRestored | None) -> None:
    """Called before a stack's volumes are touched, and with None once it is started again. Raises InputError,
    MusterError.
    """
    before = half_restored(home)
    stacks = {name: was for name, was in before.items() if name != stack}
    if half is not None:
        stacks[stack] = half
    path = home.path / RESTORING_FILE
    if stacks:
        write_file(path, as_json(RestoringFile(stacks=stacks)), mode=0o600, replace=True)
    elif before:
        path.unlink(missing_ok=True)


def read_private_key(path: Path) -> object:
    """The unencrypted private key in PEM, of any kind `cryptography` knows.

    Raises NotFound; InputError when others may read the file or it holds no key. No message holds its contents.
    """
    mode = _stat(path).st_mode
    if mode & (stat.S_IRWXG | stat.S_IRWXO):
        what = f"others may read this key (mode {stat.S_IMODE(mode):04o})"
        raise InputError(what, where=str(path), fix=f"If nobody has: chmod 600 {path}")
    pem = read_file(path)
    if (key := _ed25519_key(pem)) is not None:
        return key
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization  # 20 ms, with all the kinds that it knows

    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError("not an unencrypted private key in PEM", where=str(path)) from None


def _ed25519_key(pem: bytes) -> Ed25519PrivateKey | None:
    """The key if it is Ed25519 in the form that we and OpenSSL write; else None."""
    found = _PEM.fullmatch(pem)
    if found is None:
        return None
    try:
        der = binascii.a2b_base64(found[1])
    except binascii.Error:
        return None
    if len(der) != len(_ED25519_DER) + 32 or not der.startswith(_ED25519_DER):
        return None
    return Ed25519PrivateKey.from_private_bytes(der[len(_ED25519_DER) :])


def read_file(path: Path) -> bytes:
    """A home's file. Raises NotFound, TooLarge, InputError (can't be read)."""
    if _stat(path).st_size > MAX_HOME_FILE_BYTES:
        raise TooLarge(f"more than {MAX_HOME_FILE_BYTES} bytes", where=str(path))
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", where=str(path)) from None


def write_file(path: Path, data: bytes, *, mode: int, replace: bool = False) -> None:
    """Writes a whole file or none; it is on the disk when this returns.

    Raises Conflict when it exists and isn't to be replaced, MusterError when the disk refuses.
    """
    try:
        write_whole(path, data, mode=mode, replace=replace)
    except FileExistsError:
        raise Conflict("the file exists, and is never overwritten", where=str(path)) from None
    except OSError as error:
        raise MusterError(f"can't be written: {error.strerror}", where=str(path)) from None


def as_json(value: Struct) -> bytes:
    """A file's JSON, indented for people."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def _read(path: Path, type_: type[_S]) -> _S:
    return decode_json(read_file(path), type_, where=f"{path}: $", max_bytes=MAX_HOME_FILE_BYTES)


def _stat(path: Path) -> os.stat_result:
    try:
        return path.stat()
    except FileNotFoundError:
        raise NotFound("there is no such file", where=str(path)) from None
    except OSError as error:
        raise InputError(f"can't be read: {error.strerror}", where=str(path)) from None
