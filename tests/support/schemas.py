"""A small JSON Schema checker for what msgspec writes into OpenAPI documents: enough to catch an answer that lies."""

from __future__ import annotations

import re
from typing import Any


def violations(value: Any, schema: dict[str, Any], components: dict[str, Any], where: str = "$") -> list[str]:
    """What in `value` isn't as `schema` says, as `path: reason`."""
    if "$ref" in schema:
        return violations(value, components[schema["$ref"].rpartition("/")[2]], components, where)
    if "anyOf" in schema:
        every = [violations(value, each, components, where) for each in schema["anyOf"]]
        return [] if any(not each for each in every) else [f"{where}: none of {len(every)} alternatives fits"]
    if "enum" in schema and value not in schema["enum"]:
        return [f"{where}: {value!r} is none of {schema['enum']}"]
    kind = schema.get("type")
    if kind is not None and not _is(value, kind):
        return [f"{where}: {value!r} is no {kind}"]
    if isinstance(value, str) and re.search(schema.get("pattern", ""), value) is None:
        return [f"{where}: {value!r} doesn't match"]
    if isinstance(value, dict):
        return _of_object(value, schema, components, where)
    found: list[str] = []
    if isinstance(value, list) and isinstance(schema.get("items"), dict):
        for index, item in enumerate(value):
            found += violations(item, schema["items"], components, f"{where}[{index}]")
    return found


def _of_object(value: dict[str, Any], schema: dict[str, Any], components: dict[str, Any], where: str) -> list[str]:
    found: list[str] = []
    properties = schema.get("properties")
    if properties is not None:
        found += [f"{where}: {name} is missing" for name in schema.get("required", ()) if name not in value]
        found += [f"{where}: {name} isn't in the schema" for name in value if name not in properties]
    for name, item in value.items():
        inner = (properties or {}).get(name, schema.get("additionalProperties", {}))
        if isinstance(inner, dict):
            found += violations(item, inner, components, f"{where}.{name}")
    return found


def _is(value: Any, kind: str) -> bool:
    types: dict[str, Any] = {
        "string": str,
        "boolean": bool,
        "object": dict,
        "array": list,
        "null": type(None),
        "number": (int, float),
        "integer": int,
    }
    return isinstance(value, types[kind]) and not (kind in ("integer", "number") and isinstance(value, bool))
