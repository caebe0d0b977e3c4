"""Keys as text: hexadecimal, PEM, key ids."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import product

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from nacl.bindings import crypto_sign_open
from nacl.exceptions import BadSignatureError

from agent.errors import InputError
from agent.instruction import kid_of, new_key, private_key_of, private_pem, public_hex, public_key_of
from agent.instruction.keys import QuickKey, libsodium_is_strict, quick_key_of
from tests.instruction.edwards import (
    BASE,
    ORDER,
    SMALL,
    add,
    encoded,
    holds_times_the_cofactor,
    signed_with,
    times,
)


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


def _holds(verify: Callable[[bytes, bytes], object], signature: bytes, signed: bytes) -> bool:
    try:
        verify(signature, signed)
    except InvalidSignature:
        return False
    return True


def test_a_quick_key_answers_as_any_other_whatever_points_a_signature_is_made_of() -> None:
    """Hosts of two versions must never read one ledger in two ways, whatever an operator's key and signature are."""
    answers: Counter[tuple[bool, bool]] = Counter()
    for secret, nonce, in_key, in_commitment in product((0, 1, 77), (0, 5), SMALL, SMALL):
        key, commitment = add(times(secret, BASE), in_key), add(times(nonce, BASE), in_commitment)
        signature = signed_with(secret, key, nonce, commitment, b"deploy")
        raw = encoded(key)
        for tried in (
            signature,
            signature[:32] + (int.from_bytes(signature[32:], "little") + ORDER).to_bytes(32, "little"),
        ):
            expected = _holds(public_key_of(raw.hex()).verify, tried, b"deploy")
            assert _holds(quick_key_of(raw.hex()).verify, tried, b"deploy") == expected
            answers[expected, _opens(raw, tried, b"deploy")] += 1
    # What libsodium takes OpenSSL takes: all that a quick key rests on. The three other answers there can be came up.
    assert answers.keys() == {(True, True), (True, False), (False, False)}


def _opens_laxly(signed: bytes, raw: bytes) -> bytes:
    if not holds_times_the_cofactor(signed[:64], raw, signed[64:]):
        raise BadSignatureError
    return signed[64:]


@pytest.fixture
def _lax_libsodium(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its releases differ in the equation that they check, and a host may have got any."""
    _forget_libsodium()
    monkeypatch.setattr("nacl.bindings.crypto_sign_open", _opens_laxly)
    yield
    _forget_libsodium()


def _forget_libsodium() -> None:
    libsodium_is_strict.cache_clear()
    quick_key_of.cache_clear()


@pytest.mark.usefixtures("_lax_libsodium")
def test_a_libsodium_that_takes_more_than_openssl_is_not_asked() -> None:
    key, commitment = times(77, BASE), add(times(5, BASE), SMALL[3])
    signature = signed_with(77, key, 5, commitment, b"deploy")
    assert _opens_laxly(signature + b"deploy", encoded(key)) == b"deploy"
    with pytest.raises(InvalidSignature):
        quick_key_of(encoded(key).hex()).verify(signature, b"deploy")


def test_this_libsodium_is_asked() -> None:
    assert libsodium_is_strict()
    assert isinstance(quick_key_of(public_hex(new_key())), QuickKey)


def _opens(raw: bytes, signature: bytes, signed: bytes) -> bool:
    try:
        crypto_sign_open(signature + signed, raw)
    except BadSignatureError:
        return False
    return True


@pytest.mark.parametrize("spoil", [lambda s: b"", lambda s: s[:63], lambda s: s + b"x", lambda s: bytes(64)])
def test_a_quick_key_refuses_what_is_no_signature(spoil: Callable[[bytes], bytes]) -> None:
    """Also one that is cut short where what was signed goes on as it did."""
    key = new_key()
    signed = b"a deploy"
    spoiled = spoil(key.sign(signed))
    rest = key.sign(signed)[len(spoiled) :] + signed
    for text in (signed, rest):
        with pytest.raises(InvalidSignature):
            quick_key_of(public_hex(key)).verify(spoiled, text)


def test_a_quick_key_takes_what_its_owner_signed() -> None:
    key = new_key()
    for signed in (b"", b"a deploy", bytes(4096)):
        quick_key_of(public_hex(key)).verify(key.sign(signed), signed)
