"""What goes over a peer link, written down: every struct with its fields' types and bounds.

One file for each version of the frames (agent.node.versions), `tests/net/kept_shapes/<version>.json`. The newest is
written anew from what the code has by `python -m tests.net.shapes`; the others never change again.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from msgspec import NODEFAULT, UNSET, Struct, inspect

from agent.model.report import HostReport
from agent.net.frames import Opening
from agent.node.messages import CallFrame, Frame, RaftFrame, ReplyFrame, SwimFrame
from agent.node.versions import FRAME_VERSION, SINCE
from agent.swim import SwimMessage

FOLDER = Path(__file__).parent / "kept_shapes"
ROOTS: Mapping[str, Any] = {"Frame": Frame, "Opening": Opening, "SwimMessage": SwimMessage, "HostReport": HostReport}
"""`HostReport` travels as the bytes that its host signed."""

MAY_GROW = {("Refused", "reason")}
"""Said before there is a version that both know; one that isn't understood ends the link as well."""

UNSENT = {("Assignment", "predecessor")}
"""Of the ledger alone: errands go without it (agent.control.preparation), so nobody has to know it who reads them."""

Shapes = dict[str, Any]
"""`roots`: what a frame, a hello, … may be; `structs`: form, tag and fields of each struct in them, by its name."""


def file_of(version: int) -> Path:
    return FOLDER / f"{version}.json"


def kept(version: int) -> Shapes:
    """As that version was written down."""
    shapes: Shapes = json.loads(file_of(version).read_text())
    return shapes


def today() -> Shapes:
    """As the code has it."""
    found: dict[str, Any] = {}
    roots = {name: _name(inspect.type_info(root), found) for name, root in ROOTS.items()}
    return {"roots": roots, "structs": {name: found[name] for name in sorted(found)}}


def write(version: int) -> None:
    file_of(version).write_text(json.dumps(today(), indent=1) + "\n")


def version_of(frame: Frame) -> int:
    """The first version in which this frame is understood, with what it carries."""
    inner: Struct | None = None
    match frame:
        case CallFrame(request=inner) | ReplyFrame(reply=inner) | RaftFrame(message=inner) | SwimFrame(message=inner):
            pass
    return max(SINCE.get(type(frame), 1), SINCE.get(type(inner), 1) if inner is not None else 1)


def differences(earlier: Shapes, later: Shapes, version: int) -> list[str]:
    """What an agent of the earlier version would be at a loss with, in `later`, which is `version`: a sentence each."""
    wrong = []
    since = {kind.__name__ for kind, first in SINCE.items() if first == version}
    for name, was in earlier["structs"].items():
        struct = later["structs"].get(name)
        if struct is None:
            wrong.append(f"{name} is gone")
            continue
        wrong += [f"{name}'s {part} is another" for part in ("form", "closed", "tag") if struct[part] != was[part]]
        for field, shape in was["fields"].items():
            now = struct["fields"].get(field, "gone")
            if now != shape and not _grew(shape, now, since) and (name, field) not in MAY_GROW:
                wrong.append(f"{name}.{field} was {shape}, and is {now}")
        for field in struct["fields"].keys() - was["fields"].keys():
            if (name, field) in UNSENT:
                continue
            if was["form"] == "array" or was["closed"]:
                wrong.append(f"{name}.{field}: an earlier version takes no field more there")
            elif " = " not in struct["fields"][field]:
                wrong.append(f"{name}.{field} has no default for what an earlier version doesn't say")
    wrong += [
        f"{root} is {later['roots'][root]}, and was {was}"
        for root, was in earlier["roots"].items()
        if later["roots"][root] != was and not _grew(was, later["roots"][root], since)
    ]
    return wrong


def _grew(was: str, now: str, since: Collection[str]) -> bool:
    """Whether kinds came to it that `SINCE` keeps from whoever doesn't know them."""
    before, after = set(was.split(" | ")), set(now.split(" | "))
    return before <= after and after - before <= set(since)


def _struct(info: inspect.StructType, found: dict[str, Any]) -> str:
    name = info.cls.__name__
    if name not in found:
        found[name] = {}  # it may hold itself
        found[name] = {
            "form": "array" if info.array_like else "map",
            "closed": info.forbid_unknown_fields,
            "tag": info.tag,
            "fields": {field.encode_name: _field(field, found) for field in info.fields},
        }
    return name


def _field(field: inspect.Field, found: dict[str, Any]) -> str:
    """A default is a part of the meaning: whoever doesn't say anything says that."""
    name = _name(field.type, found)
    if field.required:
        return name
    if field.default_factory is not NODEFAULT:
        return f"{name} = {field.default_factory.__name__}()"
    default = field.default
    return f"{name} = {default.name if isinstance(default, enum.Enum) else default!r}"


def _name(info: inspect.Type, found: dict[str, Any]) -> str:
    match info:
        case inspect.StructType():
            return _struct(info, found)
        case inspect.UnionType(types=types):
            return " | ".join(sorted(_name(one, found) for one in types))
        case inspect.LiteralType(values=values):
            return f"one of {sorted(values, key=str)}"
        case inspect.EnumType(cls=cls):
            return f"one of {sorted(member.value for member in cls)}"
        case inspect.VarTupleType(item_type=item) | inspect.ListType(item_type=item):
            return f"[{_name(item, found)}]{_bounds(info)}"
        case inspect.TupleType(item_types=items):
            return f"({', '.join(_name(item, found) for item in items)})"
        case inspect.DictType(key_type=key, value_type=value):
            return f"{{{_name(key, found)}: {_name(value, found)}}}{_bounds(info)}"
        case inspect.Metadata(type=inner):
            return _name(inner, found)
        case _:
            return type(info).__name__.removesuffix("Type").lower() + _bounds(info)


def _bounds(info: inspect.Type) -> str:
    """Whoever takes less refuses the whole frame."""
    names = ("gt", "ge", "lt", "le", "multiple_of", "pattern", "min_length", "max_length")
    bounds = [f"{name}={getattr(info, name)}" for name in names if getattr(info, name, None) not in (None, UNSET)]
    return f" ({', '.join(bounds)})" if bounds else ""


def fields_later_than(version: int) -> dict[type[Struct], set[str]]:
    """Of the structs that there are today: the fields that this version doesn't know."""
    known, later = kept(version)["structs"], {}
    for name, struct in classes_in(*ROOTS.values()).items():
        if name in known and (new := set(struct.__struct_encode_fields__) - known[name]["fields"].keys()):
            later[struct] = new
    return later


def classes_in(*roots: Any) -> dict[str, type[Struct]]:
    """Every struct that one of these types is or may hold, by its name."""
    found: dict[str, type[Struct]] = {}

    def look(info: Any) -> None:
        if isinstance(info, inspect.StructType):
            if info.cls.__name__ in found:
                return
            found[info.cls.__name__] = info.cls
            for field in info.fields:
                look(field.type)
        for part in ("type", "item_type", "key_type", "value_type"):
            if hasattr(info, part):
                look(getattr(info, part))
        for part in ("types", "item_types"):
            for one in getattr(info, part, ()):
                look(one)

    for root in roots:
        look(inspect.type_info(root))
    return found


if __name__ == "__main__":
    write(FRAME_VERSION)
