"""What access, blob and request tokens share: an operator signs them, and they are short-lived by the clock that reads
them.
"""

from collections.abc import Mapping
from typing import Annotated, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from msgspec import Meta, Struct

from agent.errors import NotAuthenticated
from agent.instruction.keys import public_key_of
from agent.instruction.operator import DEFAULT_SKEW_S, audience_of, new_jti
from agent.instruction.tokens import Typ, read_token
from agent.model.cluster import Operator
from agent.model.types import ClusterId, Jti, OperatorName


class FreshClaims(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The claims that they have in common. Whole seconds since the epoch."""

    iss: Annotated[str, Meta(max_length=63)]
    aud: Annotated[str, Meta(max_length=64)]
    iat: Annotated[int, Meta(ge=0, le=2**40)]
    exp: Annotated[int, Meta(ge=0, le=2**40)]
    jti: Jti


_C = TypeVar("_C", bound=FreshClaims)


def fresh_claims(
    *, operator_name: OperatorName, cluster: ClusterId, epoch: int, now_s: float, ttl_s: int
) -> dict[str, object]:
    """Those claims, valid for `ttl_s` from now; `now_s` is seconds since the epoch by the cluster's clock."""
    return {
        "iss": operator_name,
        "aud": audience_of(cluster, epoch),
        "iat": int(now_s),
        "exp": int(now_s) + ttl_s,
        "jti": new_jti(),
    }


def read_fresh(
    token: str,
    claims_type: type[_C],
    *,
    typ: Typ,
    operators: Mapping[OperatorName, Operator],
    audience: str,
    now_s: float,
    max_ttl_s: int,
    name: str,
    fix: str,
) -> _C:
    """The claims of a token that is valid now. Raises NotAuthenticated; a revoked operator's tokens end at once.

    `name` is what errors call it; `fix` is for a token that is expired, or not valid yet.
    """

    def key_for(claims: _C) -> Ed25519PublicKey | None:
        operator = operators.get(claims.iss)
        return public_key_of(operator.key) if operator is not None else None

    claims = read_token(token, typ=typ, claims_type=claims_type, audience=audience, key_for=key_for)
    if not 0 < claims.exp - claims.iat <= max_ttl_s:
        article = "an" if name[0] in "aeiou" else "a"
        raise NotAuthenticated(f"{article} {name} is valid for at most {max_ttl_s} s", where="exp")
    if not claims.iat - DEFAULT_SKEW_S <= now_s < claims.exp + DEFAULT_SKEW_S:
        raise NotAuthenticated(f"the {name} isn't valid now", where="exp", fix=fix)
    return claims
