"""The request token: an admin allows one request to one agent, body included. Used by backups and restores."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta

from agent.errors import NotAllowed
from agent.instruction.fresh import FreshClaims, fresh_claims, read_fresh
from agent.instruction.scopes import includes
from agent.instruction.tokens import write_token
from agent.model.cluster import Operator
from agent.model.decode import convert
from agent.model.types import AgentId, ClusterId, Digest, OperatorName

MAX_REQUEST_TTL_S = 300  # to begin with; a long transfer isn't cut
MAX_VOLUME_BYTES = 1_099_511_627_776  # 1 TiB in one archive; more is a storage system's affair
NO_BODY: Digest = hashlib.sha256(b"").hexdigest()


class RequestClaims(FreshClaims, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`does`: method and path. `host`: the one agent that may accept it. `bdg`, `size`: of the body, if any.

    A token that one agent was shown is useless at another, so a compromised agent can't read another's volumes with it.
    """

    host: AgentId
    does: Annotated[str, Meta(max_length=512)]
    bdg: Digest
    size: Annotated[int, Meta(ge=0, le=MAX_VOLUME_BYTES)]


def sign_request(
    key: Ed25519PrivateKey,
    *,
    operator_name: OperatorName,
    cluster: ClusterId,
    epoch: int,
    host: AgentId,
    does: str,
    now_s: float,
    digest: Digest = NO_BODY,
    size: int = 0,
) -> str:
    """A `request+jwt`; `now_s`: seconds since the epoch, cluster's clock. Raises InputError: a claim out of bounds."""
    claims = {
        **fresh_claims(operator_name=operator_name, cluster=cluster, epoch=epoch, now_s=now_s, ttl_s=MAX_REQUEST_TTL_S),
        "host": host,
        "does": does,
        "bdg": digest,
        "size": size,
    }
    return write_token(key, "request+jwt", convert(claims, RequestClaims, "claims"))


def read_request(
    token: str,
    operators: Mapping[OperatorName, Operator],
    audience: str,
    now_s: float,
    *,
    host: AgentId,
    does: str,
) -> RequestClaims:
    """The claims of a token for this very request, by an admin. Raises NotAuthenticated or NotAllowed."""
    claims = read_fresh(
        token,
        RequestClaims,
        typ="request+jwt",
        operators=operators,
        audience=audience,
        now_s=now_s,
        max_ttl_s=MAX_REQUEST_TTL_S,
        name="request token",
        fix="Give the command again.",
    )
    operator = operators[claims.iss]
    if not includes(operator.scope, "admin"):
        raise NotAllowed(
            f"{operator.name} has scope {operator.scope}, and a backup needs admin: it has every environment value",
            fix=f"An admin can give it: agent operator grant {operator.name} --scope admin",
        )
    if (claims.host, claims.does) != (host, does):
        raise NotAllowed(f"the token is for {claims.does} on {claims.host}", where="Authorization")
    return claims
