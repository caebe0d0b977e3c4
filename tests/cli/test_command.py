"""Both commands as processes: what errors look like, and what becomes of output that can't be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from agent.cli.beside import run_bootstrap
from agent.errors import EXIT_ERROR, EXIT_OK, EXIT_READER_GONE, EXIT_USAGE, MusterError

AGENT = (sys.executable, "-P", "-m", "agent")
BOOTSTRAP = (sys.executable, "-P", "-c", "from bootstrap.cli import main; main()")
COMMANDS = {"agent": AGENT, "bootstrap": BOOTSTRAP}


def run(command: tuple[str, ...], redirection: str, *arguments: str) -> tuple[int, str, str]:
    """Exit code, output and the words beside it."""
    line = ["sh", "-c", f'exec "$@" {redirection}', "sh", *command, *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    found = subprocess.run(line, capture_output=True, text=True, timeout=30, check=False, env=buffered)
    return found.returncode, found.stdout, found.stderr


@pytest.mark.parametrize("command", [AGENT, BOOTSTRAP])
@pytest.mark.parametrize("argument", ["--help", "--version"])
@pytest.mark.parametrize(
    ("redirection", "why"), [(">/dev/full", "No space left on device"), ("1</dev/null", "Bad file descriptor")]
)
def test_what_of_the_output_is_lost_is_an_error(
    command: tuple[str, ...], argument: str, redirection: str, why: str
) -> None:
    code, _, words = run(command, redirection, argument)
    assert code == EXIT_ERROR
    assert words.splitlines() == [
        f"error: standard output: write error: {why}",
        "  What the command has changed stays changed.",
    ]


@pytest.mark.parametrize("name", ["agent", "bootstrap"])
def test_what_is_no_command_is_told_in_one_way(name: str) -> None:
    said = f"error: {name}: No such command 'nonsense'\n  See `{name} --help`.\n"
    assert run(COMMANDS[name], "", "nonsense") == (EXIT_USAGE, "", said)
    code, output, words = run(COMMANDS[name], "", "nonsense", "--json")
    problem = json.loads(words)
    assert (code, output) == (EXIT_USAGE, "")
    assert (problem["type"], problem["where"], problem["fix"]) == (
        "urn:muster:problem:bad-input",
        name,
        f"See `{name} --help`.",
    )
    assert run(COMMANDS[name], "", "nonsense", "--", "--json")[2] == said, "behind -- there is no option"


def test_a_program_is_told_as_of_any_other_error() -> None:
    code, _, words = run(AGENT, ">/dev/full", "--help", "--json")
    assert (code, json.loads(words)["type"]) == (EXIT_ERROR, "urn:muster:problem:error")


async def test_what_bootstrap_says_to_an_agent_is_the_agents_error() -> None:
    with pytest.raises(MusterError) as failed:
        await run_bootstrap("install", "/nowhere", "--json", data=b"")
    assert (failed.value.where, failed.value.what) == ("/nowhere", "there is no such list of hosts")
    assert failed.value.fix
    with pytest.raises(MusterError) as failed:
        await run_bootstrap("invite", data=b"{")
    assert failed.value.where == "bootstrap"
    assert failed.value.what.startswith("$: not valid JSON")


@pytest.mark.parametrize("command", [AGENT, BOOTSTRAP])
def test_a_reader_that_has_enough_is_told_nothing(command: tuple[str, ...]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    process = subprocess.Popen([*command, "--help"], stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    _, words = process.communicate(timeout=30)
    assert (process.returncode, words) == (EXIT_READER_GONE, b"")


@pytest.mark.parametrize("command", [AGENT, BOOTSTRAP])
@pytest.mark.parametrize("redirection", ["2>/dev/full", "2>&-", "2</dev/null"])
def test_where_words_beside_the_output_are_lost_the_exit_code_still_says_how_it_ended(
    command: tuple[str, ...], redirection: str
) -> None:
    assert run(command, redirection, "nonsense") == (EXIT_USAGE, "", "")
    code, output, _ = run(command, redirection, "--version")
    assert (code, "version" in output) == (EXIT_OK, True)


@pytest.mark.parametrize("command", [AGENT, BOOTSTRAP])
def test_where_nothing_can_be_written_it_still_ends_with_an_error(command: tuple[str, ...]) -> None:
    assert run(command, ">/dev/full 2>/dev/full", "--help") == (EXIT_ERROR, "", "")


@pytest.mark.parametrize("command", [AGENT, BOOTSTRAP])
def test_without_a_standard_input_nobody_can_be_asked(command: tuple[str, ...]) -> None:
    arguments = ("remove", "shop") if command is AGENT else ("install", "-")
    code, _, words = run(command, "<&-", *arguments)
    assert code == EXIT_USAGE, words
    assert words.startswith("error: ")


ARROW = "import sys; from agent.command import *; take_streams(); print('\\u2192', flush=True)"


def test_what_the_terminals_character_set_lacks_is_written_by_its_number() -> None:
    """As between a table's ports where the locale is Latin 1; within JSON that is still JSON."""
    ascii_only = ("env", "PYTHONIOENCODING=ascii", sys.executable, "-P", "-c", ARROW)
    assert run(ascii_only, "") == (EXIT_OK, "\\u2192\n", "")


GOES_ON = """
import sys, click
from contextlib import suppress
from agent.command import carry_out, let_streams_go, take_streams
from agent.errors import MusterError

@click.group()
def cli(): ...

@cli.command()
def go():
    with suppress(MusterError, OSError):
        print("x", flush=True)
    print("went on", file=sys.stderr)

take_streams()
code = carry_out(cli, ["go"], name="x")
let_streams_go()
sys.exit(code)
"""


def test_what_handles_a_hosts_error_on_the_way_does_not_take_lost_output_for_one() -> None:
    code, _, words = run((sys.executable, "-P", "-c", GOES_ON), ">/dev/full")
    assert (code, words.splitlines()[0]) == (EXIT_ERROR, "error: standard output: write error: No space left on device")


STILL_IN_THE_BUFFER = "import sys; from agent.command import *; take_streams(); sys.stdout.write('x'); let_streams_go()"


def test_what_is_let_go_is_not_complained_of_at_the_end_of_the_process() -> None:
    """As where another error was told: what the command had begun to say isn't tried again."""
    assert run((sys.executable, "-P", "-c", STILL_IN_THE_BUFFER), ">/dev/full") == (EXIT_OK, "", "")
