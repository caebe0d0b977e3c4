"""Operators' instructions: what is signed, what is believed, and who may (docs/security.md "Instructions",
"Operators")."""

from __future__ import annotations

import gc
import hashlib
import hmac
import json
import sys
import weakref
from collections.abc import Callable
from typing import Any, get_args

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import InputError, MusterError, NotAllowed, NotAuthenticated, TooLarge
from agent.instruction import (
    audience_of,
    check_times,
    encode_body,
    kid_of,
    needed_scope,
    new_key,
    public_hex,
    read_instruction,
    sign_instruction,
    unverified_claims,
)
from agent.instruction.keys import quick_key_of
from agent.model.cluster import ApiKey, Member, Operator, ScopeName
from agent.model.identity import agent_id_of
from agent.model.instruction import (
    BODIES,
    MAX_BODY_BYTES,
    MAX_TOKEN_BYTES,
    TARGET_KINDS,
    Act,
    Body,
    Cancel,
    Drain,
    Enrol,
    Expel,
    Grant,
    GrantKey,
    Recover,
    Relabel,
    Remove,
    Revoke,
    Scale,
    Services,
    Undrain,
)
from agent.model.stack import Image, Service, Stack
from tests.instruction.jwts import b64, forge, header_of, parts, unb64

NOW = 1_700_000_000.5
CLUSTER = "abcdefgh234567ab"
AUDIENCE = f"{CLUSTER}.1"
KEY, OTHER = new_key(), new_key()
SHOP = Stack(name="shop", services={"web": Service(image=Image(ref="web:1"))})
BODY = encode_body(SHOP)
AGENT = agent_id_of(bytes.fromhex(public_hex(OTHER)))
MEMBER = Member(
    id=AGENT, name="n1", address="10.0.0.1", certificate="0" * 64, signing_key=public_hex(OTHER), sealing_key="1" * 64
)

BODY_OF: dict[Act, tuple[str, Body]] = {
    "deploy": ("stack:shop", SHOP),
    "place": ("stack:shop", SHOP),
    "remove": ("stack:shop", Remove()),
    "scale": ("stack:shop", Scale(services={"web": 2})),
    "restart": ("stack:shop", Services()),
    "stop": ("stack:shop", Services(services=("web",))),
    "start": ("stack:shop", Services()),
    "enrol": (f"member:{AGENT}", Enrol(member=MEMBER)),
    "expel": (f"member:{AGENT}", Expel(reason="stolen")),
    "drain": (f"host:{AGENT}", Drain()),
    "undrain": (f"host:{AGENT}", Undrain()),
    "relabel": (f"host:{AGENT}", Relabel(labels={"zone": "a"})),
    "grant": ("operator:ci", Grant(operator=Operator(name="ci", key=public_hex(OTHER), scope="deploy"))),
    "revoke": ("operator:ci", Revoke()),
    "grant-key": ("key:grafana", GrantKey(key=ApiKey(name="grafana", sha256="0" * 64))),
    "revoke-key": ("key:grafana", Revoke()),
    "cancel": ("stack:shop", Cancel(jti="0" * 32)),
    "recover": ("cluster", Recover(epoch=2, survivor="a" * 26, index=7, chain="0" * 64, lost=("b" * 26,))),
}


def operators(scope: ScopeName = "admin", stacks: tuple[str, ...] = ("*",)) -> dict[str, Operator]:
    return {
        "alice": Operator(name="alice", key=public_hex(KEY), scope=scope, stacks=stacks),
        "bob": Operator(name="bob", key=public_hex(OTHER), scope="admin"),
    }


def signed(body: bytes = BODY, act: Act = "deploy", target: str = "stack:shop", **changes: Any) -> str:
    fields: dict[str, Any] = {
        "operator_name": "alice",
        "cluster": CLUSTER,
        "epoch": 1,
        "act": act,
        "target": target,
        "revision": 3,
        "body_bytes": body,
        "now_s": NOW,
        "ttl_s": 300,
        "jti": "ab" * 16,
    }
    return sign_instruction(KEY, **(fields | changes))


GOOD = signed()
HEADER, CLAIMS = parts(GOOD)


def test_the_token_is_what_design_says() -> None:
    assert {"alg": "EdDSA", "typ": "deploy+jwt", "kid": kid_of(bytes.fromhex(public_hex(KEY)))} == HEADER
    assert {
        "iss": "alice",
        "aud": audience_of(CLUSTER, 1),
        "iat": 1_700_000_000,
        "exp": 1_700_000_300,
        "jti": "ab" * 16,
        "act": "deploy",
        "target": "stack:shop",
        "rev": 3,
        "bdg": hashlib.sha256(BODY).hexdigest(),
    } == CLAIMS
    assert unverified_claims(GOOD).rev == 3


def test_others_read_our_tokens() -> None:
    """PyJWT, which many programs read tokens with, is content with all that it can check."""
    read = jwt.decode_complete(
        GOOD,
        KEY.public_key(),
        algorithms=["EdDSA"],
        audience=AUDIENCE,
        options={"require": ["iss", "aud", "iat", "exp", "jti"], "verify_exp": False, "strict_aud": True},
    )
    assert (read["header"], read["payload"]) == (HEADER, CLAIMS)


@pytest.mark.parametrize("act", get_args(Act))
def test_every_act_reads_back_its_own_body(act: Act) -> None:
    target, body = BODY_OF[act]
    data = encode_body(body)
    verified = read_instruction(signed(data, act, target), data, operators(), AUDIENCE)
    assert (verified.claims.act, verified.claims.target, verified.body) == (act, target, body)
    assert verified.operator.name == "alice"


def test_another_library_s_spelling_of_the_same_claims_is_taken() -> None:
    token = forge(KEY, json.dumps(HEADER, indent=1).encode(), json.dumps(dict(reversed(CLAIMS.items()))).encode())
    assert read_instruction(token, BODY, operators(), AUDIENCE).claims.jti == "ab" * 16


def flip(token: str, part: int, position: int) -> str:
    pieces = token.split(".")
    old = pieces[part][position]
    pieces[part] = pieces[part][:position] + ("A" if old != "A" else "B") + pieces[part][position + 1 :]
    return ".".join(pieces)


def spelled_with_stray_bits(token: str) -> str:
    """The last character of 86 carries 2 bits that decode to nothing: another text with the same signature bytes."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    other = token[:-1] + alphabet[alphabet.index(token[-1]) ^ 1]
    assert unb64(other.split(".")[2]) == unb64(token.split(".")[2])
    return other


def hs256_with_the_public_key() -> str:
    """The classic confusion: the public key used as an HMAC secret."""
    head = b64(json.dumps({"alg": "HS256", "typ": "deploy+jwt", "kid": HEADER["kid"]}).encode())
    text = f"{head}.{b64(json.dumps(CLAIMS).encode())}"
    return f"{text}.{b64(hmac.digest(KEY.public_key().public_bytes_raw(), text.encode(), 'sha256'))}"


def claims_json(extra: str) -> bytes:
    return (json.dumps(CLAIMS)[:-1] + extra + "}").encode()


HOSTILE: dict[str, Callable[[], Any]] = {
    "nothing": lambda: "",
    "no token": lambda: None,
    "bytes": lambda: GOOD.encode(),
    "two parts": lambda: GOOD.rpartition(".")[0],
    "four parts": lambda: GOOD + ".AAAA",
    "not ASCII": lambda: GOOD[:-1] + "é",
    "lone surrogate": lambda: "\udcff" + GOOD,
    "full-width letters": lambda: "ｅ" + GOOD[1:],
    "line break behind": lambda: GOOD + "\n",
    "space before": lambda: " " + GOOD,
    "padding": lambda: GOOD + "==",
    "padding in the middle": lambda: GOOD.replace(".", "=.", 1),
    "standard alphabet": lambda: GOOD.replace("-", "+").replace("_", "/") + "/",
    "stray bits": lambda: spelled_with_stray_bits(GOOD),
    "over 4 KiB": lambda: forge(KEY, HEADER, CLAIMS | {"iss": "a" * 4000}),
    "another's signature": lambda: forge(OTHER, HEADER, CLAIMS),
    "another's kid": lambda: forge(KEY, header_of(OTHER), CLAIMS),
    "another's key, own kid": lambda: forge(OTHER, header_of(OTHER), CLAIMS),
    "changed header": lambda: flip(GOOD, 0, 5),
    "changed claims": lambda: flip(GOOD, 1, 40),
    "changed signature": lambda: flip(GOOD, 2, 5),
    "signature cut off": lambda: GOOD.rpartition(".")[0] + ".",
    "alg none": lambda: ".".join([b64(b'{"alg":"none","typ":"deploy+jwt"}'), GOOD.split(".")[1], "A" * 86]),
    "alg none, signed": lambda: forge(KEY, HEADER | {"alg": "none"}, CLAIMS),
    "alg HS256": hs256_with_the_public_key,
    "alg HS256 by PyJWT": lambda: jwt.encode(CLAIMS, "k" * 64, "HS256", {"typ": "deploy+jwt", "kid": HEADER["kid"]}),
    "alg Ed25519": lambda: forge(KEY, HEADER | {"alg": "Ed25519"}, CLAIMS),
    "alg eddsa": lambda: forge(KEY, HEADER | {"alg": "eddsa"}, CLAIMS),
    "Ed448 under EdDSA": lambda: jwt.encode(CLAIMS, Ed448PrivateKey.generate(), "EdDSA", HEADER),
    "typ of another kind": lambda: forge(KEY, HEADER | {"typ": "access+jwt"}, CLAIMS),
    "typ JWT": lambda: forge(KEY, HEADER | {"typ": "JWT"}, CLAIMS),
    "typ in capitals": lambda: forge(KEY, HEADER | {"typ": "DEPLOY+JWT"}, CLAIMS),
    "no typ": lambda: forge(KEY, {k: v for k, v in HEADER.items() if k != "typ"}, CLAIMS),
    "no kid": lambda: forge(KEY, {k: v for k, v in HEADER.items() if k != "kid"}, CLAIMS),
    "kid a path": lambda: forge(KEY, HEADER | {"kid": "../../etc/passwd"}, CLAIMS),
    "kid a number": lambda: forge(KEY, HEADER | {"kid": 7}, CLAIMS),
    "kid with a line break": lambda: forge(KEY, HEADER | {"kid": HEADER["kid"] + "\n"}, CLAIMS),
    "jwk in the header": lambda: forge(KEY, HEADER | {"jwk": {}}, CLAIMS),
    "crit in the header": lambda: forge(KEY, HEADER | {"crit": ["exp"]}, CLAIMS),
    "b64 in the header": lambda: forge(KEY, HEADER | {"b64": False}, CLAIMS),
    "header twice": lambda: forge(KEY, (json.dumps(HEADER)[:-1] + ',"alg":"EdDSA"}').encode(), CLAIMS),
    "header no object": lambda: forge(KEY, b"[]", CLAIMS),
    "claims no object": lambda: forge(KEY, HEADER, b"[]"),
    "claims no JSON": lambda: forge(KEY, HEADER, b"{"),
    "claims not UTF-8": lambda: forge(KEY, HEADER, b'{"iss":"\xff"}'),
    "claims deep": lambda: forge(KEY, HEADER, b"[" * 2000),
    "claim twice": lambda: forge(KEY, HEADER, claims_json(',"rev":3')),
    "claim twice, escaped": lambda: forge(KEY, HEADER, claims_json(',"r\\u0065v":4')),
    "further claim": lambda: forge(KEY, HEADER, CLAIMS | {"nbf": 0}),
    "exp a text": lambda: forge(KEY, HEADER, CLAIMS | {"exp": str(CLAIMS["exp"])}),
    "exp a float": lambda: forge(KEY, HEADER, CLAIMS | {"exp": float(CLAIMS["exp"])}),
    "exp in exponent form": lambda: forge(
        KEY, HEADER, json.dumps(CLAIMS).replace(str(CLAIMS["exp"]), "17000003e2").encode()
    ),
    "exp true": lambda: forge(KEY, HEADER, CLAIMS | {"exp": True}),
    "exp huge": lambda: forge(KEY, HEADER, CLAIMS | {"exp": 10**30}),
    "exp null": lambda: forge(KEY, HEADER, CLAIMS | {"exp": None}),
    "exp NaN": lambda: forge(KEY, HEADER, claims_json("").replace(str(CLAIMS["exp"]).encode(), b"NaN")),
    "iat negative": lambda: forge(KEY, HEADER, CLAIMS | {"iat": -1}),
    "jti empty": lambda: forge(KEY, HEADER, CLAIMS | {"jti": ""}),
    "jti in capitals": lambda: forge(KEY, HEADER, CLAIMS | {"jti": "AB" * 16}),
    "rev 0": lambda: forge(KEY, HEADER, CLAIMS | {"rev": 0}),
    "rev a text": lambda: forge(KEY, HEADER, CLAIMS | {"rev": "3"}),
    "act unknown": lambda: forge(KEY, HEADER, CLAIMS | {"act": "own"}),
    "target a path": lambda: forge(KEY, HEADER, CLAIMS | {"target": "stack:../x"}),
    "target with a line break": lambda: forge(KEY, HEADER, CLAIMS | {"target": "stack:shop\n"}),
    "aud of another cluster": lambda: forge(KEY, HEADER, CLAIMS | {"aud": "zzzzzzzzzzzzzzzz.1"}),
    "aud of another epoch": lambda: forge(KEY, HEADER, CLAIMS | {"aud": f"{CLUSTER}.2"}),
    "aud without epoch": lambda: forge(KEY, HEADER, CLAIMS | {"aud": CLUSTER}),
    "aud a list": lambda: forge(KEY, HEADER, CLAIMS | {"aud": [AUDIENCE]}),
    "aud longer": lambda: forge(KEY, HEADER, CLAIMS | {"aud": AUDIENCE + "0"}),
    "iss unknown": lambda: forge(KEY, HEADER, CLAIMS | {"iss": "mallory"}),
    "iss another": lambda: forge(KEY, HEADER, CLAIMS | {"iss": "bob"}),
    "iss a list": lambda: forge(KEY, HEADER, CLAIMS | {"iss": ["alice"]}),
} | {
    f"no {name}": (lambda name=name: forge(KEY, HEADER, {k: v for k, v in CLAIMS.items() if k != name}))
    for name in CLAIMS
}


def test_a_token_that_is_too_long_is_not_even_remembered() -> None:
    """A ledger's entry may have one of megabytes, by the word of a coordinator that was taken."""

    class Text(str):
        __slots__ = ("__weakref__",)

    token = Text("x" * (MAX_TOKEN_BYTES + 1))
    alive = weakref.ref(token)
    with pytest.raises(NotAuthenticated):
        read_instruction(token, BODY, operators(), AUDIENCE)
    del token
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_token_is_not_authenticated(name: str) -> None:
    with pytest.raises(NotAuthenticated) as caught:
        read_instruction(HOSTILE[name](), BODY, operators(), AUDIENCE)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "name", sorted(set(HOSTILE) - {"another's signature", "changed signature", "Ed448 under EdDSA"})
)
def test_leaving_out_the_signature_leaves_out_nothing_else(name: str) -> None:
    hostile = HOSTILE[name]()
    try:
        read_instruction(hostile, BODY, operators(), AUDIENCE, verify=False)
    except NotAuthenticated:
        return
    # What is left differs from a good token in its signature alone, or says the same in another spelling.
    assert parts(hostile) == (HEADER, CLAIMS)


@pytest.mark.parametrize("issuer", ["a", "aa", "aaa"])
def test_a_part_has_one_spelling_whatever_its_length(issuer: str) -> None:
    head, payload, signature = forge(KEY, HEADER, CLAIMS | {"iss": issuer}).split(".")
    for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_":
        spelled = payload[:-1] + last
        told = ""
        try:
            unverified_claims(f"{head}.{spelled}.{signature}")
        except InputError as error:
            told = error.what
        assert ("stray bits" in told) == (b64(unb64(spelled)) != spelled)


@pytest.mark.parametrize("name", ["stray bits", "padding", "padding in the middle", "standard alphabet"])
def test_a_token_has_one_spelling(name: str) -> None:
    """Also for readers that leave the signature to others."""
    with pytest.raises(InputError):
        unverified_claims(HOSTILE[name]())


@given(st.text(max_size=30) | st.binary(max_size=90).map(lambda data: f"{b64(data)}.{b64(data)}.{'A' * 86}"))
def test_no_token_raises_anything_but_not_authenticated(token: str) -> None:
    with pytest.raises(NotAuthenticated):
        read_instruction(token, BODY, operators(), AUDIENCE)


def test_an_agent_that_can_check_no_signature_refuses_no_token_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends: it would read a ledger's entry as refused that every other agent reads as good."""
    unread = signed(jti="cd" * 16)
    quick_key_of.cache_clear()
    monkeypatch.setitem(sys.modules, "nacl.bindings", None)
    with pytest.raises(ImportError):
        read_instruction(unread, BODY, operators(), AUDIENCE)


@given(st.data())
def test_no_single_character_of_a_token_can_be_changed(data: st.DataObject) -> None:
    position = data.draw(st.integers(0, len(GOOD) - 1))
    other = data.draw(st.characters(codec="ascii").filter(lambda c: c != GOOD[position]))
    with pytest.raises(NotAuthenticated):
        read_instruction(GOOD[:position] + other + GOOD[position + 1 :], BODY, operators(), AUDIENCE)


json_claims = st.fixed_dictionaries(
    {}, optional={name: st.integers() | st.text(max_size=5) | st.none() | st.just(CLAIMS[name]) for name in CLAIMS}
)


@given(json_claims)
def test_validly_signed_nonsense_never_raises_anything_else(claims: dict[str, Any]) -> None:
    try:
        read_instruction(forge(KEY, HEADER, claims), BODY, operators(), AUDIENCE)
    except (NotAuthenticated, NotAllowed, InputError):
        return
    assert claims == CLAIMS | {"iat": claims["iat"], "exp": claims["exp"], "rev": claims["rev"]}


@pytest.mark.parametrize("body", [b"", BODY + b" ", BODY[:-1], BODY.replace(b"shop", b"shoq"), b"\xff"])
def test_the_body_is_the_signed_one_byte_for_byte(body: bytes) -> None:
    with pytest.raises(NotAuthenticated, match="isn't the one that was signed"):
        read_instruction(GOOD, body, operators(), AUDIENCE)


def test_a_revoked_or_replaced_key_signs_nothing() -> None:
    with pytest.raises(NotAuthenticated):
        read_instruction(GOOD, BODY, {}, AUDIENCE)
    replaced = {"alice": Operator(name="alice", key=public_hex(OTHER), scope="admin")}
    with pytest.raises(NotAuthenticated):
        read_instruction(GOOD, BODY, replaced, AUDIENCE)


def test_two_names_with_one_key_are_two_operators() -> None:
    """What alice signed isn't believed of a twin with more rights: `iss` decides, the key only vouches."""
    twins = operators("read") | {"root": Operator(name="root", key=public_hex(KEY), scope="admin")}
    with pytest.raises(NotAllowed):
        read_instruction(GOOD, BODY, twins, AUDIENCE)


@pytest.mark.parametrize("act", get_args(Act))
@pytest.mark.parametrize(
    "kind",
    ["cluster", "stack:shop", "operator:ci", f"member:{AGENT}", "host:n1", "secret:s"],
    ids=lambda target: target.partition(":")[0],  # the id is another one in each process
)
def test_act_and_target_go_together(act: Act, kind: str) -> None:
    data = encode_body(BODY_OF[act][1])
    token = signed(data, act, kind)
    if kind.partition(":")[0] in TARGET_KINDS[act]:
        read_instruction(token, data, operators(), AUDIENCE)
    else:
        with pytest.raises(InputError) as caught:
            read_instruction(token, data, operators(), AUDIENCE)
        assert caught.value.where == "target"


@pytest.mark.parametrize(
    ("act", "target", "where"),
    [
        ("deploy", "stack:other", "$.name"),
        ("enrol", "member:n1", "$.member.id"),
        ("grant", "operator:alice", "$.operator.name"),
    ],
)
def test_a_body_for_another_target_is_refused(act: Act, target: str, where: str) -> None:
    data = encode_body(BODY_OF[act][1])
    with pytest.raises(InputError) as caught:
        read_instruction(signed(data, act, target), data, operators(), AUDIENCE)
    assert caught.value.where == where


@pytest.mark.parametrize("act", [act for act in get_args(Act) if BODIES[act] is not Stack])
def test_the_body_of_another_act_is_refused(act: Act) -> None:
    with pytest.raises(InputError, match="unknown field"):
        read_instruction(signed(BODY, act, BODY_OF[act][0]), BODY, operators(), AUDIENCE)


@pytest.mark.parametrize("body", [b'{"version":1,"version":1}', b"{", b'{"version":NaN}', b'{"delete_volumes":1}'])
def test_a_signed_body_is_still_checked(body: bytes) -> None:
    with pytest.raises(InputError):
        read_instruction(signed(body, "remove"), body, operators(), AUDIENCE)


def test_a_body_over_the_bound_is_too_large() -> None:
    body = b" " * (MAX_BODY_BYTES + 1)
    with pytest.raises(TooLarge):
        read_instruction(signed(body, "remove"), body, operators(), AUDIENCE)


NEEDS: dict[str, ScopeName] = {
    "restart": "operate",
    "scale": "operate",
    "stop": "operate",
    "start": "operate",
    "cancel": "operate",
    "drain": "operate",
    "undrain": "operate",
    "relabel": "admin",
    "deploy": "deploy",
    "place": "deploy",
    "remove": "deploy",
    "enrol": "admin",
    "expel": "admin",
    "grant": "admin",
    "revoke": "admin",
    "grant-key": "admin",
    "revoke-key": "admin",
    "recover": "admin",
}
ORDER: list[ScopeName] = ["read", "operate", "deploy", "admin"]


@pytest.mark.parametrize("act", get_args(Act))
@pytest.mark.parametrize("scope", ORDER)
def test_an_act_needs_its_scope(act: Act, scope: ScopeName) -> None:
    target, body = BODY_OF[act]
    data = encode_body(body)
    if ORDER.index(scope) >= ORDER.index(NEEDS[act]):
        read_instruction(signed(data, act, target), data, operators(scope), AUDIENCE)
        return
    with pytest.raises(NotAllowed) as caught:
        read_instruction(signed(data, act, target), data, operators(scope), AUDIENCE)
    assert caught.value.what == f"alice has scope {scope}, and {act} needs {NEEDS[act]}"
    assert f"--scope {NEEDS[act]}" in caught.value.fix


@pytest.mark.parametrize(
    "target",
    ["cluster", "operator:ci", f"member:{AGENT}", "secret:s"],
    ids=lambda target: target.partition(":")[0],  # the id is another one in each process
)
def test_cancelling_what_is_neither_stack_nor_host_needs_admin(target: str) -> None:
    assert needed_scope("cancel", target) == "admin"


@pytest.mark.parametrize(
    ("globs", "allowed"),
    [
        (("*",), True),
        (("shop",), True),
        (("sh*",), True),
        (("sho?",), True),
        (("web", "s*p"), True),
        (("shopping",), False),
        (("sho",), False),
        (("web*",), False),
        (("?",), False),
    ],
)
@pytest.mark.parametrize("act", ["deploy", "scale", "cancel"])
def test_globs_limit_an_operator_to_stacks(globs: tuple[str, ...], allowed: bool, act: Act) -> None:
    data = encode_body(BODY_OF[act][1])
    if allowed:
        read_instruction(signed(data, act), data, operators("deploy", globs), AUDIENCE)
        return
    with pytest.raises(NotAllowed, match="not on shop"):
        read_instruction(signed(data, act), data, operators("deploy", globs), AUDIENCE)


@pytest.mark.parametrize("act", ["drain", "undrain", "cancel"])
def test_who_is_limited_to_some_stacks_may_not_move_the_others_off_a_host(act: Act) -> None:
    target, data = f"host:{AGENT}", encode_body(BODY_OF[act][1])
    may: tuple[tuple[ScopeName, tuple[str, ...]], ...] = (
        ("operate", ("*",)),
        ("deploy", ("web", "*")),
        ("admin", ("web",)),
    )
    for scope, globs in may:
        read_instruction(signed(data, act, target), data, operators(scope, globs), AUDIENCE)
    with pytest.raises(NotAllowed, match="may act on stacks sh\\*, and a host's replicas are of any stack") as caught:
        read_instruction(signed(data, act, target), data, operators("deploy", ("sh*",)), AUDIENCE)
    assert "--stacks '*'" in caught.value.fix


def test_globs_do_not_limit_an_admin() -> None:
    read_instruction(GOOD, BODY, operators("admin", ("other",)), AUDIENCE)


def test_scope_is_checked_before_the_body_is_read() -> None:
    body = b"["
    with pytest.raises(NotAllowed):
        read_instruction(signed(body, "deploy"), body, operators("read"), AUDIENCE)


@pytest.mark.parametrize(
    ("now", "ttl", "refused"),
    [
        (NOW, 300, ""),
        (NOW - 29, 300, ""),
        (NOW - 32, 300, "iat"),
        (NOW + 329, 300, ""),
        (NOW + 330, 300, "exp"),
        (NOW, 301, "exp"),
        (NOW, 0, "exp"),
        (NOW, -5, "exp"),
    ],
)
def test_times_are_checked_at_admission(now: float, ttl: int, refused: str) -> None:
    claims = read_instruction(signed(ttl_s=ttl), BODY, operators(), AUDIENCE).claims
    if not refused:
        check_times(claims, now, 30)
        return
    with pytest.raises(NotAuthenticated) as caught:
        check_times(claims, now, 30)
    assert caught.value.where == refused
    assert caught.value.fix


def test_a_stored_instruction_verifies_for_ever() -> None:
    """`apply` and whoever installs a snapshot read without a clock (ARCHITECTURE.md "The way of an instruction")."""
    old = signed(now_s=1000.0)
    assert read_instruction(old, BODY, operators(), AUDIENCE).claims.exp == 1300


def test_each_token_gets_an_id_of_its_own() -> None:
    assert unverified_claims(signed(jti=None)).jti != unverified_claims(signed(jti=None)).jti


@pytest.mark.parametrize("changes", [{"target": "stack:UP"}, {"revision": 0}, {"jti": "x"}, {"now_s": -5.0}])
def test_signing_refuses_what_nobody_would_read(changes: dict[str, Any]) -> None:
    with pytest.raises(MusterError):
        signed(**changes)


def test_the_same_body_has_the_same_bytes() -> None:
    one = Stack(name="x", services={"a": Service(environment={"A": "1", "B": "2"}), "b": Service()})
    two = Stack(name="x", services={"b": Service(), "a": Service(environment={"B": "2", "A": "1"})})
    assert encode_body(one) == encode_body(two)
