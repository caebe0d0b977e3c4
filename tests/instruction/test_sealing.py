"""Sealed boxes: what the receiver alone can open, and nobody can change."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import InputError, NotAuthenticated
from agent.instruction.sealing import OVERHEAD_BYTES, seal, unseal

RECEIVER = X25519PrivateKey.generate()
PUBLIC = RECEIVER.public_key().public_bytes_raw().hex()


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_the_receiver_reads_what_was_sealed(plaintext: bytes, associated: bytes) -> None:
    box = seal(PUBLIC, plaintext, associated)
    assert unseal(RECEIVER, box, associated) == plaintext
    assert len(box) == len(plaintext) + OVERHEAD_BYTES


@given(st.binary(min_size=1, max_size=50), st.data())
def test_no_bit_can_be_changed(plaintext: bytes, data: st.DataObject) -> None:
    box = bytearray(seal(PUBLIC, plaintext, b"host n4"))
    # X25519 ignores the top bit of a public key (RFC 7748 §5), but the key is derived from the bytes themselves.
    bit = data.draw(st.integers(0, len(box) * 8 - 1))
    box[bit // 8] ^= 1 << bit % 8
    with pytest.raises(NotAuthenticated):
        unseal(RECEIVER, bytes(box), b"host n4")


def test_what_it_is_bound_to_cannot_be_changed() -> None:
    with pytest.raises(NotAuthenticated):
        unseal(RECEIVER, seal(PUBLIC, b"keys", b"host n4"), b"host n5")


def test_another_agent_reads_nothing() -> None:
    with pytest.raises(NotAuthenticated):
        unseal(X25519PrivateKey.generate(), seal(PUBLIC, b"keys", b""), b"")


def test_the_same_twice_are_two_boxes() -> None:
    assert seal(PUBLIC, b"keys", b"") != seal(PUBLIC, b"keys", b"")


@pytest.mark.parametrize("length", [0, 1, 32, OVERHEAD_BYTES - 1, OVERHEAD_BYTES])
def test_what_is_no_box_is_refused(length: int) -> None:
    with pytest.raises(NotAuthenticated):
        unseal(RECEIVER, b"\x01" * length, b"")


def test_a_key_of_low_order_takes_no_secret() -> None:
    with pytest.raises(InputError):
        seal("00" * 32, b"keys", b"")
    with pytest.raises(NotAuthenticated):
        unseal(RECEIVER, b"\x01" + bytes(32) + b"x" * 16, b"")
