"""Makes text from others safe to print: nothing in it can steer the terminal."""

from __future__ import annotations

import re

_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """One line without control characters: colours are dropped, anything else becomes U+FFFD."""
    return _CONTROL.sub("\ufffd", _COLOURS.sub("", text))


def clean_lines(text: str) -> str:
    """The same for text of several lines."""
    return "\n".join(map(clean, text.split("\n")))
