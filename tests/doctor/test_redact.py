"""Nothing secret gets into a bundle, whoever wrote it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.doctor import redact
from agent.doctor.redact import GONE
from agent.instruction import new_key, sign_access
from agent.instruction.keys import private_pem

PLANTED = "c0rrect-horse.battery/staple"

DOCUMENTS: list[Any] = [
    {"environment": {"JWT_SECRET": PLANTED}},
    {"env": [f"POSTGRES_PASSWORD={PLANTED}"]},
    {"password": PLANTED},
    {"api_key": PLANTED, "note": f"api_key: {PLANTED}"},
    f"starting with JWT_SECRET={PLANTED} on port 80",
    f"POSTGRES_PASSWORD='{PLANTED}'",
    f'{{"db_password": "{PLANTED}"}}',
    f"postgres://shop:{PLANTED.replace('/', '-')}@db/shop",
    f"Authorization: Bearer {PLANTED}",
    f"curl -H 'authorization: bearer {PLANTED}'",
    f"DATABASE_URL={PLANTED}",
    f"-----BEGIN OPENSSH PRIVATE KEY-----\n{PLANTED}\n-----END OPENSSH PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{PLANTED}",
    [[{"deep": [f"token={PLANTED}"]}]],
]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_planted_secrets_are_gone(document: Any) -> None:
    text = json.dumps(redact(document))
    assert PLANTED not in text
    assert PLANTED.replace("/", "-") not in text
    assert GONE in text


def test_real_tokens_and_keys_are_gone() -> None:
    key = new_key()
    token = sign_access(key, operator_name="ann", cluster="wsuwi4er5hm7jh3l", epoch=1, now_s=1_700_000_000)
    pem = private_pem(key).decode()
    text = redact(f"GET /?x={token} then {pem} end")
    assert token not in text
    assert not any(line in text for line in pem.splitlines())
    assert text.endswith("end")


def test_what_helps_stays() -> None:
    document = {
        "name": "n1",
        "what": "can't reach n2 on 9998/tcp: no answer",
        "image": "sha256:" + "ab" * 32,
        "disks": [{"path": "/var/lib/muster", "free_mib": 3}],
        "up": True,
        "none": None,
    }
    assert redact(document) == document


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


@given(JSON)
def test_twice_is_once_and_any_document_can_be_redacted(document: Any) -> None:
    once = redact(document)
    assert redact(once) == once


@given(
    st.text(
        alphabet=st.characters(codec="ascii", exclude_characters="\"' ,;&\n\r\t\x0b\x0c\x1c\x1d\x1e\x1f"), min_size=8
    )
)
def test_no_value_of_a_variable_survives(value: str) -> None:
    assert value not in redact(f"WORKER_INDEX={value}").removeprefix("WORKER_INDEX=").replace(GONE, "")
