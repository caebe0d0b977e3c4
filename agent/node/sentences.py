"""Parts of sentences for people. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def all_of(names: Sequence[str]) -> str:
    """ "n1", "n1 and n2", "n1, n2 and n3"."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def start_again(names: Sequence[str]) -> str:
    """What to do about voters that can't be reached: the beginning of a sentence."""
    them = "it" if len(names) == 1 else "them"
    return f"Start {all_of(names)} again, or check the network to {them} on the peer port"
