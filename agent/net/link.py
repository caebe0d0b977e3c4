"""One peer link: frames in and out over one TLS connection, with a bounded queue and the times of last traffic."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Final, Literal

import msgspec

from agent.errors import InputError
from agent.model.types import AgentId, Digest, Label
from agent.net.frames import MAX_FRAME_BYTES, FrameReader
from agent.raft.messages import MAX_CHUNK_BYTES

# Frames waiting for one slow peer. Two of the largest frames, so that one on its way never blocks the next; everything
# beyond is dropped, since raft and swim repeat what matters.
MAX_QUEUE_BYTES: Final = 2 * MAX_FRAME_BYTES

# Beyond it for a part of a snapshot alone, of which one is on its way at a time: so that it doesn't fill a slow link it
# is repeated seldom, and one that were dropped would cost up to a minute.
MAX_PART_BYTES: Final = MAX_CHUNK_BYTES + 65_536  # with what the frame says of it

# Bytes handed to TLS ahead of the socket. Small, because what is in there can't be overtaken or dropped any more.
WRITE_AHEAD_BYTES: Final = 256 * 1024

DownReason = Literal[
    "closed",  # the peer closed it
    "lost",  # the connection broke
    "silent",  # nothing came for silence_timeout_s
    "garbage",  # what came isn't framed as ours
    "restarted",  # the peer's agent started anew and linked again
    "replaced",  # the peer lost this link and made another one
    "expelled",  # the ledger says so
    "asked",  # LinkTable.close
    "stopping",  # LinkTable.stop
]


class PeerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """Who is at the other end, as certificate and hello say. `known`: our ledger names it as a member.

    `frames`: the version of frames that both know (agent.node.versions). `host` is the IP address that it is seen at;
    `dialled`: this side opened the connection. `boot` grows with each start of the peer's agent. `datagram_key`: the
    key for our datagrams to it.
    """

    id: AgentId
    name: Label
    epoch: int
    boot: int
    agent_version: str
    frames: int
    datagram_key: bytes
    host: str
    peer_port: int
    certificate: Digest
    known: bool
    dialled: bool

    def __repr__(self) -> str:
        """Without the key."""
        return f"PeerInfo(id={self.id!r}, name={self.name!r}, host={self.host!r}, boot={self.boot})"


class Link(asyncio.Protocol):
    """A TLS connection that carries frames.

    Life: `first()` waits for the opening frame, after which reading is paused; `begin()` says where the rest goes and
    `read_on()` lets it come; `on_lost` is called once at the end, with `reason`. For the event loop's thread only.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, user_timeout_s: float) -> None:
        self._loop = loop
        self._user_timeout_ms = int(user_timeout_s * 1000)
        self._transport: asyncio.Transport | None = None
        self._reader = FrameReader()
        self._first: asyncio.Future[bytes] = loop.create_future()
        self._on_content: Callable[[bytes], None] | None = None
        self._on_lost: Callable[[DownReason], None] | None = None
        self._on_read: Callable[[], None] = lambda: None
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._flush_due = False
        self._paused = False
        self._reading = False
        self._lost = False
        self.reason: DownReason | None = None
        self.last_received = loop.time()
        self.last_sent = loop.time()

    # --- what the table uses ---

    @property
    def tls(self) -> ssl.SSLObject:
        """The TLS session; only while the link is open."""
        assert self._transport is not None
        found = self._transport.get_extra_info("ssl_object")
        assert isinstance(found, ssl.SSLObject)
        return found

    @property
    def host(self) -> str:
        """The peer's IP address."""
        assert self._transport is not None
        name = self._transport.get_extra_info("peername")
        return str(name[0]) if name else ""

    @property
    def closed(self) -> bool:
        """Whether nothing can be sent any more."""
        return self._lost or self.reason is not None

    @property
    def queued_bytes(self) -> int:
        """Bytes that wait for a slow peer."""
        return self._pending_bytes

    async def first(self) -> bytes:
        """The opening frame's content. Raises InputError for garbage, ConnectionError when the peer closes instead."""
        return await self._first

    def begin(
        self, on_content: Callable[[bytes], None], on_lost: Callable[[DownReason], None], on_read: Callable[[], None]
    ) -> None:
        """Set who gets frames after `read_on`: `on_content` each one's content, then once `on_lost`.

        `on_read` comes after all frames that came together.
        """
        self._on_content = on_content
        self._on_lost = on_lost
        self._on_read = on_read
        self._reader.max_frame_bytes = MAX_FRAME_BYTES
        if self._lost:
            self._loop.call_soon(on_lost, self.reason or "lost")

    def read_on(self) -> None:
        """Let frames come, beginning with those that came together with the first."""
        if self.closed or self._transport is None:
            return
        self._reading = True
        self._transport.resume_reading()
        self._deliver()

    def send(self, data: bytes, *, hold: bool = False, part: bool = False) -> bool:
        """Queue an encoded frame; frames of one turn of the loop leave in one write. False: dropped, since the queue is
        full.

        `hold`: the caller calls `flush`, which saves a turn of the loop. `part`: of a snapshot.
        """
        if self.closed or self._pending_bytes + len(data) > MAX_QUEUE_BYTES + part * MAX_PART_BYTES:
            return False
        self._pending.append(data)
        self._pending_bytes += len(data)
        if not hold and not self._flush_due and not self._paused:
            self._flush_due = True
            self._loop.call_soon(self.flush)
        return True

    def flush(self) -> None:
        """Hand what is queued to the socket now, instead of when the loop comes round."""
        self._flush_due = False
        if self._paused or not self._pending or self._transport is None or self._lost:
            return
        data = self._pending[0] if len(self._pending) == 1 else b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        self.last_sent = self._loop.time()
        self._transport.write(data)

    def close(self, reason: DownReason) -> None:
        """Send what is queued, then close."""
        if self._transport is None or self.closed:
            return
        self.flush()
        self.reason = reason
        self._transport.close()

    def abort(self, reason: DownReason) -> None:
        """Cut at once; nothing more leaves or arrives."""
        if self._transport is None or self._lost:
            return
        self.reason = self.reason or reason
        self._on_content = None
        self._transport.abort()

    # --- asyncio.Protocol ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(high=WRITE_AHEAD_BYTES)
        raw = transport.get_extra_info("socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        # Bytes that nobody acknowledges end the connection even while the loop has nothing to read.
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, self._user_timeout_ms)

    def data_received(self, data: bytes) -> None:
        self.last_received = self._loop.time()
        if self._reading and self._on_content is not None and (content := self._reader.whole(data)) is not None:
            self._on_content(content)
            self._on_read()
            return
        self._reader.feed(data)
        if self._reading or not self._first.done():
            self._deliver()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        self.flush()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost = True
        self.reason = self.reason or ("closed" if exc is None else "lost")
        self._pending.clear()
        self._pending_bytes = 0
        if not self._first.done():
            self._first.set_exception(ConnectionResetError("the peer closed the link before its first frame"))
            self._first.exception()  # nobody may be waiting; the table counts it anyway
        if self._on_lost is not None:
            self._on_lost(self.reason)

    def _deliver(self) -> None:
        try:
            for content in self._reader.frames():
                if not self._first.done():
                    self._first.set_result(content)
                    assert self._transport is not None
                    self._transport.pause_reading()  # the rest waits until the opening is judged
                    return
                if self._on_content is None:
                    return
                self._on_content(content)
        except InputError as error:
            if not self._first.done():
                self._first.set_exception(error)
                self._first.exception()  # as above
            self.abort("garbage")
        finally:
            self._on_read()
