"""The manifest of a backup file, which names every part with its size and sha256. Pure.

The file is a plain tar archive: the parts, then `manifest.json`, then `manifest.jwt`, an operator's signature over it.
"""

import re
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from agent.errors import InputError
from agent.model.decode import decode_json
from agent.model.types import ClusterId, Digest, Label, OperatorName

BACKUP_VERSION = 1
MANIFEST = "manifest.json"
SIGNATURE = "manifest.jwt"
MAX_MANIFEST_BYTES = 16_777_216  # 50,000 parts
MAX_PARTS = 50_000

PartKind = Literal["state", "file", "plan", "api-log", "volume", "home"]
PartName = Annotated[
    str, Meta(max_length=99, pattern=r"\A[A-Za-z0-9][A-Za-z0-9._/-]*\Z", description="a part's name, as short as tar's")
]

_VERSION = re.compile(rb'\A\s*\{\s*"version"\s*:\s*(\d{1,9})\s*[,}]')


class Part(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One file in the archive. `host`: where an API log or a volume is from; `path`: a home's file, by its own name."""

    name: PartName
    kind: PartKind
    size: Annotated[int, Meta(ge=0, le=2**53)]
    sha256: Digest
    host: str = ""
    stack: str = ""
    volume: str = ""
    path: str = ""


class Manifest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`made_at` is RFC 3339; `index` is the ledger entry up to which the state goes; `hosts` are the members' names."""

    version: Literal[1] = 1
    made_at: str
    made_by: OperatorName
    agent_version: str
    cluster: ClusterId
    cluster_name: Label
    epoch: Annotated[int, Meta(ge=1, le=2**31)]
    index: int
    hosts: tuple[Label, ...]
    parts: Annotated[tuple[Part, ...], Meta(min_length=1, max_length=MAX_PARTS)]


def encode_manifest(manifest: Manifest) -> bytes:
    """As JSON, the version first."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n"


def decode_manifest(data: bytes, *, where: str) -> Manifest:
    """Raises InputError: a later version than this one knows, or damaged."""
    found = _VERSION.match(data)
    if found is not None and int(found[1]) > BACKUP_VERSION:
        what = f"the backup has format {int(found[1])}, this version knows up to {BACKUP_VERSION}"
        raise InputError(what, where=where, fix="Restore it with the version that made it, or a later one.")
    manifest = decode_json(data, Manifest, where=f"{where}: {MANIFEST}: $", max_bytes=MAX_MANIFEST_BYTES)
    names = [part.name for part in manifest.parts]
    if len(set(names)) != len(names) or {MANIFEST, SIGNATURE} & set(names):
        raise InputError("the manifest names a part twice", where=where)
    if [part.kind for part in manifest.parts].count("state") != 1:
        raise InputError("the manifest doesn't name one state", where=where)
    return manifest
