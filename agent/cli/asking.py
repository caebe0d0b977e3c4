"""Asks for confirmation before something that can't be undone."""

from __future__ import annotations

import sys

import click

from agent.errors import InputError


def ask(question: str, *, what: str, where: str) -> None:
    """Raises click.Abort for a no, InputError when nobody can answer. `what`: what the command `where` would do."""
    if not sys.stdin.isatty():
        raise InputError(f"{what}, and nobody is there to be asked", where=where, fix="Add --yes.")
    click.confirm(question, abort=True, err=True)
