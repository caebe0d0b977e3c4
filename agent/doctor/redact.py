"""Taking out of a document what must not leave a host: keys, tokens, values of environment variables. Pure.

A second line of defence: what is gathered holds none by itself. It works on text that people or programs wrote.
"""

from __future__ import annotations

import re
from typing import Any, Final

GONE: Final = "(redacted)"

_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]*(?:KEY|CERTIFICATE)-----.*?(?:-----END [A-Z0-9 ]*-----|\Z)", re.DOTALL)
_TOKEN = re.compile(r"\bey[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*)?")
_CREDENTIALS = re.compile(r"(?<=://)[^/\s@]+(?=@)")
_BEARER = re.compile(r"(?i)\b(bearer|basic)(\s+)[A-Za-z0-9._~+/=-]{8,}")
_ASSIGNED = re.compile(
    r"(?i)([\"']?[\w.-]*(?:passw(?:or)?d|passphrase|secret|token|api[_-]?key|private[_-]?key|credential)[\w.-]*[\"']?"
    r"\s*[=:]\s*)(\"[^\"]*\"|'[^']*'|[^\s,;&]+)"
)
_VARIABLE = re.compile(r"\b([A-Z][A-Z0-9_]{2,}=)(\"[^\"]*\"|'[^']*'|[^\s,;]+)")
_OPENSSH = re.compile(r"\b(?:ssh-(?:rsa|ed25519)|ecdsa-sha2-\w+) [A-Za-z0-9+/=]{40,}")

_SECRET_KEYS = re.compile(r"(?i)passw|passphrase|secret|token|private|credential|api[_-]?key|environment|^env$")


def redact(value: Any) -> Any:
    """The same document of plain objects; `redact(redact(x)) == redact(x)`, and what is no text stays."""
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, dict):
        return {key: GONE if _hides(key, item) else redact(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redact(item) for item in value]
    return value


def redact_text(text: str) -> str:
    """Private keys, certificates, tokens, passwords in addresses, and values behind names that say what they are."""
    text = _PEM.sub(GONE, text)
    text = _TOKEN.sub(GONE, text)
    text = _OPENSSH.sub(GONE, text)
    text = _CREDENTIALS.sub(GONE, text)
    text = _BEARER.sub(rf"\1\2{GONE}", text)
    text = _ASSIGNED.sub(rf"\1{GONE}", text)
    return _VARIABLE.sub(rf"\1{GONE}", text)


def _hides(key: Any, item: Any) -> bool:
    return isinstance(key, str) and bool(_SECRET_KEYS.search(key)) and isinstance(item, str | dict) and bool(item)
