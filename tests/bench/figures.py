"""A measured figure beside the one that is promised."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Figure:
    """`values` are the runs'; the median is what counts against `target` (None: only shown), at most or `at_least`."""

    name: str
    unit: str
    values: Sequence[float]
    target: float | None = None
    at_least: bool = False
    note: str = ""
    digits: int = 2
    median: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "median", statistics.median(self.values))

    @property
    def reached(self) -> bool:
        """Whether the promise holds here and now."""
        if self.target is None:
            return True
        return self.median >= self.target if self.at_least else self.median <= self.target

    @property
    def ratio(self) -> float | None:
        """Median over target: at most 1 as promised, or at least 1 where more is better."""
        return self.median / self.target if self.target else None


def as_json(figure: Figure) -> dict[str, object]:
    """The figure for a program."""
    return {
        "name": figure.name,
        "unit": figure.unit,
        "median": figure.median,
        "min": min(figure.values),
        "max": max(figure.values),
        "runs": len(figure.values),
        "target": figure.target,
        "ratio": figure.ratio,
        "reached": figure.reached,
        "note": figure.note,
    }


def as_text(figures: Sequence[Figure]) -> str:
    """A table for a person."""
    head = ("figure", "median", "min … max", "runs", "target", "ratio", "")
    rows = [head]
    for figure in figures:
        d = figure.digits
        target = "" if figure.target is None else f"{'≥' if figure.at_least else '≤'} {figure.target:.4g}"
        ratio = "" if figure.ratio is None else f"{figure.ratio:.2f}"
        mark = "" if figure.target is None else "ok" if figure.reached else "MISSED"
        spread = f"{min(figure.values):.{d}f} … {max(figure.values):.{d}f}"
        median = f"{figure.median:.{d}f} {figure.unit}"
        rows.append((figure.name, median, spread, str(len(figure.values)), target, ratio, mark))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    notes = [f"{figure.name}: {figure.note}" for figure in figures if figure.note]
    return "\n".join([*lines, *([""] if notes else []), *notes])
