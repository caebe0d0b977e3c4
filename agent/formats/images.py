"""An image reference with another registry or tag: SEED's DOCKER_REGISTRY and DOCKER_IMAGE_TAG. Pure.

`[registry/]path[:tag][@digest]`; the first part is a registry when it has a dot or a colon, or is `localhost`, as
Docker has it.
"""

from __future__ import annotations

import re

from agent.errors import InputError
from agent.model.explain import shown

_REGISTRY = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*(?::\d{1,5})?(?:/[a-z0-9][a-z0-9._/-]*)?", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}", re.ASCII)


def check_registry(registry: str, *, where: str) -> None:
    """Raises InputError for text that can't be the registry of an image."""
    if _REGISTRY.fullmatch(registry) is None or len(registry) > 255:
        raise InputError(f"expected a registry such as registry.example.org:5000, got {shown(registry)}", where=where)


def check_tag(tag: str, *, where: str) -> None:
    """Raises InputError for text that can't be the tag of an image."""
    if _TAG.fullmatch(tag) is None:
        raise InputError(f"expected a tag such as latest or 2.0, got {shown(tag)}", where=where)


def with_source(ref: str, *, registry: str | None = None, tag: str | None = None) -> str:
    """The reference with that registry and tag. One that is pinned by a digest stays as it is."""
    if "@" in ref:
        return ref
    first, slash, rest = ref.partition("/")
    if registry and slash and ("." in first or ":" in first or first == "localhost"):
        ref = rest
    if tag:
        directory, slash, name = ref.rpartition("/")
        ref = f"{directory}{slash}{name.partition(':')[0]}:{tag}"
    return f"{registry}/{ref}" if registry else ref
