"""Frames: length, version, msgpack; cut anywhere, bounded everywhere."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import InputError, TooLarge
from agent.model.instruction import MAX_BODY_BYTES, MAX_TOKEN_BYTES
from agent.net.frames import (
    FRAMING_VERSION,
    HEADER_BYTES,
    MAX_FRAME_BYTES,
    FrameReader,
    decode_frame,
    decode_opening,
    encode_frame,
)
from agent.node.messages import Alive, CallFrame, CancelFrame, Frame, Ledger, RaftFrame, ReplyFrame, Submit
from agent.raft import Entry, EntryKind
from agent.raft.entry import MAX_ENTRY_BYTES
from agent.raft.messages import MAX_CHUNK_BYTES, Append, InstallSnapshot
from tests.storage.contract import CONFIGURATION

FRAMES: list[Frame] = [
    Alive(),
    CancelFrame(id=1),
    CallFrame(id=2**53, request=Submit(token="t" * 100, body=bytes(300))),
    RaftFrame(message=Append(term=1, prev_index=1, prev_term=0, commit=1, entries=(Entry(2, 1, EntryKind.NOOP, b""),))),
    ReplyFrame(id=1, reply=Ledger(), end=False),
]


@given(st.lists(st.sampled_from(FRAMES), max_size=8), st.lists(st.integers(1, 400), max_size=20))
def test_however_the_stream_is_cut_the_same_frames_come_out(frames: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(encode_frame(frame) for frame in frames)
    reader, short = FrameReader(MAX_FRAME_BYTES), FrameReader(MAX_FRAME_BYTES)
    got, got_short, at = [], [], 0
    for cut in [*cuts, *map(len, map(encode_frame, frames)), len(stream)]:
        piece = stream[at : at + cut]
        reader.feed(piece)
        at += cut
        got += [decode_frame(content) for content in reader.frames()]
        if (whole := short.whole(piece)) is None:
            short.feed(piece)
        got_short += [decode_frame(content) for content in (short.frames() if whole is None else [whole])]
    assert got == got_short == frames


def test_a_consumer_that_stops_midway_finds_the_rest_later() -> None:
    reader = FrameReader(MAX_FRAME_BYTES)
    reader.feed(encode_frame(CancelFrame(id=1)) + encode_frame(CancelFrame(id=2)))
    assert decode_frame(next(iter(reader.frames()))) == CancelFrame(id=1)
    assert [decode_frame(content) for content in reader.frames()] == [CancelFrame(id=2)]


@pytest.mark.parametrize(
    "frame",
    [
        CallFrame(id=1, request=Submit(token="t" * MAX_TOKEN_BYTES, body=bytes(MAX_BODY_BYTES))),
        RaftFrame(
            message=Append(
                term=1,
                prev_index=1,
                prev_term=1,
                commit=1,
                entries=(Entry(2, 1, EntryKind.NORMAL, bytes(MAX_ENTRY_BYTES)),),
            )
        ),
        RaftFrame(
            message=InstallSnapshot(
                term=1,
                index=1,
                snapshot_term=1,
                configuration=CONFIGURATION,
                offset=0,
                total=2,
                data=bytes(MAX_CHUNK_BYTES),
            )
        ),
    ],
)
def test_the_largest_that_each_part_sends_fits(frame: CallFrame | RaftFrame) -> None:
    data = encode_frame(frame)
    assert decode_frame(data[HEADER_BYTES + 1 :]) == frame


def test_a_frame_that_no_peer_would_take_isnt_sent() -> None:
    entries = tuple(Entry(index, 1, EntryKind.NORMAL, bytes(MAX_ENTRY_BYTES)) for index in range(1, 10))
    with pytest.raises(TooLarge):
        encode_frame(ReplyFrame(id=1, reply=Ledger(entries=entries)))
    assert decode_frame(encode_frame(Alive())[HEADER_BYTES + 1 :]) == Alive()


@pytest.mark.parametrize("size", [1025, 2**32 - 1])
def test_an_oversized_frame_is_refused_by_its_head_alone(size: int) -> None:
    reader = FrameReader(1024)
    reader.feed(struct.pack(">I", size))
    with pytest.raises(TooLarge):
        list(reader.frames())


@pytest.mark.parametrize(
    "head", [struct.pack(">I", 0), struct.pack(">IB", 1, FRAMING_VERSION + 1), b"\x00\x00\x00\x05G"]
)
def test_a_head_that_isnt_ours_is_refused(head: bytes) -> None:
    reader = FrameReader(1024)
    reader.feed(head)
    with pytest.raises(InputError):
        list(reader.frames())


@given(st.binary(max_size=200))
def test_hostile_contents_give_a_frame_or_an_input_error(content: bytes) -> None:
    for decode in (decode_frame, decode_opening):
        try:
            decode(content)
        except InputError:
            continue


@given(st.binary(max_size=300))
def test_hostile_streams_give_contents_or_an_input_error(stream: bytes) -> None:
    reader = FrameReader(1024)
    reader.feed(stream)
    try:
        for content in reader.frames():
            assert len(content) < 1024
    except InputError:
        return
