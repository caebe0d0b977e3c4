"""Adding a host through the API: what is sent, what is sealed in it, and how far it is (docs/seed.md "Adding
workers")."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from agent.model.types import AgentId, CertificatePem, Digest, HostAddress, Jti, Label, Port

MAX_SEALED_CHARACTERS = 65_536  # three keys, a certificate and an instruction with labels: 8 KiB, and room
MAX_WORKER_BODY_BYTES = 81_920  # the sealed part and some short texts
MAX_LINES = 200  # an install tells a dozen

Pem = Annotated[str, Meta(max_length=4096, pattern=r"\A-----BEGIN [A-Z ]*PRIVATE KEY-----\n")]
UserName = Annotated[str, Meta(max_length=64, pattern=r"\A[A-Za-z0-9_][A-Za-z0-9_.-]*\Z", description="a user's name")]
KeyPath = Annotated[str, Meta(min_length=1, max_length=1024, pattern=r"\A[^\x00-\x1f]*\Z")]


class AddWorker(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """`POST /api/v1/deployment/workers`: SEED's three keys, and what `agent invite` adds to them.

    `ssh_key_path` names a file in `/etc/muster/ssh/` of the agent `via`, which does the SSH; without it, its root's own
    ssh configuration decides. `accept_new`: trust a host key that is seen for the first time. `sealed` is an
    Invitation, for `via` alone, bound to all the other keys.
    """

    host: HostAddress
    user: UserName | None = None
    ssh_key_path: KeyPath | None = None
    port: Port | None = None
    accept_new: bool = False
    via: AgentId | None = None
    sealed: Annotated[str, Meta(max_length=MAX_SEALED_CHARACTERS, pattern=r"\A[A-Za-z0-9_-]+\Z")] | None = None

    def bound(self) -> bytes:
        """The bytes that the seal binds: all keys but `sealed` itself."""
        return msgspec.json.encode(msgspec.structs.replace(self, sealed=None), order="deterministic")


class HostKeys(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A host's private keys, unencrypted in PEM: P-256, Ed25519, X25519."""

    tls: Pem
    signing: Pem
    sealing: Pem

    def __repr__(self) -> str:
        return "HostKeys(…)"


class Invitation(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A host's identity, made and certified on the operator's machine, and the signed `enrol` that makes it a member.

    `genesis` is the sha256 of the genesis that it is for; the agent that opens it has the genesis itself.
    """

    version: Literal[1] = 1
    keys: HostKeys
    certificate: CertificatePem
    genesis: Digest
    token: Annotated[str, Meta(max_length=4096)]
    body: Annotated[str, Meta(max_length=16_384)]


OperationState = Literal["running", "done", "failed"]


class Operation(Struct, frozen=True, kw_only=True):
    """`GET /api/v1/operations/{id}`. Only the agent that works on it knows it, and forgets it when the agent stops.

    `lines` are its output so far; `what`, `where` and `fix` say why it failed. Times are RFC 3339.
    """

    id: Jti
    kind: Literal["add-worker"]
    host: HostAddress
    name: Label
    state: OperationState
    began_at: str
    ended_at: str | None = None
    lines: Annotated[tuple[str, ...], Meta(max_length=MAX_LINES)] = ()
    what: str = ""
    where: str = ""
    fix: str = ""
