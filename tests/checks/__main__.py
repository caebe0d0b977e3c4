"""Run the house rules over the tree: ``python -m tests.checks`` prints what breaks them and ends with 1."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath

from tests.checks.docs import documents, headings
from tests.checks.rules import (
    Finding,
    bare_exemptions,
    late_annotations,
    lost_references,
    sleeps,
    too_long,
    unexplained_skips,
    unfinished,
)

ROOT = Path(__file__).resolve().parents[2]
DIRECTORIES = ("agent", "bootstrap", "tests", "systemd", "docs", "examples", ".ci")
TOP_FILES = ("Makefile", "pyproject.toml", "README.md", "ARCHITECTURE.md")
SHIPPED = ("agent/", "bootstrap/")
WAITING = "tests/support/waiting.py"  # the one place that polls


def files(root: Path) -> Iterator[str]:
    """Yield the text files the rules apply to, relative to ``root``, with ``/``; raises FileNotFoundError for none."""
    found = [root / name for name in TOP_FILES if (root / name).is_file()]
    for directory in DIRECTORIES:
        found += [path for path in (root / directory).rglob("*") if path.is_file() and path.suffix != ".pyc"]
    if not found:
        raise FileNotFoundError(f"no files of the project under {root}")
    yield from sorted(path.relative_to(root).as_posix() for path in found)


def is_test(path: str) -> bool:
    """Tell test modules, which may be as long as they need, from tooling, which may not."""
    name = PurePosixPath(path).name
    return path.startswith("tests/") and (name.startswith("test_") or name == "conftest.py")


def findings(path: str, text: str, known: Mapping[str, Collection[str]]) -> Iterator[Finding]:
    """Yield what breaks a rule in one file; ``known``: the headings of each document."""
    yield from unfinished(path, text)
    if not path.endswith(".py"):
        return
    yield from bare_exemptions(path, text)
    yield from lost_references(path, text, known)
    if not is_test(path):
        yield from too_long(path, text)
    if path.startswith(SHIPPED):
        yield from late_annotations(path, text)
    if path.startswith("tests/"):
        yield from unexplained_skips(path, text)
        if path != WAITING:
            yield from sleeps(path, text)


def main(root: Path = ROOT) -> int:
    """Check every file under ``root``; return the process's exit status."""
    found: list[Finding] = []
    known = {each.relative_to(root).as_posix(): headings(each.read_text()) for each in documents(root)}
    count = 0
    for path in files(root):
        try:
            text = (root / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a binary file has no lines
        found += findings(path, text, known)
        count += 1
    for finding in sorted(found):
        print(finding)
    print(f"House rules: {count} files, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
