"""Blob tokens: one content, one use, one operator who may, for five minutes."""

from __future__ import annotations

from typing import Any

import pytest

from agent.errors import InputError, NotAllowed, NotAuthenticated
from agent.instruction import BlobClaims, audience_of, new_key, public_hex, read_blob, sign_blob
from agent.instruction.blobs import MAX_BLOB_TTL_S
from agent.model.cluster import Operator
from agent.model.stack import MAX_FILES_BYTES
from tests.instruction.jwts import forge, parts

KEY, NOW = new_key(), 1_700_000_000.0
CLUSTER = "abcdefgh234567ab"
DIGEST = "0" * 64


def operators(scope: str = "deploy", *stacks: str) -> dict[str, Operator]:
    return {"alice": Operator(name="alice", key=public_hex(KEY), scope=scope, stacks=stacks or ("*",))}  # type: ignore[arg-type]  # a ScopeName


def sign(**changes: Any) -> str:
    fields: dict[str, Any] = {
        "operator_name": "alice",
        "cluster": CLUSTER,
        "epoch": 1,
        "use": "file",
        "digest": DIGEST,
        "size": 5,
        "now_s": NOW,
    }
    return sign_blob(KEY, **(fields | changes))


def read(token: str, now: float = NOW, epoch: int = 1, known: dict[str, Operator] | None = None) -> BlobClaims:
    return read_blob(token, operators() if known is None else known, audience_of(CLUSTER, epoch), now)


def test_it_names_a_content_its_size_its_use_and_hosts() -> None:
    claims = read(sign(use="image", hosts=("n1", "n2")))
    assert (claims.use, claims.digest, claims.size, claims.hosts) == ("image", DIGEST, 5, ["n1", "n2"])


@pytest.mark.parametrize("now", [NOW - 31, NOW + MAX_BLOB_TTL_S + 30])
def test_it_is_for_its_time_only(now: float) -> None:
    with pytest.raises(NotAuthenticated, match="isn't valid now"):
        read(sign(), now)


def test_nobody_gets_a_longer_one() -> None:
    with pytest.raises(NotAuthenticated, match="at most 300 s"):
        read(sign(ttl_s=MAX_BLOB_TTL_S + 1))


def test_it_ends_with_the_operator_and_with_the_epoch() -> None:
    with pytest.raises(NotAuthenticated):
        read(sign(), known={})
    with pytest.raises(NotAuthenticated):
        read(sign(), epoch=2)


@pytest.mark.parametrize("change", [{"digest": "1" * 64}, {"size": 6}, {"use": "image"}, {"hosts": ["n1"]}])
def test_another_claim_breaks_the_signature(change: dict[str, object]) -> None:
    header, claims = parts(sign())
    with pytest.raises(NotAuthenticated):
        read(forge(new_key(), header, claims | change))


@pytest.mark.parametrize("scope", ["read", "operate"])
@pytest.mark.parametrize("use", ["file", "image"])
def test_sending_anything_needs_deploy(scope: str, use: str) -> None:
    with pytest.raises(NotAllowed, match="needs deploy"):
        read(sign(use=use), known=operators(scope))


def test_an_image_is_every_stacks_so_an_operator_limited_to_some_may_send_files_only() -> None:
    limited = operators("deploy", "shop*")
    assert read(sign(), known=limited).use == "file"
    with pytest.raises(NotAllowed, match="an image is every stack's"):
        read(sign(use="image"), known=limited)
    assert read(sign(use="image"), known=operators("admin", "shop*")).use == "image"


def test_a_file_has_the_bound_of_a_stacks_files_and_an_image_a_larger_one() -> None:
    with pytest.raises(NotAllowed, match="at most"):
        read(sign(size=MAX_FILES_BYTES + 1))
    assert read(sign(use="image", size=MAX_FILES_BYTES + 1)).size == MAX_FILES_BYTES + 1
    with pytest.raises(InputError):
        sign(use="image", size=2**40)
