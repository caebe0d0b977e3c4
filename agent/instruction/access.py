"""The access token: read-only, short-lived, for curl and dashboards (`agent token`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta, Struct

from agent.errors import NotAuthenticated
from agent.instruction.keys import public_key_of
from agent.instruction.operator import DEFAULT_SKEW_S, audience_of, new_jti
from agent.instruction.tokens import read_token, write_token
from agent.model.cluster import Operator
from agent.model.decode import convert
from agent.model.types import ClusterId, Jti, OperatorName

MAX_ACCESS_TTL_S = 3600  # it can't be revoked by itself, so it ends by itself


class AccessClaims(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whole seconds; the scope is never more than `read`, whatever the operator may sign."""

    iss: Annotated[str, Meta(max_length=63)]
    aud: Annotated[str, Meta(max_length=64)]
    iat: Annotated[int, Meta(ge=0, le=2**40)]
    exp: Annotated[int, Meta(ge=0, le=2**40)]
    jti: Jti
    scope: Literal["read"]


def sign_access(
    key: Ed25519PrivateKey,
    *,
    operator_name: OperatorName,
    cluster: ClusterId,
    epoch: int,
    now_s: float,
    ttl_s: int = MAX_ACCESS_TTL_S,
    jti: Jti | None = None,
) -> str:
    """An `access+jwt` with scope read."""
    claims = {
        "iss": operator_name,
        "aud": audience_of(cluster, epoch),
        "iat": int(now_s),
        "exp": int(now_s) + ttl_s,
        "jti": jti if jti is not None else new_jti(),
        "scope": "read",
    }
    return write_token(key, "access+jwt", convert(claims, AccessClaims, "claims"))


def read_access(
    token: str,
    operators: Mapping[OperatorName, Operator],
    audience: str,
    now_s: float,
    skew_s: float = DEFAULT_SKEW_S,
) -> AccessClaims:
    """The claims of a token that is valid now. Raises NotAuthenticated; a revoked operator's tokens end at once."""

    def key_for(claims: AccessClaims) -> Ed25519PublicKey | None:
        operator = operators.get(claims.iss)
        return public_key_of(operator.key) if operator is not None else None

    claims = read_token(token, typ="access+jwt", claims_type=AccessClaims, audience=audience, key_for=key_for)
    if not 0 < claims.exp - claims.iat <= MAX_ACCESS_TTL_S:
        raise NotAuthenticated(f"an access token is valid for at most {MAX_ACCESS_TTL_S} s", where="exp")
    if not claims.iat - skew_s <= now_s < claims.exp + skew_s:
        raise NotAuthenticated(
            "the access token isn't valid now", where="exp", fix="Make a fresh one with `agent token`."
        )
    return claims
