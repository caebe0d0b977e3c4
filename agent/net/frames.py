"""Frames on the peer link: 4 bytes length (big-endian, of what follows), 1 byte version of this framing, msgpack.

A frame with a wrong length or version ends the link, since the next one can't be found any more. A frame whose content
isn't understood is dropped alone: the hello's `frames` says which kinds the peer knows (agent.node.versions).
"""

import struct
from collections.abc import Iterator
from typing import Annotated, Final, Literal

import msgspec

from agent.errors import InputError, TooLarge
from agent.model.instruction import MAX_TOKEN_BYTES
from agent.model.types import ClusterId, Label, Port
from agent.node.messages import Frame

# How frames are cut out of the stream and written. What they say has versions of its own (agent.node.versions).
FRAMING_VERSION: Final = 1

# The largest frames are a status of 10,000 replicas (about 5 MiB), an instruction and a snapshot's part (1 MiB each).
MAX_FRAME_BYTES: Final = 8 * 1024 * 1024

# Of an HMAC-SHA256, as long as what it makes.
KEY_BYTES: Final = 32

# Before a peer has said who it is: a hello is about 1 KiB.
MAX_HELLO_FRAME_BYTES: Final = 8 * 1024

# Of the instruction that goes with a refusal. The longest reason is 2 KiB; with a token it fits into one frame.
MAX_REFUSAL_BODY_BYTES: Final = 3 * 1024

_LENGTH = struct.Struct(">I")
HEADER_BYTES: Final = _LENGTH.size
_VERSION_BYTE = bytes([FRAMING_VERSION])

RefusalReason = Literal["protocol", "version", "identity", "hello", "cluster", "expelled", "self", "busy"]
"""Why a link isn't taken up. `identity`: the certificate; `hello`: its signature, audience or binding; `version`: no
version of frames that both know.
"""


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello", omit_defaults=True):
    """The first frame of each side; the server's comes only after it has checked the client's.

    `token` is the hello JWT (agent.instruction). The rest is what peers learn of each other; `boot` grows with each
    start of the agent; `frames` is the highest version of frames that it knows. `datagram_key`: for the datagrams that
    the receiver sends to this agent (agent.net.datagrams); b"" says that it knows only signed ones.
    """

    token: Annotated[str, msgspec.Meta(max_length=MAX_TOKEN_BYTES)]
    cluster: ClusterId
    epoch: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    name: Label
    boot: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    agent_version: Annotated[str, msgspec.Meta(max_length=64)]
    level: Annotated[int, msgspec.Meta(ge=1, le=2**31)]
    api_port: Port
    peer_port: Port
    frames: Annotated[int, msgspec.Meta(ge=1, le=2**31)] = 1
    datagram_key: Annotated[bytes, msgspec.Meta(max_length=KEY_BYTES)] = b""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused", omit_defaults=True):
    """Instead of a hello: why the link is closed.

    `token` and `body`: the instruction that expelled the receiver, as it was signed, where that is known and isn't too
    long.
    """

    reason: RefusalReason
    token: Annotated[str, msgspec.Meta(max_length=MAX_TOKEN_BYTES)] = ""
    body: Annotated[bytes, msgspec.Meta(max_length=MAX_REFUSAL_BODY_BYTES)] = b""


Opening = Hello | Refused

_encoder = msgspec.msgpack.Encoder()
_frames: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)
_openings: msgspec.msgpack.Decoder[Opening] = msgspec.msgpack.Decoder(Opening)
_buffer = bytearray()


def encode_frame(frame: Frame | Opening) -> bytes:
    """The frame as it goes over the wire. Raises TooLarge when it is over MAX_FRAME_BYTES.

    Called from the event loop's thread only: the buffer is shared.
    """
    _encoder.encode_into(frame, _buffer, HEADER_BYTES + 1)
    size = len(_buffer) - HEADER_BYTES
    if size > MAX_FRAME_BYTES:
        _buffer.clear()
        raise TooLarge(f"a frame of {size} bytes; at most {MAX_FRAME_BYTES} go over the peer link")
    _LENGTH.pack_into(_buffer, 0, size)
    _buffer[HEADER_BYTES] = FRAMING_VERSION
    return bytes(_buffer)


def decode_frame(content: bytes | memoryview) -> Frame:
    """A frame's content (after the version byte). Raises InputError for anything that isn't one."""
    try:
        return _frames.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"not a frame: {error}") from None


def decode_opening(content: bytes | memoryview) -> Opening:
    """The first frame of a link. Raises InputError for anything that isn't one."""
    try:
        return _openings.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"not a hello: {error}") from None


class FrameReader:
    """Cuts a byte stream into frames' contents. Holds at most one frame beyond what the last `feed` brought.

    Invariant: what is kept after `frames()` is exhausted is less than one whole frame.
    """

    def __init__(self, max_frame_bytes: int = MAX_HELLO_FRAME_BYTES) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._kept = bytearray()

    def whole(self, data: bytes) -> bytes | None:
        """The content, if nothing is buffered and `data` is exactly one frame, as is usual; else None: feed it."""
        if self._kept or len(data) <= HEADER_BYTES or data[HEADER_BYTES] != FRAMING_VERSION:
            return None
        (size,) = _LENGTH.unpack_from(data)
        if size != len(data) - HEADER_BYTES or size > self.max_frame_bytes:
            return None
        return data[HEADER_BYTES + 1 :]

    def feed(self, data: bytes) -> None:
        """Take the stream's next bytes."""
        self._kept += data

    def frames(self) -> Iterator[bytes]:
        """The contents that are complete by now. Raises TooLarge or InputError at a head that can't be one of ours."""
        at = 0
        kept = self._kept
        try:
            while len(kept) - at >= HEADER_BYTES:
                (size,) = _LENGTH.unpack_from(kept, at)
                start = at + HEADER_BYTES
                if size > self.max_frame_bytes:
                    raise TooLarge(f"a frame of {size} bytes; at most {self.max_frame_bytes} are taken")
                if size < 1 or kept[start : start + 1] not in (b"", _VERSION_BYTE):
                    raise InputError("not a frame: its length or version is none of ours")
                if len(kept) < start + size:
                    break
                at = start + size
                yield bytes(memoryview(kept)[start + 1 : at])
        finally:
            del kept[:at]
