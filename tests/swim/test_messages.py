"""The wire format: bounded, and hostile until decoded."""

from __future__ import annotations

import msgspec
import pytest

from agent.swim import MAX_DATAGRAM_BYTES, MAX_ID_BYTES, MAX_MESSAGE_BYTES, Ack, Claim, Gossip, Nack, Ping, PingRequest
from agent.swim.messages import MAX_INCARNATION, MAX_SEQUENCE, MAX_UPDATES_PER_MESSAGE, SwimMessage, Update

LONGEST_ID = "x" * MAX_ID_BYTES
LARGEST_UPDATE = Update(LONGEST_ID, LONGEST_ID, Claim.LEFT, MAX_INCARNATION)
FULL = (LARGEST_UPDATE,) * MAX_UPDATES_PER_MESSAGE
LARGEST: list[SwimMessage] = [
    Ping(MAX_SEQUENCE, MAX_INCARNATION, FULL),
    PingRequest(MAX_SEQUENCE, MAX_INCARNATION, LONGEST_ID, FULL),
    Ack(MAX_SEQUENCE, MAX_INCARNATION, FULL),
    Nack(MAX_SEQUENCE, MAX_INCARNATION, FULL),
    Gossip(MAX_INCARNATION, FULL),
]


@pytest.mark.parametrize("message", LARGEST)
def test_the_largest_message_fits_and_comes_back_as_it_was(message: SwimMessage) -> None:
    encoded = msgspec.msgpack.encode(message)
    assert len(encoded) <= MAX_MESSAGE_BYTES < MAX_DATAGRAM_BYTES
    assert msgspec.msgpack.decode(encoded, type=SwimMessage) == message


@pytest.mark.parametrize(
    "raw",
    [
        [],
        [9, 1, 1],
        ["1", 1, 1],
        [1],
        [1, -1, 0],
        [1, MAX_SEQUENCE + 1, 0],
        [1, 1, MAX_INCARNATION + 1],
        [1, 1.5, 0],
        [1, True, 0],
        [1, 1, 0, [], "more"],
        [1, 1, 0, [["a", "b", 5, 0]]],
        [1, 1, 0, [["a", "b", 0, 0]]],
        [1, 1, 0, [["", "b", 1, 0]]],
        [1, 1, 0, [["a", "b", 1]]],
        [1, 1, 0, [["a" * (MAX_ID_BYTES + 1), "b", 1, 0]]],
        [1, 1, 0, [["a", "b", 1, 0]] * (MAX_UPDATES_PER_MESSAGE + 1)],
        [2, 1, 0, None],
        {"sequence": 1},
    ],
)
def test_what_is_out_of_bounds_is_refused(raw: object) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.msgpack.decode(msgspec.msgpack.encode(raw), type=SwimMessage)
