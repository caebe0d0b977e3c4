"""HTTP/1.1 requests over kept connections: h11 interprets the bytes (RFC 9112), asyncio's streams carry them."""

from __future__ import annotations

import asyncio
import os
import ssl
import time
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from urllib.parse import urlencode

import h11
from msgspec import Struct

from agent import __version__
from agent.client.endpoints import Endpoint
from agent.tasks import cancel_and_wait

CONNECT_TIMEOUT_S = 5.0  # a host across the world answers within one
KEPT_S = 10.0  # agents close what isn't used for 15
MAX_HEAD_BYTES = 16_384  # of an answer, or between two parts of its body; agents' have some 500
READ_BYTES = 262_144  # at once: what asyncio reads from TLS
USER_AGENT = f"muster/{__version__}"

Streams = tuple[StreamReader, StreamWriter]
Dial = Callable[[Endpoint], Awaitable[Streams]]


class Request(Struct, frozen=True, kw_only=True):
    """One request; `path` begins with a slash and is encoded. `timeout_s` None: a stream.

    `silence_s`: how long nothing may arrive, and no part of the body may be sent. A body in parts has its
    Content-Length in `headers`.
    """

    method: str
    path: str
    headers: Mapping[str, str] = {}
    params: Mapping[str, str] = {}
    body: bytes | AsyncIterable[bytes] | None = None
    timeout_s: float | None = None
    silence_s: float | None = None


class TransportError(Exception):
    """No answer, or not all of it; says why in a few words."""


class NotConnected(TransportError):
    """No connection could be made, so nothing was sent."""


class NotTrusted(NotConnected):
    """Something answers there, but it isn't the agent that we ask."""


class HungUp(TransportError):
    """It closed the connection."""

    def __init__(self, why: str = "it closed the connection") -> None:
        super().__init__(why)


class Answer:
    """Its head; iterating gives the parts of its body as they come. Raises TransportError."""

    def __init__(self, connection: _Connection, head: h11.Response, silence_s: float | None) -> None:
        self._connection = connection
        self._head = head
        self._silence_s = silence_s

    @property
    def status(self) -> int:
        """The status code."""
        return self._head.status_code

    @property
    def content_type(self) -> str:
        """In small letters, without parameters; empty when it isn't told."""
        return (self.header("Content-Type") or "").partition(";")[0].strip().lower()

    def header(self, name: str) -> str | None:
        """The value of the first header of that name."""
        wanted = name.lower().encode("ascii")
        return next((value.decode("latin-1") for key, value in self._head.headers if key == wanted), None)

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> bytes:
        if (part := await self._connection.part(self._silence_s)) is None:
            raise StopAsyncIteration
        return part


class Connections:
    """Dials where there is no connection, and keeps those that can be used again. In one event loop; `close` once.

    `authority`: what an endpoint's `Host` is.
    """

    def __init__(self, dial: Dial, authority: Callable[[Endpoint], str]) -> None:
        self._dial = dial
        self._authority = authority
        self._open: set[_Connection] = set()
        self._kept: dict[Endpoint, list[_Connection]] = {}
        self._closed = False

    @asynccontextmanager
    async def request(self, endpoint: Endpoint, request: Request) -> AsyncIterator[Answer]:
        """The answer, for as long as the context. Raises TransportError, also within it."""
        total = asyncio.timeout(request.timeout_s)
        try:
            async with total:
                connection, answer = await self._ask(endpoint, request)
                try:
                    yield answer
                finally:
                    self._end(endpoint, connection)
        except TimeoutError:
            if not total.expired():
                raise
            raise TransportError("no answer in time") from None

    async def close(self) -> None:
        """End all connections, without the closing words that a peer would have to answer first."""
        self._closed = True
        for connection in self._open:
            connection.abort()
        self._open.clear()
        self._kept.clear()
        await asyncio.sleep(0)  # the loop closes sockets in its next turn

    async def _ask(self, endpoint: Endpoint, request: Request) -> tuple[_Connection, Answer]:
        while True:
            kept = self._take(endpoint)
            connection = kept or await self._connect(endpoint)
            try:
                return connection, await connection.ask(request)
            except HungUp:
                self._drop(connection)
                # It may have closed what nobody used just as we did: RFC 9112 §9.5. A change is its caller's to repeat.
                if kept is None or request.method != "GET":
                    raise
            except BaseException:
                self._drop(connection)
                raise

    async def _connect(self, endpoint: Endpoint) -> _Connection:
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                streams = await self._dial(endpoint)
        except ssl.SSLCertVerificationError:
            raise NotTrusted("its certificate isn't of this cluster") from None
        except ssl.SSLError as error:
            raise NotTrusted(f"no TLS with it: {_words(error)}") from None
        except TimeoutError:
            raise NotConnected("no answer in time") from None
        except UnicodeError:  # of a name, which Python encodes before it looks it up
            raise NotConnected("it isn't a host's name") from None
        except OSError as error:
            raise NotConnected(_words(error)) from None
        connection = _Connection(streams, self._authority(endpoint))
        if self._closed:  # while it was dialled: nobody would end it
            connection.abort()
            raise NotConnected("it isn't wanted any more")
        self._open.add(connection)
        return connection

    def _take(self, endpoint: Endpoint) -> _Connection | None:
        kept = self._kept.get(endpoint, [])
        while kept:
            connection = kept.pop()
            if connection.usable:
                return connection
            self._drop(connection)
        return None

    def _end(self, endpoint: Endpoint, connection: _Connection) -> None:
        """The exchange is over: keep the connection, unless part of the exchange is still under way."""
        if connection in self._open and connection.renew():
            self._kept.setdefault(endpoint, []).append(connection)
        else:
            self._drop(connection)

    def _drop(self, connection: _Connection) -> None:
        connection.abort()
        self._open.discard(connection)


class _Connection:
    """One, for one exchange after another."""

    def __init__(self, streams: Streams, authority: str) -> None:
        self._reader, self._writer = streams
        self._authority = authority
        self._http = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._used_s = time.monotonic()

    @property
    def usable(self) -> bool:
        """Whether the peer still has the connection open, as far as we know."""
        gone = self._writer.is_closing() or self._reader.at_eof() or self._reader.exception() is not None
        return not gone and time.monotonic() - self._used_s < KEPT_S

    def renew(self) -> bool:
        """Make ready for another exchange; False if the last one isn't over, or something unasked for came."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        if self._http.trailing_data[0]:
            return False
        self._http.start_next_cycle()
        self._used_s = time.monotonic()
        return True

    def abort(self) -> None:
        """Close it at once, without waiting for the peer's close_notify."""
        self._writer.transport.abort()

    async def ask(self, request: Request) -> Answer:
        """Send it; returns the head of the answer."""
        body = request.body
        with _told():
            if body is None or isinstance(body, bytes):
                sent = self._http.send(self._head_of(request))
                if body:
                    sent += self._http.send(h11.Data(data=body)) or b""
                self._http.send(h11.EndOfMessage())
                self._writer.write(sent)
                async with asyncio.timeout(request.silence_s):
                    head = await self._head()
            else:
                head = await self._ask_in_parts(request, body)
        return Answer(self, head, request.silence_s)

    async def part(self, silence_s: float | None) -> bytes | None:
        """The next part of the answer's body, None behind the last."""
        if self._http.their_state is h11.DONE:
            return None
        with _told():
            async with asyncio.timeout(silence_s):
                event = await self._event()
        return bytes(event.data) if isinstance(event, h11.Data) else None

    def _head_of(self, request: Request) -> h11.Request:
        query = f"?{urlencode(request.params)}" if request.params else ""
        headers = {"Host": self._authority, "User-Agent": USER_AGENT, **request.headers}
        if isinstance(request.body, bytes):
            headers["Content-Length"] = str(len(request.body))
        return h11.Request(method=request.method, target=request.path + query, headers=list(headers.items()))

    async def _ask_in_parts(self, request: Request, parts: AsyncIterable[bytes]) -> h11.Response:
        """Send a body in parts. If the answer comes before all is sent, the member wants no more of the body."""
        self._writer.write(self._http.send(self._head_of(request)))
        sending = asyncio.ensure_future(self._send(parts, request.silence_s))
        reading = asyncio.ensure_future(self._head())
        try:
            await asyncio.wait((sending, reading), return_when=asyncio.FIRST_COMPLETED)
            if not reading.done():
                with suppress(ConnectionError):  # it closed before it had read all; its answer may be here
                    sending.result()
                async with asyncio.timeout(request.silence_s):
                    await asyncio.wait((reading,))
            return reading.result()
        finally:
            await cancel_and_wait(sending, reading)

    async def _send(self, parts: AsyncIterable[bytes], silence_s: float | None) -> None:
        try:
            async for part in parts:
                self._writer.writelines(self._http.send_with_data_passthrough(h11.Data(data=part)) or ())
                async with asyncio.timeout(silence_s):
                    await self._writer.drain()
            self._http.send(h11.EndOfMessage())
        except h11.LocalProtocolError:
            raise TransportError("what was to be sent isn't as long as it was before") from None

    async def _head(self) -> h11.Response:
        while not isinstance(event := await self._event(), h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise HungUp
        return event

    async def _event(self) -> object:
        """The next one. Raises h11.RemoteProtocolError, HungUp, OSError."""
        data = None
        try:
            while (event := self._http.next_event()) is h11.NEED_DATA:
                data = await self._reader.read(READ_BYTES)
                self._http.receive_data(data)
        except h11.RemoteProtocolError:
            if data == b"":
                raise HungUp from None
            raise
        if isinstance(event, h11.ConnectionClosed):
            raise HungUp
        return event


@contextmanager
def _told() -> Iterator[None]:
    """What failed in an exchange, in words."""
    try:
        yield
    except h11.RemoteProtocolError:
        raise TransportError("its answer isn't HTTP") from None
    except TimeoutError:
        raise TransportError("no answer in time") from None
    except ConnectionError as error:
        raise HungUp(_words(error)) from None
    except OSError as error:
        raise TransportError(_words(error)) from None


def _words(error: OSError) -> str:
    if isinstance(error, ssl.SSLError):
        return (error.reason or "it failed").replace("_", " ").lower()
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno).lower()  # asyncio's own words name the address once more
    return (error.strerror or str(error) or type(error).__name__).lower()
