"""Tokens as an attacker makes them: any header, any payload bytes, any signature."""

from __future__ import annotations

import base64
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.instruction import kid_of


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))


def forge(key: Ed25519PrivateKey, header: dict[str, Any] | bytes, payload: dict[str, Any] | bytes) -> str:
    """A token with a *valid* signature over whatever header and payload are given."""
    head = header if isinstance(header, bytes) else json.dumps(header).encode()
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    signed = f"{b64(head)}.{b64(body)}"
    return f"{signed}.{b64(key.sign(signed.encode()))}"


def parts(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    head, payload, _ = token.split(".")
    return json.loads(unb64(head)), json.loads(unb64(payload))


def header_of(key: Ed25519PrivateKey, typ: str = "deploy+jwt") -> dict[str, Any]:
    return {"alg": "EdDSA", "typ": typ, "kid": kid_of(key.public_key().public_bytes_raw())}
