"""The operator's instruction: signing it, and the checks that every agent makes before it believes it."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from functools import lru_cache

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Struct

from agent.errors import InputError, NotAuthenticated
from agent.instruction.keys import QuickKey, quick_key_of
from agent.instruction.scopes import check_scope
from agent.instruction.tokens import REMEMBERED, peek, read_token, write_token
from agent.model.cluster import Operator
from agent.model.decode import convert, decode_json
from agent.model.instruction import (
    BODIES,
    MAX_BODY_BYTES,
    MAX_TOKEN_BYTES,
    TARGET_KINDS,
    Act,
    Body,
    Claims,
    Enrol,
    Grant,
    GrantKey,
)
from agent.model.stack import Stack
from agent.model.types import ClusterId, Digest, Jti, OperatorName, Target

MAX_TTL_S = 300  # long enough to resend through a change of coordinator, short enough for a stolen laptop
DEFAULT_SKEW_S = 30  # hosts without a common NTP source drift by less between two looks

MAX_REMEMBERED_BODY_BYTES = 32_768  # so that all of them together have 8 MiB at most

_encoder = msgspec.json.Encoder(order="deterministic")


class VerifiedInstruction(Struct, frozen=True, kw_only=True):
    """An instruction whose signature, body, target and scope were checked; its times and its revision were not."""

    claims: Claims
    operator: Operator
    body: Body


def audience_of(cluster: ClusterId, epoch: int) -> str:
    """What a token's `aud` must be: a restored cluster has another epoch, so its old tokens end."""
    return f"{cluster}.{epoch}"


def encode_body(body: Body) -> bytes:
    """The body as JSON, the same bytes for the same body."""
    return _encoder.encode(body)


def body_digest(body: bytes) -> Digest:
    """The sha256, hexadecimal, that a token binds as `bdg`."""
    return hashlib.sha256(body).hexdigest()


def new_jti() -> Jti:
    """A fresh token id: 128 random bits, hexadecimal."""
    return secrets.token_hex(16)


def sign_instruction(
    key: Ed25519PrivateKey,
    *,
    operator_name: OperatorName,
    cluster: ClusterId,
    epoch: int,
    act: Act,
    target: Target,
    revision: int,
    body_bytes: bytes,
    now_s: float,
    ttl_s: int = MAX_TTL_S,
    jti: Jti | None = None,
    digest: Digest | None = None,
) -> str:
    """A `deploy+jwt` that binds `body_bytes` (see `encode_body`); `now_s` is seconds since the epoch, cluster's clock.

    `digest` binds a body that the cluster holds and the signer doesn't; `body_bytes` is empty then.

    `revision` is the target's present one + 1. Raises InputError when a claim is out of its bounds.
    """
    claims = {
        "iss": operator_name,
        "aud": audience_of(cluster, epoch),
        "iat": int(now_s),
        "exp": int(now_s) + ttl_s,
        "jti": jti if jti is not None else new_jti(),
        "act": act,
        "target": target,
        "rev": revision,
        "bdg": digest if digest is not None else body_digest(body_bytes),
    }
    return write_token(key, "deploy+jwt", convert(claims, Claims, "claims"))


def read_instruction(
    token: str, body: bytes, operators: Mapping[OperatorName, Operator], audience: str, *, verify: bool = True
) -> VerifiedInstruction:
    """Everything about an instruction that doesn't depend on time or state; a pure function, so `apply` uses it too.

    `verify=False` skips only the signature: `apply` uses it for what this agent has verified before. An agent reads an
    instruction up to three times (from its API or a peer, at admission, in `apply`), so the newest that held are
    remembered, by everything that the answer depends on, and separately from those whose signature was skipped.

    Raises NotAuthenticated (token, signature, body's digest), NotAllowed (scope, stack) or InputError (TooLarge too):
    act and target don't go together, or the body isn't the act's.
    """
    if isinstance(token, str) and len(token) <= MAX_TOKEN_BYTES and len(body) <= MAX_REMEMBERED_BODY_BYTES:
        signer = operators.get(_signer(token))
        if signer is not None:
            return _remembered(token, body, signer, audience, verify=verify)
    return _read(token, body, operators, audience, verify=verify)


@lru_cache(REMEMBERED)
def _signer(token: str) -> OperatorName:
    """The operator that the token claims to be by, *not verified*; empty for text that isn't a token."""
    try:
        return unverified_claims(token).iss
    except InputError:
        return ""


@lru_cache(REMEMBERED)
def _remembered(token: str, body: bytes, signer: Operator, audience: str, *, verify: bool) -> VerifiedInstruction:
    """Refusals aren't remembered: they raise."""
    return _read(token, body, {signer.name: signer}, audience, verify=verify)


def _read(
    token: str, body: bytes, operators: Mapping[OperatorName, Operator], audience: str, *, verify: bool
) -> VerifiedInstruction:
    def key_for(claims: Claims) -> QuickKey | Ed25519PublicKey | None:
        operator = operators.get(claims.iss)
        return quick_key_of(operator.key) if operator is not None else None

    claims = read_token(token, typ="deploy+jwt", claims_type=Claims, audience=audience, key_for=key_for, verify=verify)
    if not hmac.compare_digest(body_digest(body), claims.bdg):
        raise NotAuthenticated("the body isn't the one that was signed", where="bdg")
    operator = operators[claims.iss]
    kind, _, name = claims.target.partition(":")
    if kind not in TARGET_KINDS[claims.act]:
        known = " or ".join(sorted(TARGET_KINDS[claims.act]))
        raise InputError(f"{claims.act} changes a {known}, not {claims.target}", where="target")
    check_scope(operator, claims.act, claims.target)
    parsed = decode_json(body, BODIES[claims.act], max_bytes=MAX_BODY_BYTES)
    _check_names(parsed, kind, name)
    return VerifiedInstruction(claims=claims, operator=operator, body=parsed)


def _check_names(body: Body, kind: str, name: str) -> None:
    """A body that names its own target must name the one in the claims."""
    where, named = "", name
    if isinstance(body, Stack):
        where, named = "$.name", body.name
    elif isinstance(body, Enrol):
        where, named = "$.member.id", body.member.id
    elif isinstance(body, Grant):
        where, named = "$.operator.name", body.operator.name
    elif isinstance(body, GrantKey):
        where, named = "$.key.name", body.key.name
    if named != name:
        raise InputError(f"the body is for {kind}:{named}, the token for {kind}:{name}", where=where)


def check_times(claims: Claims, now_s: float, skew_s: float = DEFAULT_SKEW_S) -> None:
    """Only for admission: verifying a stored instruction again must not look at `iat` and `exp`.

    `now_s` is seconds since the epoch. Raises NotAuthenticated.
    """
    fix = (
        "Sign again; `agent` takes the time from the cluster, so look at this machine's clock if you signed elsewhere."
    )
    if not 0 < claims.exp - claims.iat <= MAX_TTL_S:
        raise NotAuthenticated(f"the token is valid for more than {MAX_TTL_S} s, or for none", where="exp", fix=fix)
    if claims.iat > now_s + skew_s:
        raise NotAuthenticated(f"the token was signed {claims.iat - now_s:.0f} s in the future", where="iat", fix=fix)
    if claims.exp <= now_s - skew_s:
        raise NotAuthenticated(f"the token expired {now_s - claims.exp:.0f} s ago", where="exp", fix=fix)


def unverified_claims(token: str) -> Claims:
    """The claims by form alone, *not verified*; for messages and look-ups. Raises InputError."""
    return peek(token, typ="deploy+jwt", claims_type=Claims)
