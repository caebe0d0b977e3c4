"""Frames over standard input and output. Nothing else may write there."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from typing import Any, BinaryIO

MAX_FRAME_BYTES = 33_554_432  # a genesis of 1000 members in a grant, twice escaped, is a third of it
BLOCK_BYTES = 1_048_576  # of a tarball at a time

HELLO = b"\nmuster-helper 1\n"
"""Before the first frame: what a login shell's start-up files wrote ends here."""


class Failure(Exception):
    """What a person has to know; shaped like agent.errors.MusterError, which isn't on the host yet."""

    def __init__(self, what: str, where: str = "", fix: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.where = where
        self.fix = fix


class Wire:
    """One peer, frames in and out."""

    def __init__(self, source: BinaryIO, sink: BinaryIO) -> None:
        self._source = source
        self._sink = sink
        self._rest = 0

    def hello(self) -> None:
        """Say that frames follow."""
        self._sink.write(HELLO)
        self._sink.flush()

    def receive(self) -> dict[str, Any] | None:
        """The next question; None when the operator's side is gone."""
        head = self._source.read(4)
        if len(head) < 4:
            return None
        (length,) = struct.unpack(">I", head)
        if length > MAX_FRAME_BYTES:
            raise Failure(f"a frame of {length} bytes")
        message = json.loads(self._exactly(length))
        if not isinstance(message, dict):
            raise Failure("a frame that is no object")
        return message

    def expect(self, size: int) -> None:
        """That many bytes follow the question."""
        self._rest = size

    def blob(self) -> Iterator[bytes]:
        """The bytes that follow the question, or those that are left: they are in the way of the next one."""
        while self._rest:
            block = self._source.read(min(self._rest, BLOCK_BYTES))
            if not block:
                raise Failure("the connection ended within a file")
            self._rest -= len(block)
            yield block

    def step(self, text: str) -> None:
        """Report what happens now."""
        self._send({"step": text})

    def done(self, value: object) -> None:
        """The answer."""
        self._send({"done": value})

    def failed(self, failure: Failure) -> None:
        """The answer when there is none."""
        self._send({"failed": {"what": failure.what, "where": failure.where, "fix": failure.fix}})

    def _send(self, message: object) -> None:
        data = json.dumps(message).encode()
        self._sink.write(struct.pack(">I", len(data)) + data)
        self._sink.flush()

    def _exactly(self, length: int) -> bytes:
        data = self._source.read(length)
        if len(data) < length:
            raise Failure("the connection ended within a frame")
        return data
