"""Ed25519 keys of operators and agents, as hexadecimal, PEM and key ids."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from agent.errors import InputError

REMEMBERED_KEYS = 256  # read once: those of operators, and of members that say hello or probe
KID_LENGTH = 32  # 128 bits in hexadecimal


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
    from cryptography.hazmat.primitives import serialization  # as above

    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnicodeError):
        raise InputError("not an unencrypted private key in PEM", where=where) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError("not an Ed25519 key", where=where)
    return key
