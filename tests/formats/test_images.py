"""Which image SEED's DOCKER_REGISTRY and DOCKER_IMAGE_TAG make of a plan's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import InputError
from agent.formats.images import check_registry, check_tag, with_source

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("ref", "registry", "tag", "made"),
    [
        ("translator:latest", None, None, "translator:latest"),
        ("translator:latest", "your-registry.com", None, "your-registry.com/translator:latest"),
        ("translator", None, "2.0", "translator:2.0"),
        ("translator:1", "r.io:5000", "2.0", "r.io:5000/translator:2.0"),
        ("old.io/team/app:1", "r.io", None, "r.io/team/app:1"),
        ("localhost:5000/app", "r.io", "2", "r.io/app:2"),
        ("localhost/app", "r.io", None, "r.io/app"),
        ("team/app", "r.io", None, "r.io/team/app"),
        ("old.io:5000/app", None, "2", "old.io:5000/app:2"),
        (f"app@{DIGEST}", "r.io", "2", f"app@{DIGEST}"),
    ],
)
def test_registry_and_tag_are_replaced(ref: str, registry: str | None, tag: str | None, made: str) -> None:
    assert with_source(ref, registry=registry, tag=tag) == made


parts = st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True)


@given(st.lists(parts, min_size=1, max_size=3), parts, parts)
def test_what_is_replaced_once_is_replaced_again_alike(path: list[str], registry: str, tag: str) -> None:
    made = with_source("/".join(path), registry=f"{registry}.io:5000", tag=tag)
    assert made == f"{registry}.io:5000/{'/'.join(path)}:{tag}"
    assert with_source(made, registry=f"{registry}.io:5000", tag=tag) == made


@pytest.mark.parametrize("registry", ["", "-x", "a b", "https://r.io", "r.io/", "r.io:port", "r.io\n", "R.io/UP"])
def test_what_is_no_registry_is_refused(registry: str) -> None:
    with pytest.raises(InputError):
        check_registry(registry, where="DOCKER_REGISTRY")


@pytest.mark.parametrize("tag", ["", "a:b", "a/b", ".x", "x" * 129, "a b", "a\n"])
def test_what_is_no_tag_is_refused(tag: str) -> None:
    with pytest.raises(InputError):
        check_tag(tag, where="DOCKER_IMAGE_TAG")
