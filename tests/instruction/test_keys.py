"""Keys as text: hexadecimal, PEM, key ids."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from agent.errors import InputError
from agent.instruction import kid_of, new_key, private_key_of, private_pem, public_hex, public_key_of


def test_a_key_id_never_changes() -> None:
    """It stands in every token that is kept in a ledger."""
    assert kid_of(bytes(32)) == "3f6d3e85b42ec63122acb87d457e2088"


def test_keys_survive_their_text() -> None:
    key = new_key()
    assert public_hex(private_key_of(private_pem(key))) == public_hex(key) == public_hex(public_key_of(public_hex(key)))


@pytest.mark.parametrize("text", ["", "00", "zz" * 32, "00" * 33])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        public_key_of(text)


def test_what_is_no_private_key_is_refused_without_showing_it() -> None:
    encoding = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    other = ec.generate_private_key(ec.SECP256R1()).private_bytes(*encoding, serialization.NoEncryption())
    locked = new_key().private_bytes(*encoding, serialization.BestAvailableEncryption(b"hunter2"))
    for pem in (b"", b"hunter2", b"\xff", other, locked, private_pem(new_key())[:60]):
        with pytest.raises(InputError) as caught:
            private_key_of(pem, where="a.key")
        assert caught.value.where == "a.key"
        assert "hunter2" not in str(caught.value)
