"""Ed25519 keys of operators and agents, as hexadecimal, PEM and key ids."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache, lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agent.errors import InputError

REMEMBERED_KEYS = 256  # read once: those of operators, and of members that say hello or probe
SIGNATURE_BYTES = 64  # RFC 8032 §5.1.6
KID_LENGTH = 32  # 128 bits in hexadecimal

# Nothing, signed by the secret 1 with a point of order 8 in the commitment: it holds times the cofactor alone.
_LAX_KEY = bytes.fromhex("5866666666666666666666666666666666666666666666666666666666666666")
_LAX_SIGNATURE = bytes.fromhex(
    "98519eadf35b995233b51b5cd23e9cc5a28b639b5a4af0ec903cb960d81b7819"
    "fd13cd52ad7f2d0665cf991059cd7a5d7b48c5cb5794f9ac3fbe47f7cf629001"
)


def new_key() -> Ed25519PrivateKey:
    """A fresh signing key from the operating system's randomness."""
    return Ed25519PrivateKey.generate()


def public_hex(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """The raw 32-byte public key in hexadecimal, as models hold it."""
    public = key.public_key() if isinstance(key, Ed25519PrivateKey) else key
    return public.public_bytes_raw().hex()


@lru_cache(REMEMBERED_KEYS)
def public_key_of(text: str) -> Ed25519PublicKey:
    """The key of 64 hexadecimal characters. Raises InputError for anything else."""
    try:
        return Ed25519PublicKey.from_public_bytes(bytes.fromhex(text))
    except ValueError:
        raise InputError("not an Ed25519 public key of 64 hexadecimal characters") from None


class QuickKey:
    """A public key of many signatures: libsodium checks one in half of the time that OpenSSL takes.

    For a libsodium that `libsodium_is_strict`, as OpenSSL is; it also refuses points of small order and keys that
    aren't in their one spelling. So what it takes OpenSSL takes, and what it refuses OpenSSL is asked again: the
    answer is OpenSSL's for whatever key and signature, at every agent of every version.
    """

    def __init__(self, text: str) -> None:
        """Raises InputError as `public_key_of`."""
        self._key = public_key_of(text)
        self._raw = self._key.public_bytes_raw()
        self._open, self._refusal = _libsodium()

    def public_bytes_raw(self) -> bytes:
        """As an Ed25519PublicKey's."""
        return self._raw

    def verify(self, signature: bytes, signed: bytes) -> None:
        """Raises InvalidSignature."""
        if len(signature) == SIGNATURE_BYTES:
            try:
                self._open(signature + signed, self._raw)
            except self._refusal:
                pass  # OpenSSL has the last word
            else:
                return
        self._key.verify(signature, signed)


@cache
def libsodium_is_strict() -> bool:
    """Whether the one here checks RFC 8032's equation without the cofactor (§5.1.7), as OpenSSL does.

    PyNaCl's have done so far; libsodium's later sources check the other one, which takes more.
    """
    check, refusal = _libsodium()
    try:
        check(_LAX_SIGNATURE, _LAX_KEY)
    except refusal:
        return True
    return False


def _libsodium() -> tuple[Callable[[bytes, bytes], bytes], type[Exception]]:
    """Its check of a signature with what was signed behind it, by a raw key; and what that raises."""
    from nacl.bindings import crypto_sign_open  # 7 ms that commands needn't wait for
    from nacl.exceptions import BadSignatureError

    return crypto_sign_open, BadSignatureError


@lru_cache(REMEMBERED_KEYS)
def quick_key_of(text: str) -> QuickKey | Ed25519PublicKey:
    """As `public_key_of`: for the keys of operators."""
    return QuickKey(text) if libsodium_is_strict() else public_key_of(text)


@lru_cache(REMEMBERED_KEYS)
def kid_of(public_key: bytes) -> str:
    """The key id of a raw public key, as a token's header names it: 32 hexadecimal characters of its sha256."""
    return hashlib.sha256(b"muster key id\x00" + public_key).hexdigest()[:KID_LENGTH]


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """The key as unencrypted PKCS #8 PEM, for a file that only its owner can read."""
    from cryptography.hazmat.primitives import serialization  # 20 ms that most commands needn't wait for

    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def private_key_of(pem: bytes, *, where: str = "") -> Ed25519PrivateKey:
    """The Ed25519 key in PKCS #8 PEM. Raises InputError, without the contents, for anything else."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization  # as above

    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError("not an unencrypted private key in PEM", where=where) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError("not an Ed25519 key", where=where)
    return key
