"""The hello that opens a peer link (ARCHITECTURE.md "Membership and links")."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import NotAuthenticated
from agent.instruction import HELLO_TTL_S, new_key, public_hex, read_hello, sign_hello, sign_instruction
from agent.model.identity import agent_id_of
from tests.instruction.jwts import forge, header_of, parts

KEY, OTHER = new_key(), new_key()
ME = agent_id_of(bytes.fromhex(public_hex(KEY)))
YOU = agent_id_of(bytes.fromhex(public_hex(OTHER)))
TLS = "5a" * 32
GOOD = sign_hello(KEY, audience=YOU, tls=TLS, now_s=1000.9, jti="ab" * 16)
HEADER, CLAIMS = parts(GOOD)


def test_a_hello_says_who_to_whom_and_on_which_session() -> None:
    claims = read_hello(GOOD, audience=YOU, tls=TLS)
    assert (claims.iss, claims.aud, claims.tls, claims.key) == (ME, YOU, TLS, public_hex(KEY))
    assert claims.exp - claims.iat == HELLO_TTL_S
    assert header_of(KEY, "peer+jwt") == HEADER


def test_the_local_clock_is_not_asked() -> None:
    """Hosts without an RTC start in 1970 and must link before they know the time."""
    for now in (0.0, 4e9):
        read_hello(sign_hello(KEY, audience=YOU, tls=TLS, now_s=now), audience=YOU, tls=TLS)


HOSTILE: dict[str, Callable[[], Any]] = {
    "replayed on another session": lambda: sign_hello(KEY, audience=YOU, tls="00" * 32, now_s=1000),
    "passed on to a third": lambda: sign_hello(KEY, audience=ME, tls=TLS, now_s=1000),
    "another's id": lambda: forge(KEY, HEADER, CLAIMS | {"iss": YOU}),
    "another's id and key": lambda: forge(KEY, HEADER, CLAIMS | {"iss": YOU, "key": public_hex(OTHER)}),
    "another's key": lambda: forge(KEY, HEADER, CLAIMS | {"key": public_hex(OTHER)}),
    "another's signature": lambda: forge(OTHER, HEADER, CLAIMS),
    "valid for long": lambda: forge(KEY, HEADER, CLAIMS | {"exp": CLAIMS["iat"] + 31}),
    "never valid": lambda: forge(KEY, HEADER, CLAIMS | {"exp": CLAIMS["iat"]}),
    "no key": lambda: forge(KEY, HEADER, {k: v for k, v in CLAIMS.items() if k != "key"}),
    "no session": lambda: forge(KEY, HEADER, {k: v for k, v in CLAIMS.items() if k != "tls"}),
    "key of zeros": lambda: forge(KEY, HEADER, CLAIMS | {"key": "00" * 32}),
    "an instruction": lambda: sign_instruction(
        KEY,
        operator_name="alice",
        cluster="a" * 16,
        epoch=1,
        act="remove",
        target="stack:x",
        revision=1,
        body_bytes=b"{}",
        now_s=1000,
    ),
    "typ changed": lambda: forge(KEY, HEADER | {"typ": "deploy+jwt"}, CLAIMS),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_hello_opens_nothing(name: str) -> None:
    with pytest.raises(NotAuthenticated):
        read_hello(HOSTILE[name](), audience=YOU, tls=TLS)


@given(st.text(max_size=200))
def test_no_text_raises_anything_else(token: str) -> None:
    with pytest.raises(NotAuthenticated):
        read_hello(token, audience=YOU, tls=TLS)
