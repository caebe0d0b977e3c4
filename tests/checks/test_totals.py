from __future__ import annotations

from pathlib import Path

import pytest

from tests.checks.totals import main

SUITE = '<testsuites><testsuite tests="{}" failures="{}" errors="{}" skipped="{}" time="{}"/></testsuites>'


def report(directory: Path, name: str, tests: int, failures: int = 0, errors: int = 0, skipped: int = 0) -> str:
    path = directory / f"{name}.xml"
    path.write_text(SUITE.format(tests, failures, errors, skipped, 1.4))
    return str(path)


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().out.splitlines()[-1]


def test_all_parts_are_added_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([report(tmp_path, "unit", 10, skipped=1), report(tmp_path, "lab", 5)]) == 0
    assert last_line(capsys) == "14 passed, 0 failed, 1 skipped in 2s"


def test_a_failure_or_an_error_in_one_part_fails_the_whole(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([report(tmp_path, "unit", 10, failures=2, errors=1), report(tmp_path, "lab", 5)]) == 1
    assert last_line(capsys) == "12 passed, 2 failed, 1 errors in 2s"


@pytest.mark.parametrize("content", [None, "", "<testsuites>", SUITE.format(0, 0, 0, 0, 0)])
def test_a_part_that_did_not_run_is_an_error_and_the_others_still_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str | None
) -> None:
    if content is not None:
        (tmp_path / "lab.xml").write_text(content)
    assert main([report(tmp_path, "unit", 10), str(tmp_path / "lab.xml")]) == 1
    assert last_line(capsys) == "10 passed, 0 failed, 1 errors in 1s"


def test_no_parts_at_all_fail() -> None:
    assert main([]) == 1
