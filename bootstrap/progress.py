"""Shows what happens on many hosts at once: a line for each step; `bootstrap.board` has a table."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Protocol, Self

from agent.errors import MusterError


class Display(Protocol):
    """Shows how an install goes. `host` is the alias in hosts.txt."""

    def step(self, host: str, text: str) -> None: ...

    def done(self, host: str, text: str) -> None: ...

    def failed(self, host: str, error: MusterError) -> None: ...

    def note(self, text: str) -> None: ...

    def paused(self) -> AbstractContextManager[None]: ...


class Silent:
    """For --json."""

    def step(self, host: str, text: str) -> None:
        """Nothing."""

    def done(self, host: str, text: str) -> None:
        """Nothing."""

    def failed(self, host: str, error: MusterError) -> None:
        """Nothing."""

    def note(self, text: str) -> None:
        """Nothing."""

    def paused(self) -> AbstractContextManager[None]:
        """While a person is asked something."""
        return nullcontext()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Nothing."""


class Lines(Silent):
    """A line for each step: `n1: unpacking`."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def step(self, host: str, text: str) -> None:
        """The host's next step."""
        self._write(f"{host}: {text}")

    def done(self, host: str, text: str) -> None:
        """The host is done."""
        self._write(f"{host}: {text}")

    def failed(self, host: str, error: MusterError) -> None:
        """The host failed, and why; the fix in the next line."""
        self._write(f"{host}: failed: {one_line(error)}")
        if error.fix:
            self._write(f"  {error.fix}")

    def note(self, text: str) -> None:
        """About all of them."""
        self._write(text)


class JsonLines(Lines):
    """A JSON object for each line that `Lines` would have: {"host", "text"}."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__(write)
        self._json = write

    def step(self, host: str, text: str) -> None:
        """The host's next step."""
        self._json(json.dumps({"host": host, "text": text}))

    def done(self, host: str, text: str) -> None:
        """The host is done."""
        self.step(host, text)

    def failed(self, host: str, error: MusterError) -> None:
        """The host failed, and why."""
        self.step(host, f"failed: {one_line(error)}")

    def note(self, text: str) -> None:
        """About all of them."""
        self.step("", text)


def one_line(error: MusterError) -> str:
    """What happened and where, without the fix."""
    what = " ".join(error.what.split())
    return f"{error.where}: {what}" if error.where else what
