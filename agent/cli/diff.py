"""What a deploy would change, service by service. Pure. Environment values are hidden, so only their names are
compared.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Literal

import msgspec
from msgspec import Struct

from agent.instruction import body_digest, encode_body
from agent.model.api import StackView
from agent.model.stack import Service, Stack, StackFile
from agent.model.types import Label, Labels

MAX_FILES_SHOWN = 20  # as many as one reads

Change = Literal["added", "removed", "changed", "same"]

_MARKS: Mapping[Change, str] = {"added": "+", "removed": "-", "changed": "~", "same": " "}
_UNKNOWN: Mapping[Label, Labels] = MappingProxyType({})


class FieldChange(Struct, frozen=True, kw_only=True):
    """`before` and `after` as JSON text; of an environment only the names."""

    field: str
    before: str
    after: str


class ServiceChange(Struct, frozen=True, kw_only=True):
    """What becomes of one service. `changed` without fields: environment values may differ."""

    service: str
    change: Change
    fields: tuple[FieldChange, ...] = ()


class StackDiff(Struct, frozen=True, kw_only=True):
    """`identical`: exactly this body is deployed. `scale`, set since, ends with a deploy. `nowhere`: services that no
    host may run because of its name and labels, and why; a deploy fails for them before it changes anything. `files`:
    those sent along that differ.
    """

    stack: str
    revision: int
    identical: bool
    services: tuple[ServiceChange, ...]
    files: dict[str, Change] = {}
    scale_ends: dict[str, int] = {}
    nowhere: dict[str, str] = {}


def stack_diff(running: StackView | None, wanted: Stack, hosts: Mapping[Label, Labels] = _UNKNOWN) -> StackDiff:
    """`running` None: there is no such stack yet. `hosts`: the labels of all hosts that there will be, if known."""
    before = running.stack.services if running is not None else {}
    identical = running is not None and running.deployed.digest == body_digest(encode_body(wanted))
    changes = [
        _service_change(name, before.get(name), wanted.services.get(name))
        for name in sorted({**before, **wanted.services})
    ]
    return StackDiff(
        stack=wanted.name,
        revision=running.revision if running is not None else 0,
        identical=identical,
        services=tuple(changes),
        files=_file_changes(running.stack.files if running is not None else {}, wanted.files),
        scale_ends=running.scale if running is not None else {},
        nowhere={name: why for name, service in sorted(wanted.services.items()) if (why := _nowhere(service, hosts))},
    )


def _nowhere(service: Service, hosts: Mapping[Label, Labels]) -> str:
    from agent.control.fit import constraint_reason, refusal  # with all that coordinates behind it: for this alone

    if service.replicas == 0:
        return ""
    reasons = {name: constraint_reason(name, labels, service) for name, labels in sorted(hosts.items())}
    return refusal(reasons.items()) if all(reasons.values()) else ""


def diff_lines(diff: StackDiff) -> list[str]:
    """The same for people."""
    ends = [f"  {name}: the scale of {count} set since ends" for name, count in sorted(diff.scale_ends.items())]
    ends += [f"! {name}: no host may run it, so the deploy would fail: {why}" for name, why in diff.nowhere.items()]
    if diff.identical:
        return [f"{diff.stack}: exactly what is deployed", *ends]
    lines = [f"{diff.stack}: revision {diff.revision + 1}"]
    for change in diff.services:
        lines.append(f"{_MARKS[change.change]} {change.service}")
        lines += [f"    {field.field}: {field.before} → {field.after}" for field in change.fields]
    lines += [f"{_MARKS[change]} ./{path}" for path, change in list(diff.files.items())[:MAX_FILES_SHOWN]]
    if len(diff.files) > MAX_FILES_SHOWN:
        lines.append(f"  and {len(diff.files) - MAX_FILES_SHOWN} more files")
    if not diff.files and all(change.change == "same" for change in diff.services):
        lines.append("    only environment values may differ; they aren't shown")
    return [*lines, *ends]


def _file_changes(before: Mapping[str, StackFile], after: Mapping[str, StackFile]) -> dict[str, Change]:
    added: dict[str, Change] = dict.fromkeys(after.keys() - before.keys(), "added")
    removed: dict[str, Change] = dict.fromkeys(before.keys() - after.keys(), "removed")
    changed: dict[str, Change] = {
        path: "changed" for path in before.keys() & after.keys() if before[path] != after[path]
    }
    return dict(sorted((added | removed | changed).items()))


def _service_change(name: str, before: Service | None, after: Service | None) -> ServiceChange:
    if before is None:
        return ServiceChange(service=name, change="added")
    if after is None:
        return ServiceChange(service=name, change="removed")
    fields = tuple(
        FieldChange(field=field, before=one, after=other)
        for field in Service.__struct_fields__
        if (one := _shown(field, before)) != (other := _shown(field, after))
    )
    return ServiceChange(service=name, change="changed" if fields else "same", fields=fields)


def _shown(field: str, service: Service) -> str:
    value: Any = getattr(service, field)
    if field == "environment":
        value = sorted(value)
    return msgspec.json.encode(None if value is msgspec.UNSET else value).decode()
