"""What comes over the wire: exactly our messages, inside their bounds."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.raft import MAX_ENTRY_BYTES, Configuration, Entry, EntryKind
from agent.raft.messages import (
    MAX_CHUNK_BYTES,
    Append,
    AppendResponse,
    Heartbeat,
    HeartbeatResponse,
    InstallSnapshot,
    InstallSnapshotResponse,
    Message,
    PreVote,
    PreVoteResponse,
    ReadIndex,
    ReadIndexResponse,
    TimeoutNow,
    Vote,
    VoteResponse,
)
from tests.raft.wire import decode_message, encode_message

NUMBERS = st.integers(0, 2**62)
ENTRIES = st.builds(Entry, st.integers(1, 2**62), NUMBERS, st.sampled_from(EntryKind), st.binary(max_size=20))
CONFIGURATIONS = st.sets(st.text("abc", min_size=1, max_size=3), min_size=1).map(
    lambda ids: Configuration.of(list(ids))
)
BOOLEANS = st.booleans()
MESSAGES: st.SearchStrategy[Message] = st.one_of(
    st.builds(PreVote, term=NUMBERS, last_index=NUMBERS, last_term=NUMBERS),
    st.builds(PreVoteResponse, term=NUMBERS, granted=BOOLEANS),
    st.builds(Vote, term=NUMBERS, last_index=NUMBERS, last_term=NUMBERS, forced=BOOLEANS),
    st.builds(VoteResponse, term=NUMBERS, granted=BOOLEANS),
    st.builds(
        Append,
        term=NUMBERS,
        prev_index=NUMBERS,
        prev_term=NUMBERS,
        commit=NUMBERS,
        entries=st.lists(ENTRIES, max_size=3).map(tuple),
    ),
    st.builds(AppendResponse, term=NUMBERS, accepted=BOOLEANS, index=NUMBERS, hint_index=NUMBERS, hint_term=NUMBERS),
    st.builds(Heartbeat, term=NUMBERS, commit=NUMBERS, round=NUMBERS),
    st.builds(HeartbeatResponse, term=NUMBERS, round=NUMBERS),
    st.builds(
        InstallSnapshot,
        term=NUMBERS,
        index=NUMBERS,
        snapshot_term=NUMBERS,
        configuration=CONFIGURATIONS,
        offset=NUMBERS,
        total=NUMBERS,
        data=st.binary(max_size=20),
    ),
    st.builds(InstallSnapshotResponse, term=NUMBERS, index=NUMBERS, offset=NUMBERS),
    st.builds(TimeoutNow, term=NUMBERS),
    st.builds(ReadIndex, context=st.binary(max_size=64)),
    st.builds(ReadIndexResponse, context=st.binary(max_size=64), index=NUMBERS),
)


@given(MESSAGES)
def test_every_message_survives_the_wire(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


@given(st.binary(max_size=60))
def test_noise_is_refused_with_a_value_error(data: bytes) -> None:
    try:
        decode_message(data)
    except ValueError:
        return
    raise AssertionError("noise was taken for a message")


@given(MESSAGES, st.data())
def test_a_cut_message_is_refused(message: Message, data: st.DataObject) -> None:
    encoded = encode_message(message)
    with pytest.raises(ValueError):
        decode_message(encoded[: data.draw(st.integers(0, len(encoded) - 1))])


@pytest.mark.parametrize(
    "fields",
    [
        ["vote", 1, 1],
        ["vote", 1, 1, 1, False, "more"],
        ["vote", -1, 1, 1, False],
        ["vote", 2**63, 1, 1, False],
        ["vote", True, 1, 1, False],
        ["vote", 1, "1", 1, False],
        ["append", 1, 1, 1, 1, [[0, 1, 0, b""]]],
        ["append", 1, 1, 1, 1, [[1, 1, 9, b""]]],
        ["append", 1, 1, 1, 1, [[1, 1, 0, b"x" * (MAX_ENTRY_BYTES + 1)]]],
        ["install-snapshot", 1, 1, 1, [["a"], []], 0, 1, b"x" * (MAX_CHUNK_BYTES + 1)],
        ["install-snapshot", 1, 1, 1, [["b", "a"], []], 0, 1, b"x"],
        ["read-index", b"x" * 65],
        ["unheard-of", 1],
        [],
    ],
)
def test_what_is_not_of_the_form_or_out_of_bounds_is_refused(fields: list[object]) -> None:
    with pytest.raises(ValueError):
        decode_message(msgspec.msgpack.encode(fields))
