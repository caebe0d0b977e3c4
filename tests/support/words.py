"""What agents of tests say: signed with a secret that follows from their id, at little cost, and as it goes over a
link.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

from agent.net.frames import FrameReader, decode_frame, encode_frame
from agent.node.messages import Frame


def signing_as(agent: str) -> Callable[[bytes], bytes]:
    """The same for the same bytes each time, as Ed25519 does (RFC 8032), and as long."""
    return lambda data: hashlib.blake2b(data, key=agent.encode()[:64], digest_size=64).digest()


def over_the_wire(frame: Frame) -> Frame:
    """Encoded and decoded: what doesn't survive that, no peer ever hears."""
    reader = FrameReader(1 << 24)
    reader.feed(encode_frame(frame))
    (content,) = reader.frames()
    return decode_frame(content)
