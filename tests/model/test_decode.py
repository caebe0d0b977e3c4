"""Hostile bytes → types or an InputError that names the place (agent.model.decode)."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from typing import Any
from unittest import mock

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from agent.errors import InputError, TooLarge
from agent.model.decode import MAX_DEPTH, convert, decode_json
from agent.model.ledger import LedgerEntry
from agent.model.stack import Stack

MAX_BYTES = 1_048_576
GOOD: dict[str, Any] = {
    "name": "shop",
    "services": {
        "web": {
            "image": {"ref": "web:1"},
            "ports": [{"host_port": 8443, "container_port": 443}],
            "environment": {"TOKEN": "hunter2"},
        }
    },
}


def web(**changes: Any) -> dict[str, Any]:
    return {**GOOD, "services": {"web": {**GOOD["services"]["web"], **changes}}}


def refusal(data: bytes | object, type_: Any = Stack) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    with pytest.raises(InputError) as caught:
        decode_json(raw, type_, max_bytes=MAX_BYTES)
    return str(caught.value)


def test_a_good_body_is_decoded() -> None:
    assert decode_json(json.dumps(GOOD).encode(), Stack, max_bytes=MAX_BYTES).services["web"].ports[0].host_port == 8443


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            web(ports=[{"host_port": 70000, "container_port": 1}]),
            "$.services.web.ports[0].host_port: expected 1..65535, got 70000",
        ),
        (
            web(ports=[{"host_port": 1, "container_port": 1, "protocol": "tpc"}]),
            '$.services.web.ports[0].protocol: expected one of "tcp", "udp", got "tpc"',
        ),
        (
            {"name": "shop", "services": {"web": {"enviroment": {}}}},
            "$.services.web: unknown field `enviroment`; did you mean `environment`?",
        ),
        (web(zzz=1), "$.services.web: unknown field `zzz`"),
        (web(image={}), "$.services.web.image: missing field `ref`"),
        (web(image=5), "$.services.web.image: expected an object, got 5"),
        (web(replicas="all"), '$.services.web.replicas: expected 0..10000 or "global", got "all"'),
        (web(replicas=10_001), "$.services.web.replicas: expected 0..10000, got 10001"),
        (web(resources={"memory_mib": 1.0}), "$.services.web.resources.memory_mib: expected 0..16777216, got 1.0"),
        (web(replicas=True), '$.services.web.replicas: expected 0..10000 or "global", got true'),
        (web(host=None, command="ls"), '$.services.web.command: expected an array, got "ls"'),
        ({"name": "shop"}, "$: missing field `services`"),
        ({"name": "shop", "services": {}}, "$.services: expected 1 or more entries, got 0"),
        ({**GOOD, "version": 2}, "$.version: expected 1, got 2"),
        ({**GOOD, "name": "Shop"}, '$.name: expected 1 to 63 of a-z 0-9 -, RFC 1123, got "Shop"'),
        ({**GOOD, "name": None}, "$.name: expected text, got null"),
        (
            {"name": "shop", "services": {"we.b": {}}},
            '$.services["we.b"]: expected a key of 1 to 63 of a-z 0-9 -, RFC 1123',
        ),
        ([], "$: expected an object, got an array"),
    ],
)
def test_the_message_names_the_place_and_what_was_there(body: object, message: str) -> None:
    assert refusal(body) == message


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (b"", "$: not valid JSON: Expecting value (line 1, column 1)"),
        (b"{} {}", "$: not valid JSON: Extra data (line 1, column 4)"),
        (b"\xff{}", "$: not UTF-8 at byte 0"),
        (b'\xef\xbb\xbf{"name":"x"}', "$: not valid JSON"),
        (b'{"name":"x","name":"y"}', "$: the key `name` stands twice"),
        (b'{"name":"x","n\\u0061me":"y"}', "$: the key `name` stands twice"),
        (b'{"services":{"web":{"replicas":1,"replicas":2}}}', "$.services.web: the key `replicas` stands twice"),
        (b'{"name":NaN}', "$.name: NaN is no JSON number"),
        (b'{"name":[1,-Infinity]}', "$.name[1]: -Infinity is no JSON number"),
        (b'{"version":1e999}', "$.version: a number out of range"),
        (b'{"version":' + b"9" * 5000 + b"}", "$.version: a number of 5000 digits; at most 20 are taken"),
        (b"[" * 100_000, "$: nested more than 32 deep"),
        (b'{"a":' * 33 + b"1" + b"}" * 33, "$: nested more than 32 deep"),
    ],
)
def test_what_only_a_lax_parser_takes_is_refused(raw: bytes, message: str) -> None:
    assert refusal(raw).startswith(message)


def test_brackets_inside_text_are_no_depth() -> None:
    body = web(command=["[" * 100, '\\"' + "{" * 100])
    assert decode_json(json.dumps(body).encode(), Stack, max_bytes=MAX_BYTES).services["web"].command[0] == "[" * 100


def test_depth_up_to_the_bound_is_parsed() -> None:
    assert decode_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, Any, max_bytes=MAX_BYTES) is not None


def test_a_body_over_the_bound_is_too_large() -> None:
    with pytest.raises(TooLarge):
        decode_json(b" " * 11, Stack, max_bytes=10)


@pytest.mark.parametrize(
    "environment",
    [
        {"TOKEN": "hunter2\n"},
        {"TOKEN": ["hunter2"]},
        {"TOKEN=hunter2": ""},
        {"TOKEN=hunter2": "x\n"},
        {"TOKEN": {"hunter2": 1}},
        {"TOKEN": 1234567},
        "TOKEN=hunter2",
        ["TOKEN=hunter2"],
        {"TOKEN": "hunter2" + "\x00"},
    ],
)
def test_environment_values_never_show(environment: object) -> None:
    message = refusal(web(environment=environment))
    assert message.startswith("$.services.web.environment")
    assert "hunter2" not in message
    assert "1234567" not in message


def test_a_variable_given_twice_shows_its_name_only() -> None:
    raw = b'{"name":"x","services":{"web":{"environment":{"A=hunter2":"1","A=hunter2":"2"}}}}'
    assert refusal(raw) == "$.services.web.environment: the key `A=…` stands twice"


def test_what_a_message_shows_is_short_and_printable() -> None:
    message = refusal({**GOOD, "name": "\x1b[31m\u202e\ud800" + "x" * 500})
    assert message.isprintable()
    assert len(message) < 200
    assert refusal({**GOOD, "\x1b[2J": 1}).isprintable()


def test_where_names_the_root() -> None:
    with pytest.raises(InputError, match=r"^plan\.json: \$\.name: "):
        decode_json(b'{"name":1,"services":{}}', Stack, where="plan.json: $", max_bytes=MAX_BYTES)


def test_convert_explains_plain_objects() -> None:
    with pytest.raises(InputError) as caught:
        convert({"name": "x", "services": {"web": {"replicas": 10**5000}}}, Stack, "file")
    assert str(caught.value) == "file.services.web.replicas: expected 0..10000, got a huge number"


def test_a_type_s_own_rule_keeps_its_sentence() -> None:
    class Even(msgspec.Struct):
        n: int

        def __post_init__(self) -> None:
            if self.n % 2:
                raise ValueError("odd")

    with pytest.raises(InputError) as caught:
        decode_json(b"[{},{}]".replace(b"{}", b'{"n":1}'), tuple[Even, ...], where="$", max_bytes=99)
    assert str(caught.value) == "$[0]: odd"


def test_tagged_unions_are_explained_by_their_tag() -> None:
    entry = {"type": "phase", "at": 1, "stack": "x", "revision": 1, "phase": "asleep"}
    with pytest.raises(InputError, match=r"^\$\.phase: expected one of .*, got \"asleep\"$"):
        convert(entry, LedgerEntry)
    with pytest.raises(InputError, match=r"^\$\.type: expected one of \"genesis\", .*, got \"nap\"$"):
        convert({"type": "nap"}, LedgerEntry)


MSGSPEC_SENTENCE = re.compile(r"Expected `|Object |Invalid enum")


def refused(data: bytes, type_: Any) -> InputError | None:
    """The InputError, which alone may be raised."""
    try:
        decode_json(data, type_, max_bytes=MAX_BYTES)
    except InputError as error:
        return error
    return None


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
FIELDS = ["name", "services", "web", "image", "ref", "ports", "host_port", "environment", "replicas", "health"]
near_misses = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.sampled_from(["web", "docker", "global", ""]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=4),
    max_leaves=16,
)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
@example(b'{"name":"\\ud800","services":{}}')
@example(b"\xf4\x90\x80\x80")
def test_no_bytes_raise_anything_but_input_error(data: bytes) -> None:
    for type_ in (Stack, LedgerEntry, Any):
        assert str(refused(data, type_)).isprintable()


@given(json_values, st.booleans(), st.sampled_from([Stack, Any]))
@example({"a": 10**25}, True, Any)
@example(GOOD, True, Stack)
@example(GOOD, False, Stack)
def test_what_we_would_write_ourselves_is_read_as_the_parser_reads_it(value: object, plain: bool, type_: Any) -> None:
    """Such bytes are not parsed: they must mean, and be refused, just the same."""
    data = json.dumps(value, separators=(",", ":") if plain else None).encode()

    def read() -> object:
        try:
            return decode_json(data, type_, max_bytes=MAX_BYTES)
        except InputError as error:
            return str(error)

    short = read()
    with mock.patch("agent.model.decode._OURS", ()):
        assert read() == short


@given(near_misses.map(lambda value: {"name": "x", "services": {"web": value}}))
def test_every_near_miss_is_explained_by_its_place(value: object) -> None:
    error = refused(json.dumps(value).encode(), Stack)
    if error is not None:
        assert error.where.startswith("$.services.web")
        assert MSGSPEC_SENTENCE.search(error.what) is None, "the search for the place found nothing"


AT_ONCE = """
import sys, threading
from agent.model.decode import decode_json, prepare
from agent.model.stack import Stack
prepare(Stack)
sys.setswitchinterval(1e-6)
data, start = sys.argv[1].encode(), threading.Barrier(8)
def read():
    start.wait()
    decode_json(data, Stack, max_bytes=len(data))
threads = [threading.Thread(target=read) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
"""


def test_threads_may_read_at_once_what_was_prepared() -> None:
    """In a process each: one that reads a struct by the half of it that is known so far dies."""
    for _ in range(4):
        subprocess.run([sys.executable, "-c", AT_ONCE, json.dumps(GOOD)], check=True, timeout=60)
