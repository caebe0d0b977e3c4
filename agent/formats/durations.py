"""Durations and sizes as people write them: "1m30s", "500ms", "512m". Inside, milliseconds and MiB."""

from __future__ import annotations

import re

from agent.errors import InputError
from agent.model.explain import shown

MAX_TEXT_LENGTH = 32  # longer than any sum of units that makes sense

_UNITS_MS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
_DURATION = re.compile(r"(?:\d{1,9}(?:\.\d{1,3})?(?:ms|[hms]))+", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|[hms])", re.ASCII)

_SIZE = re.compile(r"(\d{1,12}(?:\.\d{1,3})?) ?([kmgt]?)(?:i?b)?", re.ASCII | re.IGNORECASE)
_SIZE_BYTES = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4}
_MIB = 1024**2


def parse_duration_ms(text: str, *, where: str = "") -> int:
    """ "30s", "1m30s", "1.5h", "500ms" as milliseconds, as Docker and Go write them. Raises InputError."""
    if len(text) > MAX_TEXT_LENGTH or _DURATION.fullmatch(text) is None:
        raise InputError(f'expected a duration such as "30s", "1m30s" or "500ms", got {shown(text)}', where=where)
    return round(sum(float(number) * _UNITS_MS[unit] for number, unit in _PART.findall(text)))


def duration_text(ms: int) -> str:
    """Milliseconds, shortest exact form that `parse_duration_ms` reads back: 90000 is "1m30s", 150 is "150ms"."""
    parts = []
    for unit, length in _UNITS_MS.items():
        count, ms = divmod(ms, length)
        if count:
            parts.append(f"{count}{unit}")
    return "".join(parts) or "0s"


def parse_memory_mib(text: str, *, where: str = "") -> int:
    """ "512m", "2g", "512MiB" as MiB, rounded up; units are powers of 1024 as Docker has them. Raises InputError."""
    match = _SIZE.fullmatch(text) if len(text) <= MAX_TEXT_LENGTH else None
    if match is None:
        raise InputError(f'expected a size such as "512m" or "2g", got {shown(text)}', where=where)
    return -(-round(float(match[1]) * _SIZE_BYTES[match[2].lower()]) // _MIB)
