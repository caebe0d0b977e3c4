"""HTTP as the client speaks it, with peers that answer byte by byte what a test says, or nothing."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, field

import pytest

from agent.client import http
from agent.client.endpoints import Endpoint
from agent.client.http import Connections, HungUp, NotConnected, Request, Streams, TransportError
from tests.support.waiting import wait_for

GET = Request(method="GET", path="/")
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SILENCE_S = 0.3

Script = Callable[[StreamReader, StreamWriter], Awaitable[None]]


@dataclass
class Peer:
    """Plays `script` on each connection, and closes it behind that."""

    script: Script
    connections: int = 0
    open: int = 0
    heads: list[bytes] = field(default_factory=list)

    async def serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """One connection."""
        self.connections += 1
        self.open += 1
        try:
            await self.script(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client went away
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            self.open -= 1

    async def head(self, reader: StreamReader) -> bytes:
        """The next request's."""
        head = await reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        return head


@dataclass
class Asking:
    """A client of one peer."""

    peer: Peer
    connections: Connections
    endpoint: Endpoint

    async def ask(self, request: Request = GET) -> tuple[int, bytes]:
        """Status and body."""
        async with self.connections.request(self.endpoint, request) as answer:
            return answer.status, b"".join([part async for part in answer])


@asynccontextmanager
async def asking(script: Script | None = None, *answers: bytes) -> AsyncIterator[Asking]:
    """With `answers` and no script each request gets the next one on the same connection; then it waits."""

    async def one_after_another(reader: StreamReader, writer: StreamWriter) -> None:
        for answer in answers:
            await peer.head(reader)
            writer.write(answer)
        await reader.read()

    async def dial(endpoint: Endpoint) -> Streams:
        return await asyncio.open_connection(endpoint.address, endpoint.port)

    peer = Peer(script or one_after_another)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    connections = Connections(dial, lambda endpoint: endpoint.authority)
    try:
        yield Asking(peer, connections, Endpoint(address="127.0.0.1", port=server.sockets[0].getsockname()[1]))
    finally:
        await connections.close()
        await wait_for(lambda: peer.open == 0)
        server.close()
        await server.wait_closed()


async def test_a_request_says_what_it_must_and_its_parameters_are_encoded() -> None:
    async with asking(None, OK) as client:
        request = Request(method="POST", path="/x%20y", params={"a": "b c&d"}, headers={"Accept": "*/*"}, body=b"1")
        assert await client.ask(request) == (200, b"ok")
    lines = client.peer.heads[0].split(b"\r\n")
    assert lines[0] == b"POST /x%20y?a=b+c%26d HTTP/1.1"
    assert f"Host: {client.endpoint.authority}".encode() in lines
    assert {b"Accept: */*", b"Content-Length: 1"} <= set(lines)


async def test_one_connection_serves_one_request_after_another() -> None:
    async with asking(None, OK, CHUNKED + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n", OK) as client:
        assert [await client.ask() for _ in range(3)] == [(200, b"ok"), (200, b"ab"), (200, b"ok")]
        assert client.peer.connections == 1


async def test_requests_at_the_same_time_have_connections_of_their_own() -> None:
    both = asyncio.Barrier(2)

    async def script(reader: StreamReader, writer: StreamWriter) -> None:
        await client.peer.head(reader)
        await both.wait()
        writer.write(OK)
        await reader.read()

    async with asking(script) as client:
        assert set(await asyncio.gather(client.ask(), client.ask())) == {(200, b"ok")}


async def test_an_answer_that_was_not_read_to_its_end_takes_its_connection_along() -> None:
    async with asking(None, OK, OK) as client:
        async with client.connections.request(client.endpoint, GET) as answer:
            assert answer.status == 200
        await wait_for(lambda: client.peer.open == 0)
        assert await client.ask() == (200, b"ok")
        assert client.peer.connections == 2


@pytest.mark.parametrize("header", [b"Connection: close\r\n", b""])
async def test_a_connection_that_the_agent_closed_is_not_used_again(header: bytes) -> None:
    async def script(reader: StreamReader, writer: StreamWriter) -> None:
        await client.peer.head(reader)
        writer.write(OK.replace(b"\r\n\r\n", b"\r\n" + header + b"\r\n"))

    async with asking(script) as client:
        assert await client.ask() == (200, b"ok")
        await wait_for(lambda: client.peer.open == 0)
        await asyncio.sleep(0.01)  # in the loop's next turn the end is read, which is there
        assert await client.ask(Request(method="POST", path="/", body=b"x")) == (200, b"ok")
        assert client.peer.connections == 2


async def test_one_that_is_closed_while_we_ask_is_dialled_again_for_a_read_and_never_for_a_change() -> None:
    async def script(reader: StreamReader, writer: StreamWriter) -> None:
        await client.peer.head(reader)
        writer.write(OK)
        await client.peer.head(reader)

    async with asking(script) as client:
        assert [await client.ask(), await client.ask()] == [(200, b"ok")] * 2
        assert client.peer.connections == 2
        with pytest.raises(HungUp, match="closed the connection"):
            await client.ask(Request(method="POST", path="/", body=b"x"))


async def test_one_that_was_not_used_for_long_is_not_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "KEPT_S", 0.0)
    async with asking(None, OK, OK) as client:
        assert [await client.ask(), await client.ask()] == [(200, b"ok")] * 2
        assert client.peer.connections == 2
        await wait_for(lambda: client.peer.open == 1)


async def test_what_nobody_asked_for_is_not_taken_for_the_next_answer() -> None:
    async with asking(None, OK + OK.replace(b"ok", b"no"), OK) as client:
        assert [await client.ask(), await client.ask()] == [(200, b"ok")] * 2
        assert client.peer.connections == 2


async def test_a_redirection_is_an_answer_and_is_not_followed() -> None:
    moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n"
    async with asking(None, moved) as client:
        assert await client.ask() == (302, b"")


async def test_headers_are_found_by_any_spelling_and_the_type_has_no_parameters() -> None:
    plain = (
        b"HTTP/1.1 200 OK\r\nDATE: now\r\nContent-Type: Application/JSON; charset=utf-8\r\nContent-Length: 0\r\n\r\n"
    )
    async with asking(None, plain) as client, client.connections.request(client.endpoint, GET) as answer:
        assert (answer.header("date"), answer.header("Age")) == ("now", None)
        assert answer.content_type == "application/json"


async def test_what_only_informs_is_passed_over() -> None:
    async with asking(None, b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK) as client:
        assert await client.ask() == (200, b"ok")


async def test_a_body_without_a_length_ends_with_its_connection() -> None:
    async def script(reader: StreamReader, writer: StreamWriter) -> None:
        await client.peer.head(reader)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\nall of it")

    async with asking(script) as client:
        assert await client.ask() == (200, b"all of it")


@pytest.mark.parametrize("begun", [b"", b"HTTP/1.1 200", CHUNKED + b"5\r\nab", OK[:-1]])
async def test_an_answer_that_breaks_off_is_none(begun: bytes) -> None:
    async def script(reader: StreamReader, writer: StreamWriter) -> None:
        await client.peer.head(reader)
        writer.write(begun)

    async with asking(script) as client:
        with pytest.raises(HungUp, match="closed the connection"):
            await client.ask()


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n" + b"X: " + b"x" * 1_000_000,
        CHUNKED + b"1;" + b"x" * 1_000_000,
        CHUNKED + b"nonsense\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"\xff" * 5_000 + b"\r\n\r\n",
    ],
    ids=["not HTTP", "two lengths", "an endless head", "an endless extension", "no size", "a long line"],
)
async def test_what_is_not_http_is_refused_and_never_gathered(answer: bytes) -> None:
    async with asking(None, answer) as client:
        with pytest.raises(TransportError, match="isn't HTTP") as told:
            await client.ask(Request(method="GET", path="/", timeout_s=10.0))
        assert len(str(told.value)) < 300
        await wait_for(lambda: client.peer.open == 0)


@pytest.mark.parametrize("begun", [b"", CHUNKED, CHUNKED + b"1\r\na\r\n"])
@pytest.mark.parametrize("limit", [{"silence_s": SILENCE_S}, {"timeout_s": SILENCE_S}])
async def test_silence_and_time_have_their_limits_before_an_answer_and_in_it(
    begun: bytes, limit: dict[str, float]
) -> None:
    async with asking(None, begun) as client:
        with pytest.raises(TransportError, match="no answer in time"):
            await client.ask(Request(method="GET", path="/", **limit))  # type: ignore[arg-type]  # two of its fields
        await wait_for(lambda: client.peer.open == 0)


async def test_each_part_that_comes_ends_the_silence() -> None:
    async def script(reader: StreamReader, writer: StreamWriter) -> None:
        await client.peer.head(reader)
        writer.write(CHUNKED)
        for _ in range(4):
            await asyncio.sleep(SILENCE_S / 2)
            writer.write(b"1\r\na\r\n")
        writer.write(b"0\r\n\r\n")

    async with asking(script) as client:
        assert await client.ask(Request(method="GET", path="/", silence_s=SILENCE_S)) == (200, b"aaaa")


async def test_a_time_out_of_the_callers_own_stays_one() -> None:
    async with asking(None, CHUNKED) as client:
        with pytest.raises(TimeoutError):
            async with client.connections.request(client.endpoint, Request(method="GET", path="/", timeout_s=60.0)):
                raise TimeoutError


async def test_who_stops_waiting_hangs_up() -> None:
    async with asking(None, b"") as client:
        waiting = asyncio.create_task(client.ask())
        await wait_for(lambda: client.peer.heads)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await wait_for(lambda: client.peer.open == 0)


async def test_closing_ends_what_is_under_way() -> None:
    async with asking(None, CHUNKED) as client:
        waiting = asyncio.create_task(client.ask())
        await wait_for(lambda: client.peer.heads)
        await client.connections.close()
        with pytest.raises(TransportError):
            await waiting


async def test_closing_ends_what_is_still_dialled() -> None:
    async def dial(endpoint: Endpoint) -> Streams:
        await closed.wait()
        return await asyncio.open_connection(endpoint.address, endpoint.port)

    closed = asyncio.Event()
    async with asking(None, OK) as client:
        connections = Connections(dial, lambda _: "n1")
        late = asyncio.create_task(Asking(client.peer, connections, client.endpoint).ask())
        await asyncio.sleep(0)  # it dials
        await connections.close()
        closed.set()
        with pytest.raises(NotConnected):
            await late
        await wait_for(lambda: client.peer.open == 0)


async def test_who_takes_the_connection_and_says_nothing_in_tls_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "CONNECT_TIMEOUT_S", SILENCE_S)

    async def dial(_: Endpoint) -> Streams:
        await asyncio.sleep(3600)
        raise AssertionError

    connections = Connections(dial, lambda _: "n1")
    with pytest.raises(NotConnected, match="no answer in time"):
        async with connections.request(Endpoint(address="n1"), GET):
            pass


# A body in parts


def upload(size: int, parts: AsyncIterator[bytes], *, silence_s: float | None = None) -> Request:
    return Request(
        method="PUT", path="/", headers={"Content-Length": str(size)}, body=parts, silence_s=silence_s, timeout_s=20.0
    )


async def test_a_body_in_parts_arrives_as_it_is_and_the_connection_is_kept() -> None:
    got: list[bytes] = []

    async def script(reader: StreamReader, writer: StreamWriter) -> None:
        await client.peer.head(reader)
        got.append(await reader.readexactly(3_000_000))
        writer.write(OK)
        await client.peer.head(reader)
        writer.write(OK)

    async def parts() -> AsyncIterator[bytes]:
        for letter in b"abc":
            yield bytes([letter]) * 1_000_000

    async with asking(script) as client:
        assert await client.ask(upload(3_000_000, parts())) == (200, b"ok")
        assert got == [b"a" * 1_000_000 + b"b" * 1_000_000 + b"c" * 1_000_000]
        await client.ask()
        assert client.peer.connections == 1


async def test_an_answer_in_the_middle_of_a_body_is_the_answer_and_ends_it() -> None:
    asked = 0

    async def script(reader: StreamReader, writer: StreamWriter) -> None:
        await client.peer.head(reader)
        writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
        await reader.read()

    async def parts() -> AsyncIterator[bytes]:
        nonlocal asked
        for _ in range(1_000_000):
            asked += 1
            yield b"x" * 1_000_000

    async with asking(script) as client, aclosing(parts()) as body:  # type: ignore[type-var]  # a generator
        assert await client.ask(upload(10**12, body)) == (413, b"no")
        await wait_for(lambda: client.peer.open == 0)  # it isn't kept
    assert asked < 1000


async def test_a_member_that_takes_no_more_of_a_body_is_given_up() -> None:
    async def script(reader: StreamReader, writer: StreamWriter) -> None:
        await client.peer.head(reader)
        await over.wait()

    async def parts() -> AsyncIterator[bytes]:
        while True:
            yield b"x" * 1_000_000

    over = asyncio.Event()
    async with asking(script) as client:
        with pytest.raises(TransportError, match="no answer in time"):
            await client.ask(upload(10**12, parts(), silence_s=SILENCE_S))
        over.set()


async def test_sending_slowly_is_no_silence() -> None:
    async def script(reader: StreamReader, writer: StreamWriter) -> None:
        await client.peer.head(reader)
        await reader.readexactly(4)
        writer.write(OK)
        await reader.read()

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(4):
            await asyncio.sleep(SILENCE_S / 2)
            yield b"x"

    async with asking(script) as client:
        assert await client.ask(upload(4, parts(), silence_s=SILENCE_S)) == (200, b"ok")


@pytest.mark.parametrize("announced", [1, 3])
async def test_a_body_that_is_not_as_long_as_announced_is_not_taken_for_one_that_arrived(announced: int) -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"xx"

    async with asking(None, b"") as client:
        with pytest.raises(TransportError, match="as long as"):
            await client.ask(upload(announced, parts()))
        await wait_for(lambda: client.peer.open == 0)


async def test_what_fails_in_reading_the_body_is_told_as_what_it_is() -> None:
    async def parts() -> AsyncIterator[bytes]:
        yield b"x"
        raise LookupError("the part is gone")

    async with asking(None, b"") as client:
        with pytest.raises(LookupError, match="the part is gone"):
            await client.ask(upload(2, parts()))
        await wait_for(lambda: client.peer.open == 0)
