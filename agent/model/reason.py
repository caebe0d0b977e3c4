"""Reasons that end with a program's last words: one line, from the host's report through the ledger to a screen."""

from __future__ import annotations

from collections.abc import Iterable

_JOINT = " | "


def with_output(sentence: str, lines: Iterable[str]) -> str:
    """The sentence, and what the program wrote last."""
    return _JOINT.join((sentence, *lines)) if sentence else ""


def with_note(reason: str, note: str) -> str:
    """The reason with something more in its sentence, before any output."""
    sentence, joint, output = reason.partition(_JOINT)
    return f"{sentence}{note}{joint}{output}"


def split_reason(reason: str) -> tuple[str, tuple[str, ...]]:
    """The sentence and the lines behind it. A line of output that itself has " | " comes as several."""
    sentence, *lines = reason.split(_JOINT)
    return sentence, tuple(lines)
