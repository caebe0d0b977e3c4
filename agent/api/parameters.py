"""Path and query parameters, checked one by one so that the error names the one that is wrong."""

from __future__ import annotations

from functools import lru_cache
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import msgspec
from aiohttp import web
from msgspec import Meta, Struct

from agent.errors import InputError
from agent.formats.timestamps import parse_rfc3339_ms
from agent.model.decode import convert
from agent.model.explain import shown, shown_key
from agent.model.stack import MAX_REPLICAS
from agent.model.types import Digest, Jti, Label, Target

MAX_TAIL_LINES = 10_000  # of each replica; more is a download, and `since` narrows it
MAX_AUDIT_LINES = 500  # in one answer: a second of JSON at most, some 300 kB; `more` goes on

S = TypeVar("S", bound=Struct)

Timestamp = Annotated[str, Meta(max_length=40, description="RFC 3339 in UTC, such as 2024-01-15T10:30:00Z")]


HostNames = Annotated[
    str,
    Meta(
        max_length=4096,
        pattern=r"\A[a-z0-9]([a-z0-9-]*[a-z0-9])?(,[a-z0-9]([a-z0-9-]*[a-z0-9])?)*\Z",
        description="hosts' names with commas between, such as n1,n2",
    ),
]


class NoQuery(Struct, frozen=True, kw_only=True):
    """A route without query parameters."""


class LogsQuery(Struct, frozen=True, kw_only=True):
    """Which lines of which replicas; `follow` goes on until the client leaves."""

    service: Label | None = None
    slot: Annotated[int, Meta(ge=1, le=MAX_REPLICAS)] | None = None
    tail: Annotated[int, Meta(ge=0, le=MAX_TAIL_LINES)] | None = None
    since: Timestamp | None = None
    follow: bool = False


class UsageQuery(Struct, frozen=True, kw_only=True):
    """Of one stack; by default of all that the reader may see."""

    stack: Label | None = None


class EventsQuery(Struct, frozen=True, kw_only=True):
    """`follow=false` ends after the kept events; `recent` tells those first. A `Last-Event-ID` goes before both."""

    follow: bool = True
    recent: bool = False


class AuditQuery(Struct, frozen=True, kw_only=True):
    """Which instructions: on one target, behind an index, at most so many."""

    target: Target | None = None
    after: Annotated[int, Meta(ge=0, le=2**62)] = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_AUDIT_LINES)] = MAX_AUDIT_LINES


class ProofQuery(Struct, frozen=True, kw_only=True):
    """Up to which entry the chain is told; all that is kept is read anyway."""

    at: Annotated[int, Meta(ge=1, le=2**62)] | None = None


class DoctorQuery(Struct, frozen=True, kw_only=True):
    """`hosts`: members' names with commas between, all by default. `log`: with the agents' newest lines."""

    hosts: HostNames | None = None
    log: bool = False


class BlobQuery(Struct, frozen=True, kw_only=True):
    """What a content is sent for; its token says the same."""

    use: Literal["file", "image"] = "file"


VolumeName = Annotated[
    str, Meta(pattern=r"\A[a-zA-Z0-9][a-zA-Z0-9_.-]{1,127}\Z", description="a named volume, as the plan calls it")
]

PATH_TYPES: dict[str, Any] = {
    "stack": Label,
    "target": Target,
    "jti": Jti,
    "operation": Jti,
    "digest": Digest,
    "volume": VolumeName,
}


def read_query(request: web.BaseRequest, type_: type[S]) -> S:
    """The query as a `type_`. Raises InputError naming the parameter: unknown, given twice, or not what it must be."""
    hints = _hints(type_)
    values: dict[str, Any] = {}
    for name, text in request.query.items():
        where = f"?{shown_key(name).strip('`')}"
        if name not in hints:
            known = ", ".join(sorted(hints)) or "none"
            raise InputError("no such parameter", where=where, fix=f"Parameters here: {known}.")
        if name in values:
            raise InputError("stands twice", where=where)
        values[name] = _value(text, hints[name], where)
    query = type_(**values)
    since = values.get("since")
    if since is not None:
        parse_rfc3339_ms(since, where="?since")
    return query


@lru_cache
def _hints(type_: type[Struct]) -> dict[str, Any]:
    """Asked at every request, of the few types above; finding them out takes longer than the rest."""
    return get_type_hints(type_, include_extras=True)


def _value(text: str, type_: Any, where: str) -> Any:
    try:
        return msgspec.convert(text, type_, strict=False)
    except (msgspec.ValidationError, UnicodeError):
        expected = "true or false" if type_ is bool else _expected(type_)
        raise InputError(f"expected {expected}, got {shown(text)}", where=where) from None


def _expected(type_: Any) -> str:
    """In words, from the same bounds that JSON Schema shows."""
    schema = msgspec.json.schema(type_)
    alternatives = [item for item in schema.get("anyOf", [schema]) if item.get("type") != "null"]
    schema = alternatives[0]
    if "description" in schema:
        return str(schema["description"])
    if schema.get("type") == "integer":
        return f"a number {schema.get('minimum', '')}..{schema.get('maximum', '')}"
    return str(schema.get("type", "another value"))


def read_path(request: web.Request, name: str) -> str:
    """A path parameter. Raises InputError for anything that isn't of its type: aiohttp decodes %2F, %00 and CRLF."""
    value: str = convert(request.match_info[name], PATH_TYPES[name], f"/{{{name}}}")
    return value
