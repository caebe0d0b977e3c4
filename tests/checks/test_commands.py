from __future__ import annotations

import pytest

from tests.checks.commands import simple_commands, wrong_commands
from tests.checks.tables import table, tables


@pytest.mark.parametrize(
    "text",
    [
        "```sh\nagent status --json | head\n```",
        "```sh\nexport MUSTER_HOME=x && sudo agent --home x deploy plan.json --dry-run  # agent nothing\n```",
        "```sh\nagent logs web \\\n    --tail=5 -f\n```",
        '```sh\ncurl -H "Bearer $(agent token --ttl 10m)" https://host/agent/none\n```',
        "```console\n$ agent --version\nagent none of the output\n```",
        "    a diagram\n\n`bootstrap local down --delete`, `agent`, `agent deploy …`, `agent/cli/none`, `agent.toml`",
    ],
)
def test_commands_that_exist_are_accepted(text: str) -> None:
    assert list(wrong_commands(text)) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("`agent none`", "agent has no command none"),
        ("`agent deploy --none`", "agent deploy has no --none"),
        ("`bootstrap local none`", "bootstrap local has no command none"),
        ("```sh\nmake venv; .venv/bin/agent none\n```", "agent has no command none"),
        ("```sh\ncurl $(agent token --none)\n```", "agent token has no --none"),
        ("```console\n    │ $ agent none\n```", "agent has no command none"),
        ("```sh\nagent --via none none\n```", "agent has no command none"),
        ("```sh\nagent 'status\n```", "No closing quotation"),
    ],
)
def test_what_is_missing_is_named(text: str, found: str) -> None:
    assert [wrong.rpartition(": ")[2] for wrong in wrong_commands(text)] == [found]


def test_a_line_is_split_at_the_shells_operators() -> None:
    line = "A=1 agent ps && (x $(agent token) > file; y) | z"
    assert list(simple_commands(line)) == [["agent", "token"], ["agent", "ps"], ["x", "x"], ["file"], ["y"], ["z"]]


def test_tables_are_found_by_their_heading() -> None:
    text = "# One\n\n| a | b |\n|---|---|\n| 1 | `x \\| y` |\n\n## Two\n\n| c |\n|:-:|\n"
    assert list(tables(text)) == [("One", [{"a": "1", "b": "`x | y`"}]), ("Two", [])]
    assert table(text, "One")[0]["a"] == "1"
    with pytest.raises(KeyError, match="0 tables"):
        table(text, "Three")
    with pytest.raises(AssertionError, match="3 cells under 2 titles"):
        table(text.replace("| 1 |", "| 1 | 2 |"), "One")
