"""What commands print: JSON documents, or narrow tables for people. Text from containers can't steer the terminal."""

from __future__ import annotations

import sys
import zlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from agent.cli.options import Options
from agent.command import tell
from agent.formats.terminal import clean

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

TOLD_EVERY_BYTES = 64_000_000  # of something large: a line every second or so
PLAIN_WIDTH = 200  # columns where nobody looks: lines stay whole for grep

SOURCE_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # SGR; red is for what is wrong
STYLES = {
    "healthy": "green",
    "alive": "green",
    "stopped": "dim",
    "left": "dim",
    "unknown": "dim",
    "unhealthy": "red",
    "failed": "red",
    "dead": "red",
    "error": "red",
    "backoff": "yellow",
    "suspect": "yellow",
    "warning": "yellow",
}
"""By state; what isn't here is on its way and stays plain."""


def print_json(value: Any) -> None:
    """One JSON document on one line, so that streams are NDJSON."""
    sys.stdout.write(msgspec.json.encode(value).decode() + "\n")
    sys.stdout.flush()


def bytes_teller(options: Options, what: str, *, from_start: bool) -> Callable[[int], None]:
    """A function that gets how many bytes of something are done and prints that every TOLD_EVERY_BYTES; with --json it
    prints nothing.
    """
    shown = -1 if from_start else 0

    def told(size: int) -> None:
        nonlocal shown
        if not options.json and size // TOLD_EVERY_BYTES > shown:
            shown = size // TOLD_EVERY_BYTES
            tell(f"{what}: {size // 1_000_000} MB")

    return told


def console(options: Options) -> Console:
    """The console that prints tables."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else PLAIN_WIDTH
    return Console(no_color=not options.color, highlight=False, markup=False, emoji=False, width=width)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, states: str = "state") -> Table:
    """A table without lines; the column called `states` is coloured by what it says."""
    from rich.table import Table
    from rich.text import Text

    made = Table(box=None, pad_edge=False, header_style="dim", show_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    for row in rows:
        cells: list[RenderableType] = []
        for column, value in zip(columns, row, strict=True):
            text = clean(value)
            cells.append(Text(text, style=STYLES.get(text, "") if column == states else ""))
        made.add_row(*cells)
    return made


def print_table(options: Options, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """The table on standard output."""
    console(options).print(table(columns, rows))


def say_from(options: Options, source: str, text: str) -> None:
    """A line of one of several sources, with the source's name before it in a colour of its own."""
    name = clean(source)
    if options.color:
        name = f"\x1b[{SOURCE_COLOURS[zlib.crc32(name.encode()) % len(SOURCE_COLOURS)]}m{name}\x1b[0m"
    print(f"{name} | {clean(text)}", flush=True)


def say(text: str) -> None:
    """A line on standard output, at once."""
    print(clean(text), flush=True)


def ports_text(ports: Sequence[Any]) -> str:
    """ "8443→8443/tcp": host port → container port."""
    return " ".join(f"{port.host_port}→{port.container_port}/{port.protocol}" for port in ports)
