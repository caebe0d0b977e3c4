"""Hostile bytes → checked types; every failure is an InputError that names the place and what was there.

For plans, signed bodies, configuration and API requests. The parser is stricter than RFC 8259: it refuses duplicate
keys, NaN, Infinity, numbers out of range, text that isn't UTF-8 and deep nesting, so that two readers never see two
things.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
from typing import Any, NoReturn, TypeVar, overload

import msgspec

from agent.errors import InputError, TooLarge
from agent.model.explain import child, explain, shown_key

T = TypeVar("T")

MAX_DEPTH = 32  # our deepest format, a plan's health check, is 5 deep; the stack of no parser is ever at risk
MAX_INTEGER_DIGITS = 20  # 64 bits with a sign; longer ones only cost time (quadratic in CPython)

# What we write ourselves: claims in their order, bodies sorted. The very bytes that one of these makes of what was read
# can hold nothing that the parser refuses, and most of what comes was written so; the parser takes ten times as long.
_OURS = msgspec.json.Encoder(), msgspec.json.Encoder(order="deterministic")

_LONG_NUMBER = b"0" * (MAX_INTEGER_DIGITS + 1)  # looked for with every digit a zero: ten times as fast as a pattern
_ALL_DIGITS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_BRACKETS = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)


@overload
def decode_json(data: bytes, type_: type[T], *, where: str = "$", max_bytes: int) -> T: ...
@overload
def decode_json(data: bytes, type_: Any, *, where: str = "$", max_bytes: int) -> Any: ...
def decode_json(data: bytes, type_: Any, *, where: str = "$", max_bytes: int) -> Any:
    """The JSON in `data` as a `type_`; `where` is what the root is called in messages.

    Raises TooLarge over `max_bytes`, InputError for anything else. Values under `environment` never show in messages.
    """
    if len(data) > max_bytes:
        raise TooLarge(f"{len(data)} bytes; at most {max_bytes} are taken", where=where)
    if data.count(b"{") + data.count(b"[") <= MAX_DEPTH and _LONG_NUMBER not in data.translate(_ALL_DIGITS_ZERO):
        try:
            value = msgspec.json.decode(data, type=type_)
            for encoder in _OURS:
                if encoder.encode(value) == data:
                    return value
        except (msgspec.MsgspecError, UnicodeError, RecursionError):
            pass
    tree = _parse(data, where)
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        _refuse(tree, type_, where, error)


def prepare(*types: Any) -> None:
    """Make msgspec compile these types now rather than when one is first decoded.

    For types that several threads decode: if a thread reads a struct while another thread is the first to, it uses a
    half-built description of it, and the process crashes.
    """
    for type_ in types:
        msgspec.json.Decoder(type_)


@overload
def convert(obj: object, type_: type[T], where: str = "$") -> T: ...
@overload
def convert(obj: object, type_: Any, where: str = "$") -> Any: ...
def convert(obj: object, type_: Any, where: str = "$") -> Any:
    """Plain objects (from TOML, say) as a `type_`; raises InputError as `decode_json`."""
    try:
        return msgspec.convert(obj, type_)
    except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
        _refuse(obj, type_, where, error)


def text_of(data: bytes, where: str) -> str:
    """UTF-8 as text; raises InputError."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"not UTF-8 at byte {error.start}", where=where) from None


def parse_toml(text: str, where: str) -> dict[str, Any]:
    """The plain tree of a TOML text; raises InputError."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise InputError("nested too deep", where=where) from None
    except ValueError as error:  # TOMLDecodeError, and integers of thousands of digits
        raise InputError(f"not valid TOML: {error}", where=where) from None


def _refuse(tree: object, type_: Any, where: str, error: Exception) -> NoReturn:
    problem = explain(tree, type_, where)
    if problem is not None:
        raise InputError(problem.what, where=problem.where) from None
    # What only msgspec knows: its own sentence and path, which hold no values but those of an enum.
    sentence, _, path = str(error).partition(" - at ")
    place = where + path.strip("`").removeprefix("$") if path.startswith("`$") else where
    raise InputError(sentence, where=place) from None


class _Poison:
    """Put into the parsed tree where something refused was found, so that the search for its path ends there."""

    def __init__(self, what: str) -> None:
        self.what = what


class _Hooks:
    """The callbacks of one parse; `poisoned` says that the tree has to be searched."""

    def __init__(self) -> None:
        self.poisoned = False

    def poison(self, what: str) -> _Poison:
        self.poisoned = True
        return _Poison(what)

    def pairs(self, pairs: list[tuple[str, Any]]) -> object:
        tree = dict(pairs)
        if len(tree) == len(pairs):
            return tree
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                return self.poison(f"the key {shown_key(key)} stands twice")
            seen.add(key)
        return tree

    def integer(self, digits: str) -> object:
        if len(digits) > MAX_INTEGER_DIGITS:
            return self.poison(f"a number of {len(digits)} digits; at most {MAX_INTEGER_DIGITS} are taken")
        return int(digits)

    def real(self, digits: str) -> object:
        value = float(digits)
        return value if math.isfinite(value) else self.poison("a number out of range")

    def constant(self, name: str) -> object:
        return self.poison(f"{name} is no JSON number")


def _parse(data: bytes, where: str) -> object:
    """The plain tree of strict JSON."""
    text = text_of(data, where)
    _check_depth(text, where)
    hooks = _Hooks()
    try:
        tree = json.loads(
            text,
            object_pairs_hook=hooks.pairs,
            parse_int=hooks.integer,
            parse_float=hooks.real,
            parse_constant=hooks.constant,
        )
    except json.JSONDecodeError as error:
        what = f"not valid JSON: {error.msg} (line {error.lineno}, column {error.colno})"
        raise InputError(what, where=where) from None
    if hooks.poisoned:
        _raise_poison(tree, where)
    return tree


def _check_depth(text: str, where: str) -> None:
    if text.count("{") + text.count("[") <= MAX_DEPTH:
        return  # the usual case, without looking at what is inside strings
    depth = 0
    for match in _BRACKETS.finditer(text):
        mark = text[match.start()]
        if mark in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise InputError(f"nested more than {MAX_DEPTH} deep", where=where)
        elif mark in "]}":
            depth -= 1


def _raise_poison(tree: object, where: str) -> None:
    if isinstance(tree, _Poison):
        raise InputError(tree.what, where=where)
    if isinstance(tree, dict):
        for key, value in tree.items():
            _raise_poison(value, child(where, key))
    elif isinstance(tree, list):
        for index, value in enumerate(tree):
            _raise_poison(value, child(where, index))
