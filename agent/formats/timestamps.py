"""Times as RFC 3339 in UTC, the only form that files, the API and beacons carry."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from functools import lru_cache

from agent.errors import InputError
from agent.model.explain import shown

REMEMBERED_SECONDS = 64  # as text: events come in bursts

_RFC3339_UTC = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,9})?Z", re.ASCII)


def rfc3339(ms: int) -> str:
    """Milliseconds since the epoch as "2024-01-15T10:30:15.123Z"; whole seconds without the fraction."""
    seconds, fraction = divmod(ms, 1000)
    text = _second(seconds)
    return f"{text}.{fraction:03d}Z" if fraction else f"{text}Z"


@lru_cache(REMEMBERED_SECONDS)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def parse_rfc3339_ms(text: str, *, where: str = "") -> int:
    """The milliseconds since the epoch of an RFC 3339 time in UTC ("…Z"). Raises InputError."""
    if _RFC3339_UTC.fullmatch(text) is None:
        raise InputError(f'expected a time such as "2024-01-15T10:30:00Z", got {shown(text)}', where=where)
    try:
        whole = datetime.fromisoformat(text[:19]).replace(tzinfo=UTC)
    except ValueError:
        raise InputError(f"no such time: {shown(text)}", where=where) from None
    return int(whole.timestamp()) * 1000 + int(text[20:-1].ljust(3, "0")[:3] or 0)
