"""The backup token: an operator's signature over a backup's manifest, which names every part by its sha256."""

import hmac
from collections.abc import Mapping
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta, Struct

from agent.errors import NotAuthenticated
from agent.instruction.keys import public_key_of
from agent.instruction.operator import audience_of, body_digest
from agent.instruction.tokens import read_token, write_token
from agent.model.cluster import Operator
from agent.model.decode import convert
from agent.model.types import ClusterId, Digest, OperatorName


class BackupClaims(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Without `exp`: a backup is kept for long. `bdg` is the sha256 of the manifest's exact bytes."""

    iss: Annotated[str, Meta(max_length=63)]
    aud: Annotated[str, Meta(max_length=64)]
    iat: Annotated[int, Meta(ge=0, le=2**40)]
    bdg: Digest


def sign_backup(
    key: Ed25519PrivateKey,
    *,
    operator_name: OperatorName,
    cluster: ClusterId,
    epoch: int,
    manifest: bytes,
    now_s: float,
) -> str:
    """A `backup+jwt` over the manifest."""
    claims = {
        "iss": operator_name,
        "aud": audience_of(cluster, epoch),
        "iat": int(now_s),
        "bdg": body_digest(manifest),
    }
    return write_token(key, "backup+jwt", convert(claims, BackupClaims, "claims"))


def read_backup(
    token: str, manifest: bytes, operators: Mapping[OperatorName, Operator], cluster: ClusterId, epoch: int
) -> BackupClaims:
    """The claims, signed by one of these operators over this very manifest. Raises NotAuthenticated."""

    def key_for(claims: BackupClaims) -> Ed25519PublicKey | None:
        operator = operators.get(claims.iss)
        return public_key_of(operator.key) if operator is not None else None

    audience = audience_of(cluster, epoch)
    claims = read_token(token, typ="backup+jwt", claims_type=BackupClaims, audience=audience, key_for=key_for)
    if not hmac.compare_digest(body_digest(manifest), claims.bdg):
        raise NotAuthenticated("the manifest isn't the one that was signed", where="bdg")
    return claims
