"""Beacons on the wire (docs/seed.md "Broadcasting mechanism")."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.errors import InputError, TooLarge
from agent.formats.beacon import (
    MAX_BEACON_BYTES,
    Beacon,
    decode_beacon,
    encode_beacon,
    sign_beacon,
    verify_beacon,
)
from agent.instruction import new_key, public_hex
from agent.model.identity import agent_id_of

KEY = new_key()
PUBLIC = KEY.public_key()
OURS = Beacon(
    service_id="translator-main",
    type="coordinator",
    host="192.168.1.100",
    port=8443,
    protocol="https",
    capabilities={"container_id": "abc123", "status": "healthy", "version": "2.0"},
    timestamp="2024-01-15T10:30:00Z",
    agent_id=agent_id_of(bytes.fromhex(public_hex(KEY))),
    cluster="abcdefgh234567ab",
    seq=7,
)
SEED: dict[str, Any] = {
    "service_id": "translator-main",
    "type": "coordinator",
    "host": "192.168.1.100",
    "port": 8443,
    "protocol": "https",
    "capabilities": {"container_id": "abc123...", "status": "healthy", "version": "2.0"},
    "timestamp": "2024-01-15T10:30:00Z",
}


def wire(**changes: Any) -> bytes:
    return json.dumps(SEED | changes).encode()


def test_seed_s_own_example_is_a_foreign_beacon() -> None:
    beacon = decode_beacon(wire())
    assert not beacon.signed
    assert json.loads(encode_beacon(beacon)) == SEED


def test_ours_has_seed_s_seven_keys_at_the_top_and_ours_below() -> None:
    data = json.loads(encode_beacon(sign_beacon(OURS, KEY)))
    assert list(data) == list(SEED)
    assert set(data["capabilities"]) == {"container_id", "status", "version", "agent_id", "cluster", "seq", "sig"}


def test_a_signed_beacon_reads_back_and_verifies() -> None:
    signed = sign_beacon(OURS, KEY)
    assert decode_beacon(encode_beacon(signed)) == signed
    assert verify_beacon(decode_beacon(encode_beacon(signed)), PUBLIC)


def test_another_spelling_of_the_datagram_still_verifies() -> None:
    data = json.loads(encode_beacon(sign_beacon(OURS, KEY)))
    data["capabilities"] = dict(reversed(data["capabilities"].items()))
    assert verify_beacon(decode_beacon(json.dumps(dict(reversed(data.items())), indent=1).encode()), PUBLIC)


@pytest.mark.parametrize(
    "changes",
    [
        {"service_id": "x"},
        {"type": "worker"},
        {"host": "10.0.0.66"},
        {"port": 1},
        {"protocol": "http"},
        {"capabilities": {}},
        {"capabilities": {**OURS.capabilities, "x": 1}},
        {"timestamp": "2024-01-15T10:30:01Z"},
        {"agent_id": "a" * 26},
        {"cluster": "b" * 16},
        {"seq": 8},
        {"sig": "00" * 64},
        {"sig": None},
    ],
)
def test_a_changed_beacon_does_not_verify(changes: dict[str, Any]) -> None:
    signed = sign_beacon(OURS, KEY)
    assert not verify_beacon(replace(signed, **changes), PUBLIC)
    assert not verify_beacon(signed, new_key().public_key())


def test_only_an_agent_s_beacon_is_signed() -> None:
    with pytest.raises(ValueError, match="agent_id"):
        sign_beacon(replace(OURS, seq=None), KEY)


def test_another_system_s_beacon_is_taken_as_it_is() -> None:
    data = wire(type="database", zone="b", capabilities={"tags": ["a"], "load": 0.5, "seq": 9})
    beacon = decode_beacon(data)
    assert (beacon.type, beacon.capabilities, beacon.signed) == ("unknown", {"load": 0.5, "seq": 9}, False)


@pytest.mark.parametrize(
    ("data", "where"),
    [
        (b"", "$"),
        (b"[]", "$"),
        (b"\x00\xff", "$"),
        (wire(port=0), "$.port"),
        (wire(port="8443"), "$.port"),
        (wire(host="-oProxyCommand=x"), "$.host"),
        (wire(host=""), "$.host"),
        (wire(service_id=""), "$.service_id"),
        (wire(service_id="a\x1b[2J"), "$.service_id"),
        (wire(protocol="ht tp"), "$.protocol"),
        (wire(timestamp="now"), "$.timestamp"),
        (wire(capabilities=[]), "$.capabilities"),
        (wire(capabilities={str(n): n for n in range(33)}), "$.capabilities"),
        (wire(capabilities={"sig": "00" * 64}), "$.capabilities"),
        (wire(capabilities={"agent_id": "a" * 26}), "$.capabilities"),
        (wire(capabilities={"sig": "0", "agent_id": "a" * 26, "cluster": "a" * 16, "seq": 1}), "$.capabilities.sig"),
        (wire(capabilities={"sig": None, "agent_id": "a" * 26, "cluster": "a" * 16, "seq": 1}), "$.capabilities.sig"),
        (wire()[:-1] + b',"port":1}', "$"),
        (json.dumps({k: v for k, v in SEED.items() if k != "port"}).encode(), "$"),
    ],
)
def test_a_bad_datagram_names_the_place(data: bytes, where: str) -> None:
    with pytest.raises(InputError) as caught:
        decode_beacon(data)
    assert caught.value.where == where


def test_a_beacon_fits_a_datagram() -> None:
    with pytest.raises(TooLarge):
        decode_beacon(b" " * (MAX_BEACON_BYTES + 1))
    with pytest.raises(TooLarge):
        encode_beacon(replace(OURS, capabilities={"x": "x" * 1200}))


@given(
    st.binary(max_size=300)
    | st.dictionaries(st.sampled_from([*SEED]), st.text() | st.integers() | st.none()).map(
        lambda changes: wire(**changes)
    )
)
def test_no_datagram_raises_anything_but_input_error(data: bytes) -> None:
    try:
        beacon = decode_beacon(data)
    except InputError:
        return
    assert decode_beacon(encode_beacon(beacon)) == beacon
