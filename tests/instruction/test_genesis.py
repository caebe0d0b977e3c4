"""The genesis token, and what makes a genesis sound."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import InputError, NotAuthenticated
from agent.instruction import encode_genesis, new_key, public_hex, read_genesis, sign_genesis
from agent.model.cluster import Genesis, Member, Operator
from agent.model.identity import agent_id_of
from bootstrap.certificates import make_anchor
from tests.instruction.jwts import forge, parts

OPERATOR, RECOVERY = new_key(), new_key()
CLUSTER = "abcdefgh234567ab"
ANCHOR = make_anchor(ec.generate_private_key(ec.SECP256R1()), CLUSTER, "prod")


def member(number: int) -> Member:
    key = public_hex(new_key())
    return Member(
        id=agent_id_of(bytes.fromhex(key)),
        name=f"n{number}",
        address="10.0.0.1",
        certificate=f"{number:064x}",
        signing_key=key,
        sealing_key="1" * 64,
    )


MEMBERS = tuple(member(number) for number in range(3))
GENESIS = Genesis(
    cluster=CLUSTER,
    name="prod",
    created_at=1_700_000_000_000,
    trust_anchor=ANCHOR,
    admins=(
        Operator(name="alice", key=public_hex(OPERATOR), scope="admin"),
        Operator(name="recovery", key=public_hex(RECOVERY), scope="admin"),
    ),
    members=MEMBERS,
    voters=tuple(m.id for m in MEMBERS),
)


def signed(genesis: Genesis, name: str = "alice") -> tuple[str, bytes]:
    data = encode_genesis(genesis)
    key = OPERATOR if name == "alice" else RECOVERY
    return sign_genesis(key, operator_name=name, genesis=genesis, genesis_bytes=data, now_s=1_700_000_000), data


@pytest.mark.parametrize("admin", ["alice", "recovery"])
def test_either_admin_signs_it(admin: str) -> None:
    assert read_genesis(*signed(GENESIS, admin)) == GENESIS


def test_its_claims_have_no_end() -> None:
    assert set(parts(signed(GENESIS)[0])[1]) == {"iss", "aud", "iat", "bdg"}


def test_its_bytes_are_the_signed_ones() -> None:
    token, data = signed(GENESIS)
    with pytest.raises(NotAuthenticated):
        read_genesis(token, data + b" ")


def test_nobody_else_signs_it() -> None:
    token, data = signed(GENESIS)
    header, claims = parts(token)
    mallory = new_key()
    for forged in (
        forge(mallory, header, claims),
        forge(OPERATOR, header, claims | {"iss": "recovery"}),
        forge(OPERATOR, header, claims | {"iss": "mallory"}),
        forge(OPERATOR, header, claims | {"aud": f"{CLUSTER}.2"}),
        forge(OPERATOR, header, claims | {"exp": 2**40}),
        forge(OPERATOR, header | {"typ": "deploy+jwt"}, claims),
    ):
        with pytest.raises(NotAuthenticated):
            read_genesis(forged, data)


def twice(**changes: Any) -> tuple[Member, ...]:
    return (MEMBERS[0], msgspec.structs.replace(MEMBERS[1], **changes), MEMBERS[2])


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"members": (*MEMBERS, MEMBERS[0])}, "$.members[3]"),
        ({"members": twice(name="n0")}, "$.members[1]"),
        ({"members": twice(certificate=MEMBERS[0].certificate)}, "$.members[1]"),
        ({"members": twice(signing_key=public_hex(new_key()))}, "$.members[1].id"),
        ({"voters": (MEMBERS[0].id, MEMBERS[0].id)}, "$.voters[1]"),
        ({"voters": ("a" * 26,)}, "$.voters[0]"),
        ({"voters": ()}, "$.voters"),
        ({"members": ()}, "$.members"),
        ({"admins": (GENESIS.admins[0],)}, "$.admins"),
        ({"admins": (GENESIS.admins[0], GENESIS.admins[0])}, "$.admins[1]"),
        (
            {"admins": (GENESIS.admins[0], Operator(name="b", key=public_hex(OPERATOR), scope="admin"))},
            "$.admins[1]",
        ),
        (
            {"admins": (GENESIS.admins[0], Operator(name="b", key=public_hex(RECOVERY), scope="read"))},
            "$.admins[1].scope",
        ),
        ({"trust_anchor": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}, "$.trust_anchor"),
        ({"epoch": 0}, "$.epoch"),
    ],
)
def test_an_unsound_genesis_is_refused_though_it_is_signed(changes: dict[str, Any], where: str) -> None:
    token, data = signed(msgspec.structs.replace(GENESIS, **changes))
    with pytest.raises(InputError) as caught:
        read_genesis(token, data)
    assert caught.value.where == where


def test_a_genesis_with_a_key_twice_is_refused() -> None:
    token, data = signed(GENESIS)
    with pytest.raises(InputError, match="stands twice"):
        read_genesis(token, data[:-1] + b',"name":"prod"}')


def test_the_bytes_are_json_for_people() -> None:
    assert json.loads(encode_genesis(GENESIS))["name"] == "prod"
