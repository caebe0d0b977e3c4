from __future__ import annotations

from pathlib import Path

import pytest

from tests.checks.__main__ import findings, is_test, main
from tests.checks.rules import (
    FUNCTION_MAX_LINES,
    MODULE_MAX_LINES,
    bare_exemptions,
    late_annotations,
    lost_references,
    sleeps,
    too_long,
    unexplained_skips,
    unfinished,
)

# Assembled, so that this file keeps the rules it tests.
TO_DO, FIX_ME, NOQA, IGNORE = "TO" + "DO", "FIX" + "ME", "# no" + "qa", "# type: ig" + "nore"
DOCUMENT = "docs/a" + ".md"
HEADINGS = {DOCUMENT: {"One heading", "Another"}}


def function(lines: int, name: str = "f") -> str:
    return f"def {name}():\n" + "    pass\n" * (lines - 1)


class TestLength:
    def test_a_module_and_a_function_at_the_limit_pass(self) -> None:
        assert list(too_long("m.py", function(FUNCTION_MAX_LINES))) == []
        assert list(too_long("m.py", "x = 1\n" * MODULE_MAX_LINES)) == []

    def test_a_function_one_line_over_is_named_with_its_line_and_length(self) -> None:
        (found,) = too_long("m.py", "x = 1\n" + function(FUNCTION_MAX_LINES + 1, "long_one"))
        assert (found.path, found.line) == ("m.py", 2)
        assert "long_one()" in found.message
        assert str(FUNCTION_MAX_LINES + 1) in found.message

    def test_methods_coroutines_and_nested_functions_count(self) -> None:
        body = "        pass\n" * FUNCTION_MAX_LINES
        assert [f.line for f in too_long("m.py", f"class A:\n    async def f(self):\n{body}")] == [2]
        assert [f.line for f in too_long("m.py", f"def outer():\n    def inner():\n{body}")] == [1, 2]

    def test_decorators_do_not_count(self) -> None:
        assert list(too_long("m.py", "@a\n@b\n" + function(FUNCTION_MAX_LINES))) == []

    def test_a_module_one_line_over_is_found(self) -> None:
        (found,) = too_long("m.py", "x = 1\n" * (MODULE_MAX_LINES + 1))
        assert str(MODULE_MAX_LINES + 1) in found.message


class TestUnfinished:
    @pytest.mark.parametrize("mark", [TO_DO, FIX_ME, "X" * 3])
    def test_a_mark_is_found_in_any_text(self, mark: str) -> None:
        assert [f.line for f in unfinished("README.md", f"fine\n- {mark}: later\n")] == [2]

    def test_words_that_only_contain_a_mark_pass(self) -> None:
        assert list(unfinished("m.py", f"mas{TO_DO}N = 'todo list'  # X{'X' * 3}\n")) == []


class TestReferences:
    @pytest.mark.parametrize("named", ['"Another"', '"One heading", "Another"', '"One\n    heading"'])
    def test_headings_that_are_there_pass_over_the_end_of_a_line_too(self, named: str) -> None:
        assert list(lost_references("m.py", f'"""Why ({DOCUMENT}\n{named})."""', HEADINGS)) == []

    def test_one_that_is_not_there_is_named_with_its_line(self) -> None:
        (found,) = lost_references("m.py", f'"""What.\n\nWhy ({DOCUMENT} "Another", "Third")."""', HEADINGS)
        assert (found.line, found.message) == (3, "docs/a.md has no heading 'Third'")

    def test_a_document_that_is_not_there_is_named(self) -> None:
        (found,) = lost_references("m.py", f'# docs/b{".md"} "Another"', HEADINGS)
        assert found.message == "there is no document docs/b.md"

    @pytest.mark.parametrize("elsewhere", ["DES" + "IGN", "SE" + "ED"])
    def test_a_document_that_is_kept_elsewhere_is_told_apart(self, elsewhere: str) -> None:
        (found,) = lost_references("m.py", f'# see {elsewhere} "Another"', HEADINGS)
        assert "ARCHITECTURE.md" in found.message


class TestExemptions:
    @pytest.mark.parametrize(
        "comment",
        [
            f"{NOQA}: S603  # argv list, checked above",
            f"{NOQA}: S603, BLE001 - the process ends anyway",
            f"{IGNORE}[arg-type]  # docker's stubs are wrong here",
            "# pragma: no cover - only on other systems",
            "# a comment about noqa and type: ignore",
        ],
    )
    def test_a_rule_with_a_reason_passes(self, comment: str) -> None:
        assert list(bare_exemptions("m.py", f"x = 1  {comment}\n")) == []

    @pytest.mark.parametrize(
        ("comment", "why"),
        [
            (NOQA, "names no rule"),
            (f"{NOQA} for a reason", "names no rule"),
            (f"{NOQA}: S603", "no reason"),
            (f"{NOQA}: S603, BLE001", "no reason"),
            (f"# ruff: {NOQA[2:]}", "names no rule"),
            (IGNORE, "names no rule"),
            (f"{IGNORE}[arg-type]", "no reason"),
            (f"{IGNORE}[arg-type]  #", "no reason"),
            ("# pragma: no" + " cover", "no reason"),
            ("# fmt: " + "off", "no reason"),
        ],
    )
    def test_a_bare_exemption_is_found(self, comment: str, why: str) -> None:
        (found,) = bare_exemptions("m.py", f"y = 2\nx = 1  {comment}\n")
        assert found.line == 2
        assert why in found.message

    def test_text_inside_a_string_is_no_exemption(self) -> None:
        assert list(bare_exemptions("m.py", f"x = '{NOQA}'\n")) == []


class TestAnnotations:
    LATE = "from __future__ import annotations\n"

    @pytest.mark.parametrize("kind", ["Struct, forbid_unknown_fields=True", "msgspec.Struct, tag='a'"])
    def test_a_struct_that_is_read_has_types_for_annotations_and_not_texts(self, kind: str) -> None:
        assert list(late_annotations("m.py", f"class A({kind}):\n    x: int\n")) == []
        (found,) = late_annotations("m.py", f"{self.LATE}class A({kind}):\n    x: int\n")
        assert found.line == 2
        assert found.message.startswith("A ")

    @pytest.mark.parametrize("kind", ["Struct, frozen=True", "NamedTuple", "Base, tag=1"])
    def test_what_nobody_reads_may_have_texts(self, kind: str) -> None:
        assert list(late_annotations("m.py", f"{self.LATE}class A({kind}):\n    x: int\n")) == []


class TestSkips:
    @pytest.mark.parametrize(
        "mark",
        ["skip('why')", "skip(reason='why')", "skipif(True, reason='why')", "xfail(reason='why')", "lab", "timeout(3)"],
    )
    def test_an_explained_skip_passes(self, mark: str) -> None:
        assert list(unexplained_skips("t.py", f"@pytest.mark.{mark}\ndef test(): pass\n")) == []

    @pytest.mark.parametrize("mark", ["skip", "skip()", "skipif(True)", "xfail", "xfail(strict=True)"])
    def test_an_unexplained_skip_is_found(self, mark: str) -> None:
        assert [f.line for f in unexplained_skips("t.py", f"@pytest.mark.{mark}\ndef test(): pass\n")] == [1]


class TestSleeps:
    @pytest.mark.parametrize(
        "source",
        [
            "import time\ntime.sleep(1)",
            "import time as t\nt.sleep(1)",
            "from time import sleep\nsleep(1)",
            "from time import sleep as s\nrun(s)",
        ],
    )
    def test_every_spelling_of_time_sleep_is_found(self, source: str) -> None:
        assert [f.line for f in sleeps("t.py", source)] == [2]

    @pytest.mark.parametrize("source", ["await asyncio.sleep(0)", "clock.sleep(1)", "sleep(1)", "'time.sleep(1)'"])
    def test_other_things_called_sleep_pass(self, source: str) -> None:
        assert list(sleeps("t.py", source)) == []


class TestWhichRulesApply:
    def test_tests_may_be_long_and_tooling_may_not(self) -> None:
        long = function(FUNCTION_MAX_LINES + 1)
        assert [path for path in ("agent/a.py", "bootstrap/b.py", "tests/lab/c.py") if list(findings(path, long, {}))]
        assert list(findings("tests/raft/test_core.py", long, {})) == []
        assert is_test("tests/conftest.py")
        assert not is_test("agent/test_.py")

    def test_sleeping_is_forbidden_in_tests_except_where_waiting_is_made(self) -> None:
        source = "import time\ntime.sleep(1)\n"
        assert list(findings("tests/raft/test_core.py", source, {}))
        assert list(findings("tests/support/waiting.py", source, {})) == []
        assert list(findings("agent/runtime/process.py", source, {})) == []

    def test_a_tree_is_walked_and_each_finding_printed(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "agent" / "raft").mkdir(parents=True)
        (tmp_path / "agent" / "raft" / "core.py").write_text(f"x = 1  # {TO_DO}\n")
        (tmp_path / "Makefile").write_text(f"# {FIX_ME}\n")
        assert main(tmp_path) == 1
        assert capsys.readouterr().out.splitlines() == [
            f"Makefile:1: {FIX_ME}: finish it or leave it out",
            f"agent/raft/core.py:1: {TO_DO}: finish it or leave it out",
            "House rules: 2 files, 2 findings",
        ]

    def test_an_empty_tree_is_an_error_not_a_pass(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            main(tmp_path)
