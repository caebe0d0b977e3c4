"""Why a plain tree isn't of a type, and where: the sentence of an InputError.

msgspec decides whether a value is valid. This only explains, from the same types (`msgspec.inspect`), with the real
keys and values that msgspec's own messages leave out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, cast

from msgspec import Struct, inspect

HIDDEN_KEYS = frozenset({"environment"})
"""Values below these keys may be secrets: a message shows their kind and length only."""
MAX_SHOWN_CHARACTERS = 60  # enough to recognise a value, short enough for one line

_HUGE = 10**20  # CPython refuses to print integers of thousands of digits
_PLAIN_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")


class Problem(Struct, frozen=True):
    """`where` is the place (`$.services.web.ports[0]`), `what` the sentence."""

    where: str
    what: str


class _Place(Struct, frozen=True):
    path: str
    hidden: bool = False

    def child(self, key: object) -> _Place:
        return _Place(child(self.path, key), self.hidden or key in HIDDEN_KEYS)

    def problem(self, what: str) -> Problem:
        return Problem(self.path, what)

    def wrong(self, expected: str, value: object) -> Problem:
        return self.problem(f"expected {expected}, got {self.shown(value)}")

    def shown(self, value: object) -> str:
        if not self.hidden or value is None or isinstance(value, dict | list | tuple):
            return shown(value)
        return f"a text of {len(value)} characters" if isinstance(value, str) else f"a {_kind_of(value)}"


def child(path: str, key: object) -> str:
    """The path of the value under `key` (or at an index) of the one at `path`."""
    if isinstance(key, int):
        return f"{path}[{key}]"
    if isinstance(key, str) and _PLAIN_KEY.fullmatch(key):
        return f"{path}.{key}"
    return f"{path}[{shown(_name_only(key))}]"


def shown_key(key: str) -> str:
    """A key for a sentence: in backquotes, printable and short."""
    return f"`{_printable(_name_only(key))}`"


def _name_only(key: Any) -> Any:
    """Of a key like "NAME=value", an environment written wrongly, only the name may show."""
    return key.partition("=")[0] + "=…" if isinstance(key, str) and "=" in key else key


def explain(tree: object, type_: Any, where: str) -> Problem | None:
    """The first thing in `tree` that makes it not a `type_`; None when this finds nothing wrong."""
    return _find(tree, _type_info(type_), _Place(where))


@lru_cache(maxsize=64)
def _type_info(type_: Any) -> inspect.Type:
    return inspect.type_info(type_)


def _find(value: Any, kind: inspect.Type, place: _Place) -> Problem | None:
    kind, note = _unwrap(kind)
    finder = _FINDERS.get(type(kind))
    return finder(value, kind, note, place) if finder is not None else None


def _unwrap(kind: inspect.Type) -> tuple[inspect.Type, str]:
    """The type itself, and the description that its Meta carries."""
    note = ""
    while isinstance(kind, inspect.Metadata):
        note = (kind.extra_json_schema or {}).get("description", note)
        kind = kind.type
    return kind, note


def _number(value: Any, kind: Any, note: str, place: _Place) -> Problem | None:
    numeric = type(value) is int or (type(value) is float and isinstance(kind, inspect.FloatType))
    if numeric and _within(value, kind):
        return None
    return place.wrong(_expected(kind, note), value)


def _within(value: float, kind: Any) -> bool:
    return (
        (kind.ge is None or value >= kind.ge)
        and (kind.le is None or value <= kind.le)
        and (kind.gt is None or value > kind.gt)
        and (kind.lt is None or value < kind.lt)
    )


def _text(value: Any, kind: Any, note: str, place: _Place) -> Problem | None:
    if not isinstance(value, str):
        return place.wrong("text", value)
    if (problem := _length(value, kind, "characters", place)) is not None:
        return problem
    if kind.pattern is not None and re.search(kind.pattern, value) is None:
        return place.wrong(_expected(kind, note), value)
    return None


def _length(value: Any, kind: Any, unit: str, place: _Place) -> Problem | None:
    if kind.min_length is not None and len(value) < kind.min_length:
        return place.problem(f"expected {kind.min_length} or more {unit}, got {len(value)}")
    if kind.max_length is not None and len(value) > kind.max_length:
        return place.problem(f"expected at most {kind.max_length} {unit}, got {len(value)}")
    return None


def _boolean(value: Any, kind: Any, note: str, place: _Place) -> Problem | None:
    return None if isinstance(value, bool) else place.wrong(_expected(kind, note), value)


def _nothing(value: Any, kind: Any, note: str, place: _Place) -> Problem | None:
    return None if value is None else place.wrong(_expected(kind, note), value)


def _literal(value: Any, kind: Any, note: str, place: _Place) -> Problem | None:
    if any(type(value) is type(known) and value == known for known in kind.values):
        return None
    return place.wrong(_expected(kind, note), value)


def _sequence(value: Any, kind: Any, note: str, place: _Place) -> Problem | None:
    if not isinstance(value, list | tuple):
        return place.wrong("an array", value)
    if (problem := _length(value, kind, "items", place)) is not None:
        return problem
    return _first(_find(item, kind.item_type, place.child(index)) for index, item in enumerate(value))


def _tuple(value: Any, kind: Any, note: str, place: _Place) -> Problem | None:
    if not isinstance(value, list | tuple) or len(value) != len(kind.item_types):
        return place.wrong(f"an array of {len(kind.item_types)} items", value)
    pairs = enumerate(zip(value, kind.item_types, strict=True))
    return _first(_find(item, item_type, place.child(index)) for index, (item, item_type) in pairs)


def _mapping(value: Any, kind: Any, note: str, place: _Place) -> Problem | None:
    if not isinstance(value, dict):
        return place.wrong("an object", value)
    if (problem := _length(value, kind, "entries", place)) is not None:
        return problem
    for key, item in value.items():
        if (problem := _key(key, kind.key_type, place)) is not None:
            return problem
        if (problem := _find(item, kind.value_type, place.child(key))) is not None:
            return problem
    return None


def _key(key: object, kind: inspect.Type, place: _Place) -> Problem | None:
    if _find(key, kind, place) is None:
        return None
    return place.child(key).problem(f"expected a key of {_expected(*_unwrap(kind))}")


def _struct(value: Any, kind: Any, note: str, place: _Place) -> Problem | None:
    if kind.array_like:
        return None if isinstance(value, list | tuple) else place.wrong("an array", value)
    if isinstance(value, Struct):
        return None  # a part that was converted before; msgspec knows whether it fits
    if not isinstance(value, dict):
        return place.wrong("an object", value)
    fields = {field.encode_name: field for field in kind.fields}
    for key, item in value.items():
        if key in fields:
            problem = _find(item, fields[key].type, place.child(key))
        elif kind.forbid_unknown_fields and key != kind.tag_field:
            problem = place.problem(_unknown(key, [name for name in fields if name not in value]))
        else:
            problem = None
        if problem is not None:
            return problem
    missing = [name for name, field in fields.items() if field.required and name not in value]
    return place.problem(f"missing field {shown_key(missing[0])}") if missing else None


def _unknown(key: object, missing: list[str]) -> str:
    import difflib  # for what is wrong alone

    name = str(key)
    near = difflib.get_close_matches(name[:MAX_SHOWN_CHARACTERS], missing, 1)
    return f"unknown field {shown_key(name)}" + (f"; did you mean {shown_key(near[0])}?" if near else "")


def _union(value: Any, kind: Any, note: str, place: _Place) -> Problem | None:
    if (tagged := _tagged(value, kind, place)) is not None:
        return tagged[0]
    problems = [_find(value, option, place) for option in kind.types]
    if any(problem is None for problem in problems):
        return None
    inside = [problem for problem in problems if problem is not None and problem.where != place.path]
    options = [option for option in kind.types if not isinstance(option, inspect.NoneType)]
    if len(options) == 1:
        return _find(value, options[0], place)
    same = [option for option in options if _same_kind(value, option)]
    if len(same) == 1:
        return _find(value, same[0], place)
    return inside[0] if inside else place.wrong(" or ".join(_expected(*_unwrap(option)) for option in options), value)


def _tagged(value: Any, kind: Any, place: _Place) -> tuple[Problem | None] | None:
    """What is wrong with a member of a tagged union, as a 1-tuple; None when it isn't one."""
    structs = [option for option in kind.types if isinstance(option, inspect.StructType) and option.tag is not None]
    if not structs or not isinstance(value, dict):
        return None
    field = cast("str", structs[0].tag_field)
    if field not in value:
        return (place.problem(f"missing field {shown_key(field)}"),)
    for option in structs:
        if option.tag == value[field]:
            return (_find(value, option, place),)
    known = ", ".join(shown(option.tag) for option in structs)
    return (place.child(field).wrong(f"one of {known}", value[field]),)


def _same_kind(value: Any, kind: inspect.Type) -> bool:
    """Whether the value is of the JSON kind that the type takes, so that its problem is the one to tell."""
    kind, _ = _unwrap(kind)
    if isinstance(kind, inspect.StructType | inspect.DictType):
        return isinstance(value, dict)
    if isinstance(kind, inspect.ListType | inspect.VarTupleType):
        return isinstance(value, list | tuple)
    if isinstance(kind, inspect.StrType):
        return isinstance(value, str)
    return isinstance(kind, inspect.IntType | inspect.FloatType) and type(value) in (int, float)


def _expected(kind: Any, note: str) -> str:
    """What the type takes, as words after "expected"."""
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        return _bounds(kind)
    if isinstance(kind, inspect.LiteralType):
        known = ", ".join(shown(value) for value in kind.values)
        return f"one of {known}" if len(kind.values) > 1 else known
    if isinstance(kind, inspect.StrType):
        return note or (f"text matching {kind.pattern}" if kind.pattern else "text")
    if isinstance(kind, inspect.BoolType):
        return "true or false"
    if isinstance(kind, inspect.NoneType):
        return "null"
    return "an object" if isinstance(kind, inspect.StructType | inspect.DictType) else "an array"


def _bounds(kind: Any) -> str:
    word = "an integer" if isinstance(kind, inspect.IntType) else "a number"
    if kind.ge is not None and kind.le is not None:
        return f"{kind.ge}..{kind.le}"
    limits = [
        f"{sign} {bound}"
        for sign, bound in (("of at least", kind.ge), ("above", kind.gt), ("of at most", kind.le), ("below", kind.lt))
        if bound is not None
    ]
    return " ".join([word, " and ".join(limits)]).rstrip()


def _first(problems: Iterable[Problem | None]) -> Problem | None:
    return next((problem for problem in problems if problem is not None), None)


def _kind_of(value: object) -> str:
    return "boolean" if isinstance(value, bool) else "number" if isinstance(value, int | float) else "value"


def shown(value: object) -> str:
    """A value for a sentence: as JSON has it, printable, cut; containers by kind."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list | tuple):
        return "an array"
    if isinstance(value, str):
        return f'"{_printable(value)}"'
    if isinstance(value, int) and abs(value) >= _HUGE:
        return "a huge number"
    if value is None or isinstance(value, bool | int | float):
        return json.dumps(value)
    return f"a {type(value).__name__}"


def _printable(text: str) -> str:
    """Never a control or a surrogate to a terminal or a log."""
    cut = text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 1] + "…"
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in cut)


_FINDERS: dict[type, Callable[[Any, Any, str, _Place], Problem | None]] = {
    inspect.IntType: _number,
    inspect.FloatType: _number,
    inspect.StrType: _text,
    inspect.BoolType: _boolean,
    inspect.NoneType: _nothing,
    inspect.LiteralType: _literal,
    inspect.ListType: _sequence,
    inspect.VarTupleType: _sequence,
    inspect.SetType: _sequence,
    inspect.FrozenSetType: _sequence,
    inspect.TupleType: _tuple,
    inspect.DictType: _mapping,
    inspect.StructType: _struct,
    inspect.UnionType: _union,
}
