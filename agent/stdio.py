"""A command's standard streams: output that can't be written is an error, and words beside it that can't are let go.

As GNU's tools do (gnulib's `close_stdout`): a file that misses its end isn't taken for whole. Without this, Python
would show a traceback of wherever the command was, and what handles a network's OSError there would take it for one.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from typing import Any, TextIO

from agent.errors import OutputLost, ReaderGone


class _Output(io.FileIO):
    """Says what is lost by an error of its own, which nothing on the way takes for a file's or a connection's."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise ReaderGone("nobody reads on", where="standard output") from None
        except OSError as error:
            fix = "What the command has changed stays changed."
            raise OutputLost(f"write error: {error.strerror}", where="standard output", fix=fix) from None


class _Words(io.FileIO):
    """Nobody is left to be told that these are lost; the exit code still says how it ended."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def take() -> None:
    """Put both in the place of Python's own; once, before anything is written."""
    sys.stdout = _text(sys.stdout, _Output)
    sys.stderr = _text(sys.stderr, _Words)


def let_go() -> None:
    """Write what is left to be written; what can't be goes nowhere. Who has to know flushes before."""
    sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OutputLost:  # it is still in the buffer, which the interpreter would try once more, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _text(stream: TextIO | None, raw: Callable[[int, str, bool], io.FileIO]) -> TextIO:
    if stream is None:  # closed by whoever started it; open, no file of ours gets its number
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream  # somebody took its place before
    at_once = stream.line_buffering or stream.write_through
    buffer = io.BufferedWriter(raw(stream.fileno(), "w", False))
    return io.TextIOWrapper(buffer, stream.encoding, stream.errors, line_buffering=at_once)
