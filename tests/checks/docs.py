"""What the documentation names: links, paths of the project and make targets, found in Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote

TOP = ("agent", "bootstrap", "tests", "docs", "examples", "systemd", r"\.ci")
TOP_FILES = ("Makefile", "LICENSE", r"README\.md", r"ARCHITECTURE\.md", r"pyproject\.toml", r"requirements\.lock")

_FENCE = re.compile(r"^(?P<fence>```+|~~~+)(?P<info>[^\n]*)\n(?P<code>.*?)^(?P=fence)[ \t]*$", re.MULTILINE | re.DOTALL)
_INLINE = re.compile(r"(?<!`)(`+)(?!`)(.+?)(?<!`)\1(?!`)")
_LINK = re.compile(r"\[[^\]]*\]\(\s*<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\s*\)|^\[[^\]]+\]:\s*(\S+)", re.MULTILINE)
_HEADING = re.compile(r"^#{1,6}\s+(.+?)\s*#*$", re.MULTILINE)
_FIRST_CELL = re.compile(r"^\|\s*([^|]+?)\s*\|", re.MULTILINE)
_PATH = re.compile(rf"(?<![\w./~$@:<>{{-])(?:\./)?((?:{'|'.join(TOP)})/[\w./*-]*|(?:{'|'.join(TOP_FILES)})(?![\w./-]))")
_MAKE = re.compile(
    r"(?:^|&&|\|\||[;|(])[ \t]*(?:\$ |# )?(?:sudo )?(?:\w+=\S+ )*make((?:[ \t]+[^\s;&|#)]+)*)", re.MULTILINE
)
_TARGET = re.compile(r"[a-z][a-z0-9-]*")
_RULE = re.compile(r"^([a-z][a-z0-9-]*):(?!=)", re.MULTILINE)


def documents(root: Path) -> list[Path]:
    """Return the Markdown files a reader starts from, and those under docs/."""
    tops = [root / name for name in ("README.md", "ARCHITECTURE.md") if (root / name).exists()]
    return tops + sorted((root / "docs").rglob("*.md"))


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Yield each fenced block: what stands behind its fence (a language, and what the example is), and its code."""
    for block in _FENCE.finditer(text):
        yield block["info"].strip(), block["code"]


def spans(text: str) -> Iterator[str]:
    """Yield each inline code span."""
    for span in _INLINE.finditer(_FENCE.sub("", text)):
        yield span[2]


def code(text: str) -> Iterator[str]:
    """Yield each fenced block and each inline code span."""
    yield from (block for _, block in blocks(text))
    yield from spans(text)


def links(text: str) -> Iterator[str]:
    """Yield the targets of links and images outside of code, except those of other sites."""
    for link in _LINK.finditer(_INLINE.sub("", _FENCE.sub("", text))):
        target = unquote(link[1] or link[2])
        if not re.match(r"[a-z][a-z0-9+.-]*:", target):
            yield target


def headings(text: str) -> set[str]:
    """Return what a reader finds a place by: headings, and the first cells of tables' rows."""
    text = _FENCE.sub("", text)
    return {heading[1] for heading in _HEADING.finditer(text)} | {cell[1] for cell in _FIRST_CELL.finditer(text)}


def anchors(text: str) -> set[str]:
    """Return the fragments that headings can be reached by, as GitHub makes them."""
    result: set[str] = set()
    for heading in _HEADING.finditer(_FENCE.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading[1]).lower()
        slug = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        repeat = 1
        unique = slug
        while unique in result:
            unique = f"{slug}-{repeat}"
            repeat += 1
        result.add(unique)
    return result


def paths(text: str) -> Iterator[str]:
    """Yield the project's own paths named in code; a ``*`` in one stands for any name."""
    for part in code(text):
        for path in _PATH.finditer(part):
            yield path[1].rstrip(".")


def make_targets(text: str) -> Iterator[str]:
    """Yield the targets of each ``make`` at the start of a command in code."""
    for part in code(text):
        for command in _MAKE.finditer(part):
            yield from filter(_TARGET.fullmatch, command[1].split())


def targets_of(makefile: str) -> set[str]:
    """Return the targets a Makefile has rules for."""
    return set(_RULE.findall(makefile))


def wrong_in(document: Path, root: Path) -> Iterator[str]:
    """Yield what ``document`` names and the tree under ``root`` doesn't have."""
    text = document.read_text(encoding="utf-8")
    for link in links(text):
        name, _, fragment = link.partition("#")
        base = root if name.startswith("/") else document.parent
        target = (base / name.lstrip("/")) if name else document
        if not target.exists():
            yield f"link to {link}: no such file"
        elif fragment and target.suffix == ".md" and fragment not in anchors(target.read_text(encoding="utf-8")):
            yield f"link to {link}: no such heading"
    for path in paths(text):
        if not (any(root.glob(path)) if "*" in path else (root / path).exists()):
            yield f"{path}: no such file"
    known = targets_of((root / "Makefile").read_text(encoding="utf-8"))
    for target_name in make_targets(text):
        if target_name not in known:
            yield f"make {target_name}: no such target"
