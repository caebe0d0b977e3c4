"""Text that others wrote, for a terminal: nothing in it steers that."""

from __future__ import annotations

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """One line without control characters: colours go, anything else shows as U+FFFD."""
    return _CONTROL.sub("\ufffd", _COLOURS.sub("", text))


def clean_lines(text: str) -> str:
    """The same for text whose lines count."""
    return "\n".join(map(clean, text.split("\n")))
