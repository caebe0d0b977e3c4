"""The tables of a Markdown document."""

from __future__ import annotations

import re
from collections.abc import Iterator

_HEADING = re.compile(r"#{1,6}\s+(.+?)\s*#*")
_RULE = re.compile(r"\|(?:\s*:?-+:?\s*\|)+")
_CELL = re.compile(r"(?<!\\)\|")
_CODE = re.compile(r"`([^`]*)`")

Row = dict[str, str]
"""A row's cells by the column's title, as they are written."""


def tables(text: str) -> Iterator[tuple[str, list[Row]]]:
    """Yield each table with the heading that it stands under."""
    heading, lines = "", text.splitlines()
    for number, line in enumerate(lines):
        if found := _HEADING.fullmatch(line):
            heading = found[1]
        if _RULE.fullmatch(line) and number:
            yield heading, list(_rows(lines, number))


def _rows(lines: list[str], rule: int) -> Iterator[Row]:
    titles = _cells(lines[rule - 1])
    for line in lines[rule + 1 :]:
        if not line.startswith("|"):
            return
        cells = _cells(line)
        assert len(cells) == len(titles), f"{len(cells)} cells under {len(titles)} titles: {line}"
        yield dict(zip(titles, cells, strict=True))


def table(text: str, heading: str) -> list[Row]:
    """The one table under a heading. Raises KeyError for none or several."""
    found = [rows for title, rows in tables(text) if title == heading]
    if len(found) != 1:
        raise KeyError(f"{len(found)} tables under {heading!r}")
    return found[0]


def bare(cell: str) -> str:
    """The first code in a cell, else the cell."""
    code = _CODE.search(cell)
    return code[1] if code else cell


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in _CELL.split(line.strip().strip("|"))]
