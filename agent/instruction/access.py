"""The access token: read-only, short-lived, for curl and dashboards (`agent token`)."""

from collections.abc import Mapping
from typing import Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.instruction.fresh import FreshClaims, fresh_claims, read_fresh
from agent.instruction.tokens import peek, write_token
from agent.model.cluster import Operator
from agent.model.decode import convert
from agent.model.types import ClusterId, OperatorName

MAX_ACCESS_TTL_S = 3600  # it can't be revoked by itself, so it ends by itself


class AccessClaims(FreshClaims, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whole seconds; the scope is never more than `read`, whatever the operator may sign."""

    scope: Literal["read"]


def sign_access(
    key: Ed25519PrivateKey,
    *,
    operator_name: OperatorName,
    cluster: ClusterId,
    epoch: int,
    now_s: float,
    ttl_s: int = MAX_ACCESS_TTL_S,
) -> str:
    """An `access+jwt` with scope read."""
    claims = fresh_claims(operator_name=operator_name, cluster=cluster, epoch=epoch, now_s=now_s, ttl_s=ttl_s)
    claims["scope"] = "read"
    return write_token(key, "access+jwt", convert(claims, AccessClaims, "claims"))


def access_audience(token: str) -> str:
    """The audience that the token claims, *not verified*. Raises InputError."""
    return peek(token, typ="access+jwt", claims_type=AccessClaims).aud


def read_access(
    token: str,
    operators: Mapping[OperatorName, Operator],
    audience: str,
    now_s: float,
) -> AccessClaims:
    """The claims of a token that is valid now. Raises NotAuthenticated; a revoked operator's tokens end at once."""
    return read_fresh(
        token,
        AccessClaims,
        typ="access+jwt",
        operators=operators,
        audience=audience,
        now_s=now_s,
        max_ttl_s=MAX_ACCESS_TTL_S,
        name="access token",
        fix="Make a fresh one with `agent token`.",
    )
