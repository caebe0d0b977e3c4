"""Messages of consensus as bytes, alone; on a peer link they are part of a frame (agent.net.frames)."""

from __future__ import annotations

import msgspec

from agent.raft import Message

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def encode_message(message: Message) -> bytes:
    """One msgpack array whose first element is the message's tag."""
    return _encoder.encode(message)


def decode_message(data: bytes) -> Message:
    """Raises ValueError when `data` isn't exactly one message inside the bounds."""
    try:
        return _decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ValueError(f"not a consensus message: {error}") from None
