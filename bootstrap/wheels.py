"""Distributions' files: those installed beside us, or wheels that pip fetches for another Python or machine."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from collections.abc import Iterable, Sequence
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path, PurePosixPath
from typing import Final

from agent.errors import MusterError, NotFound
from bootstrap.lockfile import PROJECT, Locked, normal

DOWNLOAD_TIMEOUT_S: Final = 600.0  # 20 MB over a slow line
MAX_SHOWN_CHARACTERS: Final = 400

# What runs nothing: stubs, sources of extension modules, tests; and what differs from one installation to the next.
_UNUSED: Final = re.compile(
    r"(?:^|/)(?:__pycache__|tests?)/|\.(?:pyc|pyi|pyx|pxd|pxi|c|h|cpp|hpp)$|"
    r"\.dist-info/(?:RECORD|INSTALLER|REQUESTED|direct_url\.json)$"
)
LEFT_OUT: Final = frozenset({"markdown-it-py", "mdurl", "pycparser", "pygments"})
"""A third of the files, for what never happens on a host: rich's Markdown and source code, cffi's compiler."""

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")

_GLIBC: Final = ("2_17", "2_24", "2_26", "2_27", "2_28")
"""The manylinux tags (PEP 600) that any distribution with Python 3.11 can run."""
_MUSL: Final = ("1_1", "1_2")


def installed_versions() -> dict[str, str]:
    """Name → version of what the project needs, except itself. Raises NotFound."""
    return {normal(each.name): each.version for each in _installed()}


def installed_files() -> dict[str, bytes]:
    """The files of the installed distributions that the project needs, by their paths below site-packages."""
    files: dict[str, bytes] = {}
    for each in _installed():
        for path in each.files or ():
            if ".." not in path.parts and not PurePosixPath(path).is_absolute() and not _UNUSED.search(str(path)):
                files[str(path)] = Path(str(each.locate_file(path))).read_bytes()
    return files


def platforms(machine: str, libc: str) -> tuple[str, ...]:
    """pip's platform tags for a host."""
    if libc == "musl":
        return tuple(f"musllinux_{version}_{machine}" for version in _MUSL)
    return (*(f"manylinux_{version}_{machine}" for version in _GLIBC), f"manylinux2014_{machine}")


def download(locked: Sequence[Locked], python: tuple[int, int], tags: Iterable[str], directory: Path) -> list[Path]:
    """Fetch exactly these wheels; each must have one of the locked hashes. Raises MusterError."""
    (directory / "requirements.txt").write_text("".join(f"{each.requirement}\n" for each in locked))
    wheels = directory / "wheels"
    argv = [sys.executable, "-m", "pip", "download", "--disable-pip-version-check", "--no-input", "--quiet"]
    argv += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--implementation", "cp"]
    argv += ["--python-version", f"{python[0]}.{python[1]}"]
    argv += [part for tag in tags for part in ("--platform", tag)]
    argv += ["--requirement", str(directory / "requirements.txt"), "--dest", str(wheels)]
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=DOWNLOAD_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise MusterError(f"pip didn't end within {DOWNLOAD_TIMEOUT_S:g} s", fix="Run this again.") from None
    if done.returncode != 0:
        said = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or [done.stderr.strip()]
        fix = f"This needs the package index, or Python {sys.version_info[0]}.{sys.version_info[1]} on the host."
        raise MusterError(f"wheels can't be fetched: {said[-1][:MAX_SHOWN_CHARACTERS]}", fix=fix)
    return sorted(wheels.glob("*.whl"))


def unpack(wheels: Iterable[Path]) -> dict[str, bytes]:
    """The files of wheels, where an installer would put them (PEP 427). Raises MusterError for paths that lead out."""
    files: dict[str, bytes] = {}
    for wheel in wheels:
        with zipfile.ZipFile(wheel) as archive:
            for info in archive.infolist():
                path = _place(info.filename)
                if path is None or info.is_dir() or _UNUSED.search(path):
                    continue
                if path.startswith("/") or ".." in PurePosixPath(path).parts:
                    raise MusterError(f"a path that leads out of it: {path}", where=wheel.name)
                files[path] = archive.read(info)
    return files


def _place(name: str) -> str | None:
    """`x-1.data/purelib/x.py` is `x.py`; other parts of `.data` (scripts, headers) have no place."""
    first, _, rest = name.partition("/")
    if not first.endswith(".data"):
        return name
    kind, _, path = rest.partition("/")
    return path if kind in ("purelib", "platlib") and path else None


def _installed() -> list[Distribution]:
    """The project's needs and what these need, as far as installed: what a marker excludes here isn't."""
    found: dict[str, Distribution] = {}
    rounds = [_distribution(PROJECT)]
    while rounds:
        for requirement in rounds.pop().requires or ():
            match = _NAME.match(requirement)
            if match is None or "extra ==" in requirement or normal(match[0]) in LEFT_OUT | found.keys():
                continue
            try:
                found[normal(match[0])] = distribution(match[0])
            except PackageNotFoundError:
                if ";" in requirement:
                    continue
                raise NotFound(f"{match[0]} isn't installed beside Muster", fix="Install Muster again.") from None
            rounds.append(found[normal(match[0])])
    return [found[name] for name in sorted(found)]


def _distribution(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        raise NotFound(
            "Muster isn't installed as a distribution", fix="Install it with pip, or use the checkout's venv."
        ) from None
