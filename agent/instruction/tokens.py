"""The strict JWT under all our tokens (RFC 7519, RFC 8037): one header shape, one algorithm, exact claims.

PyJWT checks the signature and the audience; everything it leaves open (duplicate keys, padding, types of claims, `typ`,
lone surrogates) is closed here. Times are claims like others: who admits a token checks them.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import Annotated, Literal, TypeVar

import jwt
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta, Struct

from agent.errors import InputError, InvariantBroken, MusterError, NotAuthenticated
from agent.instruction.keys import kid_of, public_hex
from agent.model.decode import decode_json
from agent.model.instruction import MAX_TOKEN_BYTES

Typ = Literal["deploy+jwt", "genesis+jwt", "access+jwt", "peer+jwt", "blob+jwt", "request+jwt", "backup+jwt"]

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]{86}")
_C = TypeVar("_C", bound=Struct)

_OPTIONS: jwt.types.Options = {
    "strict_aud": True,
    # Times are checked at admission, against the clock that the caller passes; PyJWT would read this machine's.
    "verify_exp": False,
    "verify_iat": False,
    "verify_nbf": False,
}


class Header(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Exactly these three. `kid` looks up a key and is nothing else."""

    alg: Literal["EdDSA"]
    typ: Typ
    kid: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]


def write_token(key: Ed25519PrivateKey, typ: Typ, claims: Struct) -> str:
    """The claims signed by `key`."""
    headers = {"typ": typ, "kid": kid_of(bytes.fromhex(public_hex(key)))}
    token = jwt.encode(msgspec.to_builtins(claims), key, algorithm="EdDSA", headers=headers)
    if len(token) > MAX_TOKEN_BYTES:
        raise InvariantBroken(f"a {typ} of {len(token)} bytes: its claims have bounds that exclude this")
    return token


def read_token(
    token: str,
    *,
    typ: Typ,
    claims_type: type[_C],
    audience: str,
    key_for: Callable[[_C], Ed25519PublicKey | None],
    verify: bool = True,
) -> _C:
    """The claims of a token of that kind, for that audience, signed by the key that `key_for` names.

    `key_for` gets claims that nobody vouches for yet, and gives the one key that may have made them, or None.
    `verify=False` leaves out the signature alone, for a token whose signature the caller has seen hold before. Raises
    NotAuthenticated, which says no more than which kind of token was refused.
    """
    try:
        header, claims = peek(token, typ=typ, claims_type=claims_type)
        key = key_for(claims)
        if key is None or header.kid != kid_of(bytes.fromhex(public_hex(key))):
            raise NotAuthenticated("the key isn't known")
        if not verify:
            if msgspec.to_builtins(claims).get("aud") != audience:
                raise NotAuthenticated("InvalidAudienceError")
            return claims
        verified = jwt.decode_complete(
            token,
            key,
            algorithms=["EdDSA"],
            audience=audience,
            options={**_OPTIONS, "require": list(claims_type.__struct_encode_fields__)},
        )
        if (verified["header"], verified["payload"]) != (msgspec.to_builtins(header), msgspec.to_builtins(claims)):
            raise NotAuthenticated("two readings of one token")
    except Exception as error:  # noqa: BLE001 - whatever a hostile token provokes below gets the same answer
        reason = error.what if isinstance(error, MusterError) else type(error).__name__
        raise NotAuthenticated(f"the {typ} token isn't valid ({reason})") from None
    return claims


def peek(token: str, *, typ: Typ, claims_type: type[_C]) -> tuple[Header, _C]:
    """Header and claims by form alone, *not verified*. Raises InputError."""
    # A str's length in characters is its length in bytes once the pattern, which is ASCII, has matched.
    if len(token) > MAX_TOKEN_BYTES or _TOKEN.fullmatch(token) is None:
        raise InputError("not three parts of base64url, or too long")
    head, payload, signature = token.split(".")
    header = decode_json(_canonical(head), Header, where="header", max_bytes=MAX_TOKEN_BYTES)
    if header.typ != typ:
        raise InputError(f"the token is a {header.typ}")
    _canonical(signature)
    return header, decode_json(_canonical(payload), claims_type, where="claims", max_bytes=MAX_TOKEN_BYTES)


def _canonical(part: str) -> bytes:
    """The bytes of base64url without padding, in the one spelling they have (RFC 7515 §2, RFC 4648 §3.5)."""
    try:
        data = base64.b64decode(part + "=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        raise InputError("not base64url") from None
    if base64.urlsafe_b64encode(data).rstrip(b"=").decode() != part:
        raise InputError("base64url with stray bits")
    return data
