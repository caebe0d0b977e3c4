"""API keys: 32 random bytes that read the API. The cluster keeps their sha256, which tells nothing about them.

`muster_` and the bytes in base64url: a fixed form that secret scanners find, and that no JWT has.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from collections.abc import Mapping

from agent.model.cluster import ApiKey
from agent.model.types import Digest, OperatorName

PREFIX = "muster_"
_KEY = re.compile(r"muster_[A-Za-z0-9_-]{43}")


def new_api_key() -> str:
    """A fresh key. Whoever has it can read; it can't be shown again."""
    return PREFIX + urlsafe_b64encode(secrets.token_bytes(32)).decode().rstrip("=")


def digest_of_api_key(key: str) -> Digest:
    """What the ledger stores of the key. No salt or stretching: 256 random bits can't be guessed."""
    return hashlib.sha256(key.encode()).hexdigest()


def is_api_key(token: str) -> bool:
    """By its form alone."""
    return _KEY.fullmatch(token) is not None


def find_api_key(token: str, keys: Mapping[OperatorName, ApiKey]) -> ApiKey | None:
    """The cluster's key that this is, if any; each is compared in constant time."""
    digest, found = digest_of_api_key(token), None
    for key in keys.values():
        if hmac.compare_digest(key.sha256, digest):
            found = key
    return found
