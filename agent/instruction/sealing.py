"""A sealed box: bytes that one X25519 key can open, bound to bytes that anybody may read.

    box = 0x01 ‖ E ‖ ChaCha20-Poly1305(K, nonce 0, plaintext, associated)
    K   = HKDF-SHA256(X25519(e, R), salt = E ‖ R, info = "muster sealed box 1"), 32 bytes

E and e are a key pair made for this box alone, R is the receiver's public key: K is never used twice, so the nonce may
be constant (RFC 8439 §2.8, RFC 7748 §6.1, RFC 5869). A box says nothing about who sealed it.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from agent.errors import InputError, NotAuthenticated
from agent.model.types import PublicKey

OVERHEAD_BYTES = 1 + 32 + 16  # version, ephemeral key, tag

_VERSION = b"\x01"
_INFO = b"muster sealed box 1"
_NONCE = bytes(12)


def seal(receiver: PublicKey, plaintext: bytes, associated: bytes) -> bytes:
    """A box for that key. Raises InputError for a key that isn't one (a point of low order)."""
    public = X25519PublicKey.from_public_bytes(bytes.fromhex(receiver))
    ephemeral = X25519PrivateKey.generate()
    own = ephemeral.public_key().public_bytes_raw()
    try:
        shared = ephemeral.exchange(public)
    except ValueError:
        raise InputError("not a key that anything can be sealed to", where="sealing key") from None
    cipher = ChaCha20Poly1305(_key(shared, own + public.public_bytes_raw()))
    return _VERSION + own + cipher.encrypt(_NONCE, plaintext, associated)


def unseal(receiver: X25519PrivateKey, box: bytes, associated: bytes) -> bytes:
    """What is in the box. Raises NotAuthenticated: for another key, changed, or bound to something else."""
    refusal = NotAuthenticated("it isn't sealed for this agent, or was changed since", where="$.sealed")
    if len(box) < OVERHEAD_BYTES or box[:1] != _VERSION:
        raise refusal
    sender = box[1:33]
    try:
        shared = receiver.exchange(X25519PublicKey.from_public_bytes(sender))
        cipher = ChaCha20Poly1305(_key(shared, sender + receiver.public_key().public_bytes_raw()))
        return cipher.decrypt(_NONCE, box[33:], associated)
    except (ValueError, InvalidTag):
        raise refusal from None


def _key(shared: bytes, salt: bytes) -> bytes:
    return HKDF(algorithm=hashes.SHA256(), length=32, salt=salt, info=_INFO).derive(shared)
