"""The strict JWT under all our tokens (RFC 7519, RFC 8037): one header shape, one algorithm, exact claims.

The reader leaves nothing open: duplicate keys, padding, types of claims, `typ` and lone surrogates are checked. Times
are claims like others: whoever admits a token checks them.
"""

import base64
import binascii
from collections.abc import Callable
from functools import lru_cache
from typing import Annotated, Any, Generic, Literal, NamedTuple, TypeVar

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import Meta, Struct

from agent.errors import InputError, InvariantBroken, MusterError, NotAuthenticated
from agent.instruction.keys import QuickKey, kid_of, public_hex
from agent.model.decode import decode_json
from agent.model.instruction import MAX_TOKEN_BYTES

Typ = Literal["deploy+jwt", "genesis+jwt", "access+jwt", "peer+jwt", "blob+jwt", "request+jwt", "backup+jwt"]

_C = TypeVar("_C", bound=Struct)

REMEMBERED = 256  # tokens taken apart; more than are between admission and `apply` at one time. 4 KiB each at most
REMEMBERED_HEADERS = 64  # a key's tokens of one kind all have the same

# base64url's characters as base64's; those that are base64's alone, padding too, become one that neither has.
_TO_BASE64 = bytes.maketrans(b"-_+/=", b"+/!!!")
_SIGNATURE_CHARACTERS = 86  # 64 bytes
# The last character of a part that isn't whole groups of four holds bits that no byte has: zero in these alone.
_NO_STRAY_BITS = {2: "AQgw", 3: "AEIMQUYcgkosw048"}


class Header(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Exactly these three. `kid` only looks up a key."""

    alg: Literal["EdDSA"]
    typ: Typ
    kid: Annotated[str, Meta(pattern=r"\A[0-9a-f]{32}\Z")]


class _Parts(NamedTuple, Generic[_C]):
    """A token taken apart: what it claims, *not verified yet*, and what its signature covers (RFC 7515 §5.2)."""

    header: Header
    claims: _C
    signed: bytes
    signature: bytes


def write_token(key: Ed25519PrivateKey, typ: Typ, claims: Struct) -> str:
    """The claims signed by `key` (RFC 7515 §7.1)."""
    header = Header(alg="EdDSA", typ=typ, kid=kid_of(bytes.fromhex(public_hex(key))))
    signed = f"{_base64url(msgspec.json.encode(header))}.{_base64url(msgspec.json.encode(claims))}"
    token = f"{signed}.{_base64url(key.sign(signed.encode('ascii')))}"
    if len(token) > MAX_TOKEN_BYTES:
        raise InvariantBroken(f"a {typ} of {len(token)} bytes: its claims have bounds that exclude this")
    return token


def read_token(
    token: str,
    *,
    typ: Typ,
    claims_type: type[_C],
    audience: str,
    key_for: Callable[[_C], Ed25519PublicKey | QuickKey | None],
    verify: bool = True,
) -> _C:
    """The claims of a token of that kind, for that audience, signed by the key that `key_for` names.

    `key_for` gets the claims before they are verified, and returns the one key that may have made them, or None.
    `verify=False` skips only the signature, for a token that the caller has verified before. Raises NotAuthenticated,
    which says no more than which kind of token was refused.
    """
    try:
        header, claims, signed, signature = _take_apart(token, typ, claims_type)
        key = key_for(claims)
        if key is None or header.kid != kid_of(key.public_bytes_raw()):
            raise NotAuthenticated("the key isn't known")
        if getattr(claims, "aud", None) != audience:
            raise NotAuthenticated("it is for another audience")
        if verify:
            key.verify(signature, signed)
    except (ImportError, MemoryError):  # ours, not the token's: others would go on to read the same ledger another way
        raise
    except Exception as error:  # noqa: BLE001 - whatever a hostile token provokes below gets the same answer
        reason = error.what if isinstance(error, MusterError) else type(error).__name__
        raise NotAuthenticated(f"the {typ} token isn't valid ({reason})") from None
    return claims


def peek(token: str, *, typ: Typ, claims_type: type[_C]) -> _C:
    """The claims by form alone, *not verified*. Raises InputError."""
    return _take_apart(token, typ, claims_type).claims


def _take_apart(token: str, typ: Typ, claims_type: type[_C]) -> _Parts[_C]:
    # Before it is remembered: a ledger's entry may have megabytes here.
    if len(token) > MAX_TOKEN_BYTES:
        raise InputError(f"more than {MAX_TOKEN_BYTES} characters")
    parts: _Parts[_C] = _parts(token, typ, claims_type)
    return parts


@lru_cache(REMEMBERED)
def _parts(token: str, typ: Typ, claims_type: type[Any]) -> _Parts[Any]:
    """Cached, since a token is read more than once: from an API or a peer, at admission, in `apply`. Errors aren't
    cached.
    """
    parts = token.split(".")
    if len(parts) != 3 or len(parts[-1]) != _SIGNATURE_CHARACTERS:
        raise InputError("not three parts of base64url")
    head, payload, signature = parts
    header = _header(head)
    if header.typ != typ:
        raise InputError(f"the token is a {header.typ}")
    claims = decode_json(_canonical(payload), claims_type, where="claims", max_bytes=MAX_TOKEN_BYTES)
    return _Parts(header, claims, f"{head}.{payload}".encode(), _canonical(signature))


@lru_cache(REMEMBERED_HEADERS)
def _header(part: str) -> Header:
    return decode_json(_canonical(part), Header, where="header", max_bytes=MAX_TOKEN_BYTES)


def _canonical(part: str) -> bytes:
    """The bytes of a part, in the one spelling that they have (RFC 7515 §2, RFC 4648 §3.5)."""
    if part[-1:] not in _NO_STRAY_BITS.get(len(part) % 4, part[-1:]):
        raise InputError("base64url with stray bits")
    try:
        return binascii.a2b_base64(
            part.encode("ascii").translate(_TO_BASE64) + b"=" * (-len(part) % 4), strict_mode=True
        )
    except (UnicodeEncodeError, binascii.Error):  # other characters, or a length that no bytes have
        raise InputError("not base64url") from None


def _base64url(data: bytes) -> str:
    """Without padding (RFC 7515 §2)."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")
