"""The sudo rule for a dedicated user on the hosts: exactly the one command that bootstrap runs there as root."""

from __future__ import annotations

import re
from typing import Final

import click

from agent.errors import InputError
from agent.model.explain import shown
from bootstrap.program import LOADER

USER: Final = re.compile(r"[a-z_][a-z0-9_-]{0,31}")  # useradd(8)
PYTHON: Final = re.compile(r"/[A-Za-z0-9/._-]{1,255}")

_SPECIAL: Final = re.compile(
    r"[\\,:=]"
)  # sudoers(5): these "must be escaped with a backslash" in a command's arguments


def sudoers_rule(user: str, python: str) -> str:
    """The file's text, for /etc/sudoers.d. Pure.

    The arguments are fixed but for the last, which is ssh's own word on the connection (SSH_CONNECTION): Python hands
    what follows `-c PROGRAM` to the program, which reads it as text.
    """
    command = f"{python} -I -c {_SPECIAL.sub(lambda match: chr(92) + match[0], LOADER)}"
    return (
        f"# Lets {user} install and remove Muster's agent. Whoever may run this is root here: it reads the program\n"
        "# that it runs from its input. What it excludes is everything else, a shell for one.\n"
        f"Defaults:{user} !requiretty\n"
        f"{user} ALL=(root) NOPASSWD: {command} *\n"
    )


@click.command()
@click.argument("user")
@click.option(
    "--python",
    default="/usr/bin/python3",
    show_default=True,
    metavar="PATH",
    help="The path of the hosts' Python interpreter.",
)
def sudoers(user: str, python: str) -> None:
    """Print the sudo rule that USER needs on the hosts to install agents there, as a file for /etc/sudoers.d."""
    if USER.fullmatch(user) is None:
        raise InputError(f"{shown(user)} is no user's name: 1 to 32 of a-z 0-9 _ -", where="USER")
    if PYTHON.fullmatch(python) is None:
        raise InputError(f"expected an absolute path, got {shown(python)}", where="--python")
    click.echo(sudoers_rule(user, python), nl=False)
