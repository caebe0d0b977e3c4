"""Access tokens: read-only, for an hour at most (docs/api.md "Access tokens")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from agent.errors import NotAuthenticated
from agent.instruction import audience_of, new_key, public_hex, read_access, sign_access
from agent.model.cluster import Operator
from tests.instruction.jwts import forge, parts

KEY, NOW = new_key(), 1_700_000_000.0
CLUSTER = "abcdefgh234567ab"
OPERATORS = {"alice": Operator(name="alice", key=public_hex(KEY), scope="read")}
GOOD = sign_access(KEY, operator_name="alice", cluster=CLUSTER, epoch=1, now_s=NOW)
HEADER, CLAIMS = parts(GOOD)


def read(token: str, now: float = NOW, epoch: int = 1, operators: dict[str, Operator] = OPERATORS) -> str:
    return read_access(token, operators, audience_of(CLUSTER, epoch), now).scope


def test_it_reads_for_an_hour() -> None:
    assert HEADER["typ"] == "access+jwt"
    assert read(GOOD) == read(GOOD, NOW + 3629) == read(GOOD, NOW - 30) == "read"


@pytest.mark.parametrize("now", [NOW - 31, NOW + 3630])
def test_it_is_for_its_time_only(now: float) -> None:
    with pytest.raises(NotAuthenticated, match="isn't valid now"):
        read(GOOD, now)


def test_it_ends_with_the_operator_and_with_the_epoch() -> None:
    with pytest.raises(NotAuthenticated):
        read(GOOD, operators={})
    with pytest.raises(NotAuthenticated):
        read(GOOD, epoch=2)


HOSTILE: dict[str, Callable[[], Any]] = {
    "more scope": lambda: forge(KEY, HEADER, CLAIMS | {"scope": "admin"}),
    "no scope": lambda: forge(KEY, HEADER, {k: v for k, v in CLAIMS.items() if k != "scope"}),
    "no end": lambda: forge(KEY, HEADER, {k: v for k, v in CLAIMS.items() if k != "exp"}),
    "two hours": lambda: sign_access(KEY, operator_name="alice", cluster=CLUSTER, epoch=1, now_s=NOW, ttl_s=7200),
    "another kind": lambda: forge(KEY, HEADER | {"typ": "deploy+jwt"}, CLAIMS),
    "another key": lambda: forge(new_key(), HEADER, CLAIMS),
    "an act in it": lambda: forge(KEY, HEADER, CLAIMS | {"act": "deploy"}),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_access_token_reads_nothing(name: str) -> None:
    with pytest.raises(NotAuthenticated):
        read(HOSTILE[name]())
