"""The part of requirements.lock that bundles need: what runs on a host, with versions and hashes. Pure."""

from __future__ import annotations

import re
from typing import Final

from msgspec import Struct

from agent.errors import InputError

PROJECT: Final = "muster"

_REQUIREMENT: Final = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)==([^\s;\\]+)\s*(?:;\s*([^\\]*))?\\?\s*")
_HASH: Final = re.compile(r"\s+--hash=(sha256:[0-9a-f]{64})\s*\\?\s*")
_VIA: Final = re.compile(r"\s+#\s+(?:via\s*)?(\S+)?(?:\s+\((\S+)\))?")
_ELSEWHERE: Final = re.compile(r"""(?:sys_platform|platform_system|os_name)\s*==\s*['"](?!linux|Linux|posix)""")


class Locked(Struct, frozen=True, kw_only=True):
    """One distribution."""

    name: str
    version: str
    hashes: tuple[str, ...]

    @property
    def requirement(self) -> str:
        """As pip reads it, without a marker: whether a host needs it is already decided."""
        return " ".join([f"{self.name}=={self.version}", *(f"--hash={each}" for each in self.hashes)])


class _Entry(Struct, kw_only=True):
    name: str
    version: str
    marker: str
    hashes: list[str]
    via: set[str]


def normal(name: str) -> str:
    """A distribution's name as others compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def runtime_requirements(text: str, file: str = "requirements.lock") -> tuple[Locked, ...]:
    """What the project itself needs on Linux, and what that needs; nothing of the development group.

    Follows the file's "via" comments, as markers are for the machine that reads them. Raises InputError.
    """
    entries = _entries(text, file)
    needed: set[str] = set()
    rounds = [PROJECT]
    while rounds:
        by = rounds.pop()
        for entry in entries:
            if by in entry.via and entry.name not in needed and not _ELSEWHERE.search(entry.marker):
                needed.add(entry.name)
                rounds.append(entry.name)
    if not needed:
        raise InputError("it names nothing that the project needs", where=file)
    chosen = [entry for entry in entries if entry.name in needed]
    return tuple(Locked(name=e.name, version=e.version, hashes=tuple(e.hashes)) for e in chosen)


def _entries(text: str, file: str) -> list[_Entry]:
    entries: list[_Entry] = []
    for number, line in enumerate(text.splitlines(), 1):
        if match := _REQUIREMENT.fullmatch(line):
            name, version, marker = normal(match[1]), match[2], match[3] or ""
            entries.append(_Entry(name=name, version=version, marker=marker, hashes=[], via=set()))
        elif (match := _HASH.fullmatch(line)) and entries:
            entries[-1].hashes.append(match[1])
        elif match := _VIA.fullmatch(line):
            if match[1] and entries and (match[2] is None or not match[2].partition(":")[2]):
                entries[-1].via.add(normal(match[1]))
        elif line.strip() and not line.startswith("#"):
            raise InputError("a line that isn't understood", where=f"{file}:{number}")
    return entries
