"""The demo's telling: plain lines in a file, marks for what went well and what didn't."""

from __future__ import annotations

import io
import re

import pytest

from bootstrap.story import Story


@pytest.fixture
def file() -> io.StringIO:
    return io.StringIO()


def test_a_file_gets_plain_lines(file: io.StringIO) -> None:
    story = Story.on(file)
    with story.step("One step") as step:
        step.note("a note with [brackets]")
        step.command(["agent", "deploy", "my plan.json"])
        step.output("first\n\nsecond\n")
    shown, last = file.getvalue().rsplit("\n", 2)[:2]
    assert shown == (
        "\nOne step\n    a note with [brackets]\n    $ agent deploy 'my plan.json'\n    │ first\n    │\n    │ second"
    )
    assert re.fullmatch(r"  ✓ \d+\.\d s", last)


def test_a_step_that_raises_is_marked_and_raises(file: io.StringIO) -> None:
    with pytest.raises(RuntimeError), Story.on(file).step("One step"):
        raise RuntimeError
    assert "✗" in file.getvalue()
    assert "✓" not in file.getvalue()


def test_long_lines_stay_whole_in_a_file(file: io.StringIO) -> None:
    Story.on(file).say("word " * 100)
    assert len(file.getvalue().splitlines()) == 1
