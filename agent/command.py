"""What the commands `agent` and `bootstrap` have in common as processes: lazy imports, standard streams, printing of
errors, exit codes.

A command that can't write its output fails, so that nobody takes a truncated file for a complete one; words on standard
error that can't be written are dropped, as GNU's tools do (gnulib's `close_stdout`). Otherwise Python would show a
traceback from wherever the command was, or code that handles OSErrors of the network would catch this one.
"""

from __future__ import annotations

import gc
import importlib
import io
import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TextIO

import click

from agent.errors import EXIT_INTERRUPTED, EXIT_OK, EXIT_READER_GONE, InputError, MusterError
from agent.formats.terminal import clean_lines

Table = Mapping[str, tuple[str, str]]
"""A command's name → the module that has it under that name (`_` for `-`), and its line in the list of commands."""


class OutputLost(Exception):
    """Standard output can't be written: what the command had to say is lost, but not what it did.

    Neither a MusterError nor an OSError, so that code which handles those for a host or a file doesn't catch it and go
    on.
    """


class ReaderGone(OutputLost):
    """The reader of the output left (`… | head`). It has what it wanted, so nothing is said about it."""


class LazyGroup(click.Group):
    """Imports a command's module when the command is used; listing the commands imports none.

    If the garbage collector was switched off, it is switched on again after the import: what was imported lives as long
    as the process.
    """

    def __init__(self, *, table: Table, **how: Any) -> None:
        super().__init__(**how)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order of the table."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        if cmd_name not in self._table:
            return None
        command = getattr(importlib.import_module(self._table[cmd_name][0]), cmd_name.replace("-", "_"))
        assert isinstance(command, click.Command)
        if not gc.isenabled():
            gc.freeze()
            gc.enable()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """From the table alone."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, summary) for name, (_, summary) in self._table.items()])


def carry_out(group: click.Group, args: Sequence[str], *, name: str) -> int:
    """Run the command line; returns the exit code.

    An error is printed as `error: where: what` with the fix on the next line, or with --json as an RFC 9457 problem.
    """
    try:
        code = group.main(list(args), prog_name=name, standalone_mode=False)
        sys.stdout.flush()
    except ReaderGone:
        return EXIT_READER_GONE
    except OutputLost as error:
        fix = "What the command has changed stays changed."
        return _complain(MusterError(str(error), where="standard output", fix=fix), args)
    except MusterError as error:
        return _complain(error, args)
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else name
        return _complain(InputError(error.format_message().rstrip("."), where=path, fix=f"See `{path} --help`."), args)
    except click.ClickException as error:
        return _complain(MusterError(error.format_message()), args)
    except (KeyboardInterrupt, click.Abort):
        tell("stopped")
        return EXIT_INTERRUPTED
    return code if isinstance(code, int) else EXIT_OK  # what `ctx.exit` was given, or what the command returned


def tell(text: str) -> None:
    """Print on standard error. The text is cleaned, since errors and notes may quote what an agent answered."""
    click.echo(clean_lines(text), err=True)


def take_streams() -> None:
    """Replace Python's standard streams by ours; once, before anything is written. A missing input becomes an empty
    one.
    """
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 to the end
    sys.stdout = _text(sys.stdout, _Output)
    sys.stderr = _text(sys.stderr, _Words)


def let_streams_go() -> None:
    """Write what is still buffered; what can't be written is dropped. A caller that has to know flushes first."""
    sys.stderr.flush()
    try:
        sys.stdout.flush()
    except OutputLost:  # it is still in the buffer, which the interpreter would try once more, and complain
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _complain(error: MusterError, args: Sequence[str]) -> int:
    """Print the error; returns its exit code. --json counts even where the command line can't be parsed."""
    before = args[: args.index("--")] if "--" in args else args
    if "--json" in before:
        problem = {
            "type": f"urn:muster:problem:{error.kind}",
            "title": error.kind.replace("-", " ").capitalize(),
            "status": error.status,
            "detail": error.what,
            "instance": "",
            "where": error.where,
            "fix": error.fix,
        }
        click.echo(json.dumps(problem), err=True)
    else:
        tell(f"error: {error}")
    return error.exit_code


class _Output(io.FileIO):
    """Raises OutputLost for what can't be written."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            raise ReaderGone from None
        except OSError as error:
            raise OutputLost(f"write error: {error.strerror}") from None


class _Words(io.FileIO):
    """Drops what can't be written, since nobody is left to tell; the exit code still says how it ended."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def _text(stream: TextIO | None, raw: Callable[[int, str, bool], io.FileIO]) -> TextIO:
    if stream is None:  # closed by whoever started it; open, no file of ours gets its number
        return open(os.devnull, "w", encoding="utf-8")
    if not isinstance(stream, io.TextIOWrapper):
        return stream  # somebody took its place before
    at_once = stream.line_buffering or stream.write_through
    buffer = io.BufferedWriter(raw(stream.fileno(), "w", False))
    lacking = "backslashreplace" if stream.errors == "strict" else stream.errors  # what the locale has no character for
    return io.TextIOWrapper(buffer, stream.encoding, lacking, line_buffering=at_once)
