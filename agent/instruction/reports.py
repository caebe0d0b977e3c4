"""A host's report, signed for one coordinator's term: whoever relays it can withhold it but not change it
(docs/security.md "What a taken part can do").
"""

from __future__ import annotations

from collections.abc import Callable

from cryptography.exceptions import InvalidSignature

from agent.errors import InputError
from agent.instruction.keys import public_key_of
from agent.model.types import PublicKey

SIGNATURE_BYTES = 64  # RFC 8032 §5.1.6

_CONTEXT = b"muster report\x00"  # a signature over a report can be none over anything else


def sign_report(sign: Callable[[bytes], bytes], *, audience: str, term: int, report: bytes) -> bytes:
    """The signature over exactly these bytes. `sign`: by the host's key; `audience` is `<cluster id>.<epoch>`."""
    return sign(_signed(audience, term, report))


def is_signed_report(key: PublicKey, signature: bytes, *, audience: str, term: int, report: bytes) -> bool:
    """Whether the holder of `key` signed exactly these bytes for this cluster, epoch and term."""
    try:
        public_key_of(key).verify(signature, _signed(audience, term, report))
    except (InvalidSignature, InputError):
        return False
    return True


def _signed(audience: str, term: int, report: bytes) -> bytes:
    return _CONTEXT + f"{audience} {term}\x00".encode() + report
