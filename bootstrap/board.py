"""What happens on many hosts at once, as a table that moves on a terminal."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Final, Self

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from agent.errors import MusterError
from bootstrap.progress import Silent, one_line

REFRESH_PER_S: Final = 8
MARKS: Final = {"working": ("…", "cyan"), "done": ("✓", "green"), "failed": ("✗", "red")}


class Board(Silent):
    """A row for each host, redrawn as things happen."""

    def __init__(self, console: Console, hosts: list[str]) -> None:
        self._console = console
        self._rows: dict[str, tuple[str, str, float]] = {
            host: ("working", "waiting", time.monotonic()) for host in hosts
        }
        self._live = Live(get_renderable=self._table, console=console, refresh_per_second=REFRESH_PER_S)

    def __enter__(self) -> Self:
        self._live.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """The last state stays on the screen."""
        self._live.__exit__(kind, error, at)

    def step(self, host: str, text: str) -> None:
        """The host's next step."""
        self._rows[host] = ("working", text, time.monotonic())

    def done(self, host: str, text: str) -> None:
        """The host is done."""
        self._rows[host] = ("done", text, time.monotonic())

    def failed(self, host: str, error: MusterError) -> None:
        """The host failed, and why, with the fix below."""
        self._rows[host] = ("failed", "\n".join(filter(None, (one_line(error), error.fix))), time.monotonic())

    def note(self, text: str) -> None:
        """A line above the table."""
        self._console.print(Text(text))

    @contextmanager
    def paused(self) -> Iterator[None]:
        """The table stands still, and continues below what is typed."""
        self._live.stop()
        try:
            yield
        finally:
            self._live.start()

    def _table(self) -> Table:
        table = Table.grid(padding=(0, 1))
        for host, (state, text, since) in self._rows.items():
            mark, style = MARKS[state]
            waited = time.monotonic() - since
            shown = f"{text} {waited:.0f} s" if state == "working" and waited >= 2 else text
            table.add_row(Text(mark, style=style), Text(host, style="bold"), Text(shown))
        return table
