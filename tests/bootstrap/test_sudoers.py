"""The sudo rule: what it lets through is what bootstrap runs, and the page shows it."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from agent.errors import InputError
from bootstrap.inventory import InventoryHost
from bootstrap.program import LOADER
from bootstrap.ssh import SshSettings, helper_command
from bootstrap.sudoers import sudoers, sudoers_rule
from tests.checks.docs import blocks

PAGE = Path(__file__).parents[2] / "docs" / "ssh.md"


def command_of(rule: str) -> str:
    """The command that the rule allows, as sudo reads it: sudoers(5) takes the backslashes away."""
    line = rule.splitlines()[-1].partition("NOPASSWD: ")[2]
    return re.sub(r"\\([\\,:=])", r"\1", line)


def test_the_rule_lets_through_exactly_the_command_that_is_run() -> None:
    host = InventoryHost(alias="n1", host="n1", user="deploy", python="/usr/bin/python3", where="")
    remote = helper_command(host, SshSettings(), "deploy")[-1]
    words = shlex.split(remote)
    assert words[:3] == ["sudo", "-n", "--"]
    asked = " ".join(words[3:-1])
    assert words[-1] == "$SSH_CONNECTION"
    assert command_of(sudoers_rule("deploy", "/usr/bin/python3")) == f"{asked} *"


def test_nothing_in_the_program_is_a_pattern_of_sudoers() -> None:
    """sudoers(5), "Wildcards": only the star behind it is one."""
    assert not set("*?[]!\\\n'") & set(LOADER)


def test_the_page_shows_what_the_command_prints() -> None:
    printed = CliRunner().invoke(sudoers, ["deploy"])
    assert printed.exit_code == 0
    (shown,) = (code for language, code in blocks(PAGE.read_text("utf-8")) if language == "sudoers")
    assert shown == printed.output


@pytest.mark.parametrize("user", ["", "Root", "a b", "x\nroot ALL=(ALL) ALL", "%sudo", "-x", "a" * 33])
def test_a_user_that_is_none_writes_no_rule(user: str) -> None:
    result = CliRunner().invoke(sudoers, ["--", user])
    assert isinstance(result.exception, InputError)
    assert result.output == ""


def test_an_interpreter_is_a_path_and_nothing_else() -> None:
    result = CliRunner().invoke(sudoers, ["deploy", "--python", "/usr/bin/python3, ALL"])
    assert isinstance(result.exception, InputError)
