"""The genesis token: the operator's signature over the cluster's birth, and what makes a genesis sound."""

import hmac
from collections.abc import Iterable
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta, Struct

from agent.errors import InputError, NotAuthenticated
from agent.instruction.keys import public_key_of
from agent.instruction.operator import audience_of, body_digest
from agent.instruction.tokens import read_token, write_token
from agent.model.cluster import Genesis
from agent.model.decode import convert, decode_json
from agent.model.identity import agent_id_of
from agent.model.types import Digest, OperatorName

MAX_GENESIS_BYTES = 4_194_304  # 1000 members at about 1 KiB, with labels; as IdentityGrant carries it

_encoder = msgspec.json.Encoder(order="deterministic")


class GenesisClaims(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Without `exp`: a genesis stays true. `bdg` is the sha256 of its exact bytes, `iat` whole seconds."""

    iss: Annotated[str, Meta(max_length=63)]
    aud: Annotated[str, Meta(max_length=64)]
    iat: Annotated[int, Meta(ge=0, le=2**40)]
    bdg: Digest


def encode_genesis(genesis: Genesis) -> bytes:
    """The genesis as JSON, the same bytes for the same genesis."""
    return _encoder.encode(genesis)


def sign_genesis(
    key: Ed25519PrivateKey, *, operator_name: OperatorName, genesis: Genesis, genesis_bytes: bytes, now_s: float
) -> str:
    """A `genesis+jwt` over `genesis_bytes`, by one of its two admins."""
    claims = {
        "iss": operator_name,
        "aud": audience_of(genesis.cluster, genesis.epoch),
        "iat": int(now_s),
        "bdg": body_digest(genesis_bytes),
    }
    return write_token(key, "genesis+jwt", convert(claims, GenesisClaims, "claims"))


def read_genesis(token: str, genesis_bytes: bytes) -> Genesis:
    """The genesis, signed by an admin that it names itself.

    This doesn't say *which* genesis it is: whoever brought it (bootstrap, over SSH) vouches for that. Raises InputError
    (TooLarge too) for an unsound one, NotAuthenticated when the token doesn't fit it.
    """
    genesis = decode_json(genesis_bytes, Genesis, max_bytes=MAX_GENESIS_BYTES)
    check_genesis(genesis)
    admins = {admin.name: admin for admin in genesis.admins}

    def key_for(claims: GenesisClaims) -> Ed25519PublicKey | None:
        admin = admins.get(claims.iss)
        return public_key_of(admin.key) if admin is not None else None

    audience = audience_of(genesis.cluster, genesis.epoch)
    claims = read_token(token, typ="genesis+jwt", claims_type=GenesisClaims, audience=audience, key_for=key_for)
    if not hmac.compare_digest(body_digest(genesis_bytes), claims.bdg):
        raise NotAuthenticated("the genesis isn't the one that was signed", where="bdg")
    return genesis


def check_genesis(genesis: Genesis) -> None:
    """Checks what types can't: no name, id or key twice, ids derived from keys, voters are members, admins are admins.

    Raises InputError.
    """
    _unique((member.id for member in genesis.members), "$.members", "id")
    _unique((member.name for member in genesis.members), "$.members", "name")
    _unique((member.signing_key for member in genesis.members), "$.members", "signing_key")
    _unique((member.certificate for member in genesis.members), "$.members", "certificate")
    _unique(genesis.voters, "$.voters", "id")
    _unique((admin.name for admin in genesis.admins), "$.admins", "name")
    _unique((admin.key for admin in genesis.admins), "$.admins", "key")
    for index, admin in enumerate(genesis.admins):
        if admin.scope != "admin":
            raise InputError(f'expected "admin", got "{admin.scope}"', where=f"$.admins[{index}].scope")
    for index, member in enumerate(genesis.members):
        if agent_id_of(bytes.fromhex(member.signing_key)) != member.id:
            raise InputError("the id isn't that of the signing key", where=f"$.members[{index}].id")
    members = {member.id for member in genesis.members}
    for index, voter in enumerate(genesis.voters):
        if voter not in members:
            raise InputError(f"{voter} is no member", where=f"$.voters[{index}]")
    from cryptography import x509  # 30 ms that commands needn't wait for

    try:
        x509.load_pem_x509_certificate(genesis.trust_anchor.encode())
    except ValueError:
        raise InputError("not a certificate in PEM", where="$.trust_anchor") from None


def _unique(values: Iterable[str], where: str, what: str) -> None:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if value in seen:
            raise InputError(f"the {what} {value} stands twice", where=f"{where}[{index}]")
        seen.add(value)
