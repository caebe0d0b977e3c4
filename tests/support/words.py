"""Words that nobody else can give: agents of tests sign with a secret that follows from their id, at little cost."""

from __future__ import annotations

import hashlib
from collections.abc import Callable


def signing_as(agent: str) -> Callable[[bytes], bytes]:
    """The same for the same bytes each time, as Ed25519 does (RFC 8032), and as long."""
    return lambda data: hashlib.blake2b(data, key=agent.encode()[:64], digest_size=64).digest()
