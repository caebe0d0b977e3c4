"""The blob token (`blob+jwt`): an operator lets one content, named by its sha256, into the cluster.

`use` says what for: a plan's `file`, stored by the agent that receives it, or an `image`, which the named hosts may
load into their engine. Each host that loads one verifies the token itself, so a compromised agent can't put an image
anywhere. A file needs scope deploy. An image is available to every stack on a host, so its operator must also be
unlimited.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from msgspec import Meta

from agent.errors import NotAllowed
from agent.instruction.fresh import FreshClaims, fresh_claims, read_fresh
from agent.instruction.scopes import includes
from agent.instruction.tokens import write_token
from agent.model.cluster import Operator
from agent.model.decode import convert
from agent.model.stack import MAX_FILES_BYTES
from agent.model.types import ClusterId, Digest, Label, OperatorName

MAX_BLOB_TTL_S = 300  # to begin with; a long transfer isn't cut
MAX_IMAGE_BYTES = 17_179_869_184  # 16 GiB, above the largest images with models inside
MAX_NAMED_HOSTS = 30  # the token has 4 KiB; for more hosts, name none: then all are meant

BlobUse = Literal["file", "image"]


class BlobClaims(FreshClaims, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whole seconds; `size` in bytes. `hosts`: members' names for an image to be loaded on; none: all of them."""

    use: BlobUse
    digest: Digest
    size: Annotated[int, Meta(ge=0, le=MAX_IMAGE_BYTES)]
    hosts: Annotated[list[Label], Meta(max_length=MAX_NAMED_HOSTS)]


def sign_blob(
    key: Ed25519PrivateKey,
    *,
    operator_name: OperatorName,
    cluster: ClusterId,
    epoch: int,
    use: BlobUse,
    digest: Digest,
    size: int,
    now_s: float,
    hosts: tuple[Label, ...] = (),
    ttl_s: int = MAX_BLOB_TTL_S,
) -> str:
    """A `blob+jwt`; `now_s`: seconds since the epoch, cluster's clock. Raises InputError for a claim out of bounds."""
    claims = {
        **fresh_claims(operator_name=operator_name, cluster=cluster, epoch=epoch, now_s=now_s, ttl_s=ttl_s),
        "use": use,
        "digest": digest,
        "size": size,
        "hosts": list(hosts),
    }
    return write_token(key, "blob+jwt", convert(claims, BlobClaims, "claims"))


def read_blob(
    token: str,
    operators: Mapping[OperatorName, Operator],
    audience: str,
    now_s: float,
) -> BlobClaims:
    """The claims of a token that is valid now and whose operator may do this. Raises NotAuthenticated or NotAllowed."""
    claims = read_fresh(
        token,
        BlobClaims,
        typ="blob+jwt",
        operators=operators,
        audience=audience,
        now_s=now_s,
        max_ttl_s=MAX_BLOB_TTL_S,
        name="blob token",
        fix="Give the command again.",
    )
    _check(operators[claims.iss], claims)
    return claims


def _check(operator: Operator, claims: BlobClaims) -> None:
    if not includes(operator.scope, "deploy"):
        raise NotAllowed(
            f"{operator.name} has scope {operator.scope}, and sending a {claims.use} needs deploy",
            fix=f"An admin can give it: agent operator grant {operator.name} --scope deploy",
        )
    if claims.use == "image" and operator.scope != "admin" and "*" not in operator.stacks:
        raise NotAllowed(
            f"{operator.name} may act on stacks {', '.join(operator.stacks)}; an image is every stack's",
            fix=f"An admin can give it: agent operator grant {operator.name} --scope deploy --stacks '*'",
        )
    if claims.use == "file" and claims.size > MAX_FILES_BYTES:
        raise NotAllowed(f"a file of {claims.size} bytes; a stack's files have at most {MAX_FILES_BYTES}")
