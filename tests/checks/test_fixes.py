"""What errors tell people to do: sentences, so they begin as sentences do."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def beginnings(source: str) -> Iterator[tuple[int, str]]:
    """Yield the line and the first words of each ``fix`` that a module gives literally, as argument or variable."""
    for node in ast.walk(ast.parse(source)):
        values: list[ast.expr] = []
        if isinstance(node, ast.Call):
            values = [keyword.value for keyword in node.keywords if keyword.arg == "fix"]
        elif isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "fix" for t in node.targets):
            values = [node.value]
        for value in values:
            yield from ((value.lineno, text) for text in _texts(value))


def _texts(value: ast.expr) -> Iterator[str]:
    if isinstance(value, ast.IfExp):
        yield from _texts(value.body)
        yield from _texts(value.orelse)
    first = value.values[0] if isinstance(value, ast.JoinedStr) and value.values else value
    if isinstance(first, ast.Constant) and isinstance(first.value, str):
        yield first.value


@pytest.mark.parametrize("package", ["agent", "bootstrap"])
def test_what_to_do_begins_like_a_sentence(package: str) -> None:
    wrong, count = [], 0
    for path in sorted((ROOT / package).rglob("*.py")):
        for line, text in beginnings(path.read_text(encoding="utf-8")):
            count += 1
            if text[:1].islower():
                wrong.append(f"{path.relative_to(ROOT)}:{line}: {text}")
    assert count > 20
    assert wrong == []


def test_each_way_of_giving_one_is_found() -> None:
    source = (
        "E('x', fix='one')\n"
        "E('x', fix=f'two {n}')\n"
        "fix = 'three'\n"
        "E('x', fix='four' if n else f'five {n}')\n"
        "E('x', fix=error.fix)\n"
        "E('x', fix=f'{n} six')\n"
    )
    assert {text for _, text in beginnings(source)} == {"one", "two ", "three", "four", "five "}
