"""Who belongs to the cluster: genesis, members, operators and what they may do (docs/security.md "Identity is not
authority")."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from agent.model.types import (
    AgentId,
    CertificatePem,
    ClusterId,
    Digest,
    HostAddress,
    Label,
    Labels,
    Millis,
    OperatorName,
    Port,
    PublicKey,
)

MAX_MEMBERS = 1000  # the largest cluster that is tested by simulation
MAX_OPERATORS = 200
MAX_API_KEYS = 200
MAX_VOTERS = 5  # ARCHITECTURE.md "Words"

ScopeName = Literal["read", "operate", "deploy", "admin"]
"""Each includes the ones before it."""
StackGlob = Annotated[str, Meta(min_length=1, max_length=63, pattern=r"\A[a-z0-9*?-]+\Z")]


class Operator(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A person or CI with a signing key (Ed25519). `stacks` limits every scope but `admin` to matching stack names."""

    name: OperatorName
    key: PublicKey
    scope: ScopeName
    stacks: Annotated[tuple[StackGlob, ...], Meta(min_length=1, max_length=64)] = ("*",)


class ApiKey(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A key that reads the API and nothing else, for dashboards. `sha256` is all that the cluster has of it."""

    name: OperatorName
    sha256: Digest
    stacks: Annotated[tuple[StackGlob, ...], Meta(min_length=1, max_length=64)] = ("*",)


class Member(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """An agent that the ledger knows.

    `certificate` is the digest of its TLS certificate's DER; `address` is where it was enrolled, a hint like every
    other address. `signing_key` is Ed25519, `sealing_key` X25519.
    """

    id: AgentId
    name: Label
    address: HostAddress
    api_port: Port = 9999
    peer_port: Port = 9998
    labels: Labels = {}
    certificate: Digest
    signing_key: PublicKey
    sealing_key: PublicKey


class Genesis(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """The cluster's birth: entry 1 of the ledger is a pure function of it."""

    version: Literal[1] = 1
    cluster: ClusterId
    name: Label
    epoch: Annotated[int, Meta(ge=1, le=2**31)] = 1
    created_at: Millis
    trust_anchor: CertificatePem
    admins: Annotated[tuple[Operator, ...], Meta(min_length=2, max_length=2)]
    members: Annotated[tuple[Member, ...], Meta(min_length=1, max_length=MAX_MEMBERS)]
    voters: Annotated[tuple[AgentId, ...], Meta(min_length=1, max_length=MAX_VOTERS)]


class IdentityRequest(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What a host sends after it made its keys: the public halves, and a CSR that proves that it holds the TLS key."""

    version: Literal[1] = 1
    id: AgentId
    name: Label
    address: HostAddress
    api_port: Port = 9999
    peer_port: Port = 9998
    csr: Annotated[str, Meta(max_length=8192, pattern=r"\A-----BEGIN CERTIFICATE REQUEST-----\n")]
    signing_key: PublicKey
    sealing_key: PublicKey


class IdentityGrant(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """What comes back to the host: its certificate, and the genesis with the operator's signature over it."""

    version: Literal[1] = 1
    certificate: CertificatePem
    genesis: Annotated[str, Meta(max_length=4_194_304)]
    genesis_token: Annotated[str, Meta(max_length=4096)]
