"""The project's commands that Markdown tells people to type: does each exist, with the options that it is given?"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import click

from agent.cli.main import cli as agent
from bootstrap.cli import bootstrap
from tests.checks.docs import blocks, spans

TREES: dict[str, click.Command] = {"agent": agent, "bootstrap": bootstrap}
SHELLS = ("sh", "bash")  # in these blocks every line is typed; elsewhere only what follows a prompt

_PROMPT = re.compile(r"^[ │]*\$ (.+)$")
_SUBSTITUTION = re.compile(r"\$\(([^()]*)\)")
_ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=.*", re.DOTALL)
_OPERATOR = re.compile(r"[();<>|&]+")
_ELLIPSIS = ("…", "...")


def typed(text: str) -> Iterator[str]:
    """Yield each command line in the Markdown ``text``: of shell blocks, behind prompts, and inline code."""
    for language, code in blocks(text):
        for line in code.replace("\\\n", " ").splitlines():
            if language in SHELLS:
                yield line
            elif prompt := _PROMPT.match(line):
                yield prompt[1]
    for span in spans(text):
        if span.partition(" ")[0] in TREES:
            yield span


def simple_commands(line: str) -> Iterator[list[str]]:
    """Yield the words of each command in a shell line, those inside ``$(…)`` too, without assignments and sudo."""
    for inner in _SUBSTITUTION.findall(line):
        yield from simple_commands(inner)
    lexer = shlex.shlex(_SUBSTITUTION.sub("x", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []
    for word in [*lexer, ";"]:
        if _OPERATOR.fullmatch(word):
            if words:
                yield words
            words = []
        elif words or not (_ASSIGNMENT.fullmatch(word) or word == "sudo"):
            words.append(word)


def complaint(words: list[str]) -> str:
    """What the project's command of these words doesn't have; empty when it has all, or when it isn't ours."""
    name = words[0].rpartition("/")[2]
    if name not in TREES:
        return ""
    command = TREES[name]
    context = click.Context(command, info_name=name)
    rest = iter(words[1:])
    for word in rest:
        if word in _ELLIPSIS or word == "--":
            return ""
        if word.startswith("-") and word != "-":
            option, given, _ = word.partition("=")
            found = next((p for p in command.get_params(context) if option in (*p.opts, *p.secondary_opts)), None)
            if not isinstance(found, click.Option):
                return f"{context.command_path} has no {option}"
            if not (found.is_flag or found.count or given):
                next(rest, None)
        elif isinstance(command, click.Group):
            below = command.get_command(context, word)
            if below is None:
                return f"{context.command_path} has no command {word}"
            command, context = below, click.Context(below, info_name=word, parent=context)
    return ""


def wrong_commands(text: str) -> Iterator[str]:
    """Yield what is wrong with the project's commands in the Markdown ``text``."""
    for line in typed(text):
        try:
            commands = list(simple_commands(line))
        except ValueError as error:
            yield f"{line}: {error}"
            continue
        yield from (f"{line}: {found}" for words in commands if (found := complaint(words)))
