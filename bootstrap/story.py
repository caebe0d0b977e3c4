"""Telling a person what happens, step by step: with colours and marks on a terminal, plain lines elsewhere.

story = Story.on(sys.stdout)
with story.step("Three agents start") as step:
    …
    step.note("n2 coordinates")
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.markup import escape

INDENT = " " * 4


class Step:
    """What a step says is shown below its title, in order."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def note(self, text: str) -> None:
        """A sentence."""
        self._write(INDENT + escape(text))

    def command(self, argv: Sequence[str]) -> None:
        """The command line that is run, as one would type it."""
        self._write(f"{INDENT}[bold cyan]$ {escape(shlex.join(argv))}[/]")

    def output(self, text: str) -> None:
        """What a command wrote."""
        for line in text.rstrip().splitlines():
            self._write(f"{INDENT}[dim]│[/] {escape(line)}" if line else f"{INDENT}[dim]│[/]")


class Story:
    """A sequence of timed steps. `now` gives seconds."""

    def __init__(self, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._now = now
        self._began = now()

    @classmethod
    def on(cls, file: TextIO) -> Story:
        """For a terminal or a file; the file says which (NO_COLOR is honoured)."""
        return cls(Console(file=file, highlight=False, soft_wrap=True))

    @property
    def columns(self) -> int:
        """How wide a command's output may be."""
        return max(self._console.width - len(INDENT) - 2, 40)

    @contextmanager
    def step(self, title: str) -> Iterator[Step]:
        """Shows the title, what the step says, and how long it took; a step that raises is marked."""
        began = self._now()
        self._write(f"\n[bold]{escape(title)}[/]")
        try:
            yield Step(self._write)
        except BaseException:
            self._mark("[red]✗[/]", began)
            raise
        self._mark("[green]✓[/]", began)

    def say(self, text: str) -> None:
        """A line between the steps."""
        self._write(escape(text))

    @property
    def elapsed_s(self) -> float:
        """Since the story began."""
        return self._now() - self._began

    def _mark(self, mark: str, began: float) -> None:
        self._write(f"  {mark} [dim]{self._now() - began:.1f} s[/]")

    def _write(self, markup: str) -> None:
        self._console.print(markup)
