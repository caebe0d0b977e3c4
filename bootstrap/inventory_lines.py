"""The lines of hosts.txt: words with their places, quotes, comments, sections, ranges. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple, NoReturn

from agent.errors import InputError
from agent.model.explain import shown

MAX_LINE_CHARACTERS: Final = 8192  # a host with every key and thirty labels is below a tenth of it
MAX_RANGE: Final = 1000  # as many hosts as a cluster may have

_SECTION: Final = re.compile(r"\[([^\[\]#]*)\]\s*(?:[#;].*)?")
_KEY: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]*")
_NUMBERS: Final = re.compile(r"(\d{1,6}):(\d{1,6})(?::(\d{1,6}))?")
_LETTERS: Final = re.compile(r"([a-z]):([a-z])(?::(\d{1,2}))?|([A-Z]):([A-Z])(?::(\d{1,2}))?")
_BRACKETS: Final = re.compile(r"\[([^\[\]]*)\]")


class Token(NamedTuple):
    """A word and where it stands, both counted from 1."""

    text: str
    line: int
    column: int

    def at(self, offset: int, text: str) -> Token:
        """Another text, `offset` characters after the beginning of this one."""
        return Token(text, self.line, self.column + offset)

    def pair(self, file: str) -> Pair:
        """The word as key=value. Raises InputError."""
        key, equals, value = self.text.partition("=")
        if not equals:
            fail(file, self, f"expected key=value, got {shown(self.text)}")
        if not _KEY.fullmatch(key):
            fail(file, self, f"{shown(key)} is no key: letters, digits and . _ / - in it")
        return Pair(self.at(0, key), self.at(len(key) + 1, value))


class Pair(NamedTuple):
    """key=value."""

    key: Token
    value: Token


class Line(NamedTuple):
    """A section's head, or the words of a line; at least one."""

    section: Token | None
    tokens: tuple[Token, ...]


def fail(file: str, token: Token, what: str, *, fix: str = "") -> NoReturn:
    """Raises InputError at the token's place."""
    raise InputError(what, where=f"{file}:{token.line}:{token.column}", fix=fix)


def split_lines(text: str) -> Iterator[tuple[int, str]]:
    """The file's lines with their numbers from 1, without line ends."""
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        yield number, raw.rstrip("\r")


def read_line(line: str, number: int, file: str) -> Line | None:
    """What the line says, None for nothing. Raises InputError."""
    if len(line) > MAX_LINE_CHARACTERS:
        fail(file, Token("", number, 1), f"the line has more than {MAX_LINE_CHARACTERS} characters")
    for column, character in enumerate(line, 1):
        if character != "\t" and not character.isprintable():
            fail(file, Token("", number, column), "a control character, or one that can't be seen")
    if match := _SECTION.fullmatch(line.strip()):
        return Line(Token(match[1], number, line.index("[") + 2), ())
    tokens = tuple(_words(line, number, file))
    return Line(None, tokens) if tokens else None


def _words(line: str, number: int, file: str) -> Iterator[Token]:
    """Split at blanks; quotes keep words together; # begins a comment where a word could begin (; only at a line's
    start).
    """
    position = 0
    while position < len(line):
        if line[position] in " \t":
            position += 1
            continue
        if line[position] == "#" or (line[position] == ";" and not line[:position].strip()):
            return
        start, text = position, ""
        while position < len(line) and line[position] not in " \t":
            if line[position] in "\"'":
                end = line.find(line[position], position + 1)
                if end < 0:
                    fail(file, Token("", number, position + 1), "a quote that doesn't end")
                text += line[position + 1 : end]
                position = end + 1
            else:
                text += line[position]
                position += 1
        yield Token(text, number, start + 1)


def expand(file: str, token: Token, pattern: str) -> list[str]:
    """`web[01:03]` → web01 web02 web03. Several ranges multiply. Raises InputError."""
    names, rest = [""], pattern
    while (match := _BRACKETS.search(rest)) is not None:
        before, rest = rest[: match.start()], rest[match.end() :]
        values = _range(file, token, match[1])
        if len(names) * len(values) > MAX_RANGE:
            fail(file, token, f"{shown(pattern)} stands for more than {MAX_RANGE} hosts")
        names = [f"{name}{before}{value}" for name in names for value in values]
    if "[" in rest or "]" in rest:
        fail(file, token, f"brackets that don't match in {shown(pattern)}")
    return [f"{name}{rest}" for name in names]


def _range(file: str, token: Token, text: str) -> list[str]:
    if match := _NUMBERS.fullmatch(text):
        first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
        padded = match[1].startswith("0") and len(match[1]) > 1
        if padded and len(match[1]) != len(match[2]):
            fail(file, token, f"both ends of [{text}] need the same number of digits")
        width = len(match[1]) if padded else 0
        values = [f"{value:0{width}d}" for value in range(first, min(last, first + step * MAX_RANGE) + 1, step or 1)]
    elif match := _LETTERS.fullmatch(text):
        low, high, by = (match[1], match[2], match[3]) if match[1] else (match[4], match[5], match[6])
        step = int(by or 1)
        values = [chr(code) for code in range(ord(low), ord(high) + 1, step or 1)]
    else:
        fail(file, token, f"[{text}] is no range: expected [1:9], [01:10], [a:f] or [1:9:2]")
    if not values or step < 1:
        fail(file, token, f"the range [{text}] is empty")
    return values
