"""The house rules that ruff and mypy can't express, as functions from a file's text to findings.

``python -m tests.checks`` runs them over the tree; they read nothing themselves.
"""

from __future__ import annotations

import ast
import io
import re
import tokenize
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

MODULE_MAX_LINES = 500  # one subject per module
FUNCTION_MAX_LINES = 60  # a function fits on a screen

# Put together here so that this file keeps its own rule.
UNFINISHED = re.compile(r"\b(?:" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3)) + r")\b")

_CODES = r"[A-Z]+[0-9]+(?:[,\s]+[A-Z]+[0-9]+)*"
_NOQA = re.compile(rf"#\s*(?:ruff:\s*)?noqa(?P<codes>:\s*{_CODES})?(?P<reason>.*)", re.IGNORECASE)
_TYPE_IGNORE = re.compile(r"#\s*type:\s*ignore(?P<codes>\[[a-z0-9, -]+\])?(?P<reason>.*)")
_OTHER = re.compile(r"#\s*(?P<what>pragma:\s*no (?:cover|branch)|fmt:\s*(?:off|skip)|mypy:\s*[a-z-]+)(?P<reason>.*)")
_ELSEWHERE = re.compile(r"\b(" + "|".join(("DES" + "IGN", "SE" + "ED")) + r')\s"')
_QUOTED = re.compile(r'"([^"]+)"')
_REFERENCE = re.compile(r'\b(?P<document>[\w/-]+\.md)\s+(?P<headings>"[^"]+"(?:,\s+"[^"]+")*)')
_REASON = re.compile(r"\w{2,}")  # at least one word


@dataclass(frozen=True, order=True)
class Finding:
    """One broken rule: ``path`` relative to the tree, ``line`` from 1."""

    path: str
    line: int
    message: str

    def __str__(self) -> str:
        """Return the usual ``path:line: message``."""
        return f"{self.path}:{self.line}: {self.message}"


def too_long(path: str, text: str) -> Iterator[Finding]:
    """Find a module over MODULE_MAX_LINES and functions over FUNCTION_MAX_LINES.

    A function counts from its ``def`` line to its last, docstring and nested functions included, decorators not.
    """
    lines = len(text.splitlines())
    if lines > MODULE_MAX_LINES:
        yield Finding(path, lines, f"the module has {lines} lines, {MODULE_MAX_LINES} allowed: split it by subject")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_MAX_LINES:
                message = f"{node.name}() has {length} lines, {FUNCTION_MAX_LINES} allowed: name its parts"
                yield Finding(path, node.lineno, message)


def unfinished(path: str, text: str) -> Iterator[Finding]:
    """Find marks of unfinished work: finish it, or say in the docs what is left out and why."""
    for number, line in enumerate(text.splitlines(), start=1):
        if mark := UNFINISHED.search(line):
            yield Finding(path, number, f"{mark[0]}: finish it or leave it out")


def bare_exemptions(path: str, text: str) -> Iterator[Finding]:
    """Find comments that silence a check without naming the rule and, on the same line, the reason."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type != tokenize.COMMENT:
            continue
        for pattern in (_NOQA, _TYPE_IGNORE, _OTHER):
            if (found := pattern.search(token.string)) is None:
                continue
            groups = found.groupdict()
            if "codes" in groups and groups["codes"] is None:
                yield Finding(path, token.start[0], f"{token.string!r} names no rule")
            elif not _REASON.search(groups["reason"]):
                yield Finding(path, token.start[0], f"{token.string!r} gives no reason on its line")


def lost_references(path: str, text: str, headings: Mapping[str, Collection[str]]) -> Iterator[Finding]:
    """Find headings of documents that aren't there, each named behind its document's path and in double quotes.

    ``headings``: of each document, by its path.
    """
    for elsewhere in _ELSEWHERE.finditer(text):
        line = text.count("\n", 0, elsewhere.start()) + 1
        yield Finding(path, line, f"{elsewhere[1]} isn't here: name a heading of ARCHITECTURE.md or docs/seed.md")
    for named in _REFERENCE.finditer(text):
        line = text.count("\n", 0, named.start()) + 1
        if (known := headings.get(named["document"])) is None:
            yield Finding(path, line, f"there is no document {named['document']}")
            continue
        for quoted in _QUOTED.findall(named["headings"]):
            heading = " ".join(quoted.split())  # it may go on in the next line
            if heading not in known:
                yield Finding(path, line, f"{named['document']} has no heading {heading!r}")


def late_annotations(path: str, text: str) -> Iterator[Finding]:
    """Find structs that are read from outside in modules whose annotations are texts.

    msgspec compiles each of these texts again in every process: 10 ms at an agent's start, and as many at a command's.
    """
    tree = ast.parse(text)
    if not any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body):
        return
    for node in ast.walk(tree):
        if not isinstance(node, ast.ClassDef) or not any(ast.unparse(base).endswith("Struct") for base in node.bases):
            continue
        if any(keyword.arg in {"forbid_unknown_fields", "tag"} for keyword in node.keywords):
            message = f"{node.name} is read: without `from __future__ import annotations` that costs a start nothing"
            yield Finding(path, node.lineno, message)


def unexplained_skips(path: str, text: str) -> Iterator[Finding]:
    """Find ``pytest.mark.skip``, ``skipif`` and ``xfail`` without a reason: no test stops running unexplained."""
    tree = ast.parse(text)
    called = {id(node.func): node for node in ast.walk(tree) if isinstance(node, ast.Call)}
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Attribute) and ast.unparse(node).startswith("pytest.mark.")):
            continue
        if node.attr not in {"skip", "skipif", "xfail"}:
            continue
        call = called.get(id(node))
        explained = call is not None and (
            any(keyword.arg == "reason" for keyword in call.keywords) or (node.attr == "skip" and bool(call.args))
        )
        if not explained:
            yield Finding(path, node.lineno, f"pytest.mark.{node.attr} gives no reason")


def sleeps(path: str, text: str) -> Iterator[Finding]:
    """Find uses of ``time.sleep``: a test waits for a condition (tests/support/waiting.py), not for a while."""
    message = "time.sleep in a test: wait for a condition (tests/support/waiting.py)"
    modules, functions = {"time"}, set[str]()
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            modules |= {alias.asname for alias in node.names if alias.name == "time" and alias.asname}
        elif isinstance(node, ast.ImportFrom) and node.module == "time":
            functions |= {alias.asname or alias.name for alias in node.names if alias.name == "sleep"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "sleep":
            if isinstance(node.value, ast.Name) and node.value.id in modules:
                yield Finding(path, node.lineno, message)
        elif isinstance(node, ast.Name) and node.id in functions:
            yield Finding(path, node.lineno, message)
