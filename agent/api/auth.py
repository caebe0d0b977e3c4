"""Who asks: an access token of a known operator, or somebody on this host who may open the local socket."""

from __future__ import annotations

import logging
import socket

from aiohttp import web

from agent.errors import InputError, NotAllowed, NotAuthenticated
from agent.instruction import (
    BlobClaims,
    BlobUse,
    RequestClaims,
    access_audience,
    covers_stack,
    grant_stack,
    read_access,
    read_blob,
    read_request,
    unverified_claims,
)
from agent.instruction import audience_of as audience_in
from agent.instruction.api_keys import find_api_key, is_api_key
from agent.model.cluster import Operator
from agent.model.types import AgentId, Digest, Label
from agent.state import ClusterState, audience_of

logger = logging.getLogger(__name__)

_FIX = "Make a token with `agent token`, and send it as `Authorization: Bearer <token>`."

UNSIGNED_INSTRUCTION_FIX = (
    "An instruction comes with its own token, a `deploy+jwt` over its body: `agent deploy` and the other commands sign "
    "one. What `agent token` makes only reads."
)
UNSIGNED_BLOB_FIX = "A content comes with its own token, a `blob+jwt`: `agent deploy` and `agent load` sign one."

UNSIGNED_REQUEST_FIX = (
    "This comes with a token of its own, a `request+jwt` by an admin: `agent backup` and `agent restore` sign one."
)


def check_instruction_token(token: str) -> None:
    """Whether it is an instruction's by its form; whether it is valid the ledger says. Raises NotAuthenticated."""
    try:
        unverified_claims(token)
    except InputError as error:
        what = f"not an instruction's token: {error.what}"
        raise NotAuthenticated(what, where="Authorization", fix=UNSIGNED_INSTRUCTION_FIX) from None


def is_local(request: web.BaseRequest) -> bool:
    """Whether the request came over the local socket, whose file mode says who may."""
    connection = request.transport.get_extra_info("socket") if request.transport is not None else None
    return connection is not None and connection.family == socket.AF_UNIX


def bearer(request: web.BaseRequest, *, fix: str = _FIX) -> str:
    """The token of the request's one `Authorization: Bearer` (RFC 6750 §2.1). Raises NotAuthenticated with `fix`."""
    values = request.headers.getall("Authorization", [])
    if not values:
        raise NotAuthenticated("no token", where="Authorization", fix=fix)
    scheme, _, token = values[0].partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not token or not token.isascii():
        raise NotAuthenticated("not one bearer token", where="Authorization", fix=fix)
    return token.strip(" ")


def reader(
    request: web.BaseRequest, state: ClusterState, now_s: float, *, past_epochs: bool = False
) -> Operator | None:
    """Who reads: an operator, or an API key as one that nothing but reads; None on the local socket.

    `now_s`: seconds since the epoch, this host's clock. `past_epochs`: the cluster's earlier epochs will do too. Raises
    NotAuthenticated.
    """
    if is_local(request):
        return None
    token = bearer(request)
    if is_api_key(token):
        key = find_api_key(token, state.api_keys)
        if key is None:
            logger.warning("an API key that isn't known, from %s", request.remote)
            fix = "`agent key list` names those that are; `agent key create` makes one."
            raise NotAuthenticated("the API key isn't known", where="Authorization", fix=fix)
        return Operator(name=f"key:{key.name}", key=key.sha256, scope="read", stacks=key.stacks)
    try:
        audience = audience_of(state)
        if past_epochs and (claimed := access_audience(token)) in _audiences(state):
            audience = claimed
        claims = read_access(token, state.operators, audience, now_s)
    except (NotAuthenticated, InputError) as error:
        raise NotAuthenticated(error.what, where="Authorization", fix=error.fix or _FIX) from None
    return state.operators[claims.iss]


def _audiences(state: ClusterState) -> frozenset[str]:
    return frozenset(audience_in(state.cluster, epoch) for epoch in range(1, state.epoch + 1))


def sender(request: web.BaseRequest, state: ClusterState, now_s: float, use: BlobUse, digest: Digest) -> BlobClaims:
    """What an operator signed about the content `digest`. Raises NotAuthenticated or NotAllowed. `now_s` as above."""
    try:
        claims = read_blob(bearer(request, fix=UNSIGNED_BLOB_FIX), state.operators, audience_of(state), now_s)
    except InputError as error:
        raise NotAuthenticated(error.what, where="Authorization", fix=UNSIGNED_BLOB_FIX) from None
    if (claims.use, claims.digest) != (use, digest):
        raise NotAuthenticated(f"the token is for the {claims.use} {claims.digest}", where="Authorization")
    return claims


def admin(request: web.BaseRequest, state: ClusterState, now_s: float, host: AgentId) -> RequestClaims:
    """What an admin signed about this very request to this agent. Raises NotAuthenticated or NotAllowed."""
    does = f"{request.method} {request.path}"
    token = bearer(request, fix=UNSIGNED_REQUEST_FIX)
    try:
        return read_request(token, state.operators, audience_of(state), now_s, host=host, does=does)
    except InputError as error:
        raise NotAuthenticated(error.what, where="Authorization", fix=UNSIGNED_REQUEST_FIX) from None


def check_stack(operator: Operator | None, stack: Label) -> None:
    """What an operator limited to some stacks may not look into. Raises NotAllowed."""
    if operator is not None and not covers_stack(operator, stack):
        raise NotAllowed(
            f"{operator.name} may see stacks {', '.join(operator.stacks)}, not {stack}",
            where=f"stack:{stack}",
            fix="An admin can make another key: agent key create NAME --stacks …"
            if operator.name.startswith("key:")
            else f"An admin can give it: {grant_stack(operator, stack)}",
        )
