"""The edges: TLS, what isn't HTTP, bounds on connections and rates, slow clients, the local socket's file."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
from pathlib import Path
from types import ModuleType

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.api import app, handlers, server, streams
from agent.api.app import build_app
from agent.api.limits import RateLimit
from agent.api.server import ApiServer
from agent.errors import Conflict, InputError, PortTaken
from agent.telemetry.api_log import ApiStats
from tests.support.fake_node import FakeCluster, RunningNode, line
from tests.support.shop import open_shop
from tests.support.waiting import wait_for

LOGS = "/api/v1/stacks/shop/logs"
MANY = 1000  # more than sockets' buffers hold


def context(cluster: FakeCluster) -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname = False
    made.load_verify_locations(cadata=cluster.home.trust_anchor)
    return made


async def raw(cluster: FakeCluster, running: RunningNode, data: bytes) -> bytes:
    """What the server says to these bytes until it closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", running.server.port, ssl=context(cluster))
    try:
        writer.write(data)
        async with asyncio.timeout(10):
            return await reader.read()
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_only_tls_1_3_is_spoken(cluster: FakeCluster, running: RunningNode) -> None:
    old = context(cluster)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection("127.0.0.1", running.server.port, ssl=old)
    await wait_for(lambda: running.server.drops["tls"] == 1)
    await wait_for(lambda: running.server.connections == 0)


@pytest.mark.parametrize(
    "data",
    [
        b"NONSENSE\r\n\r\n",
        b"GET /health HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nBad Header\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 20_000 + b"\r\n\r\n",
        b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /api/v1/instructions HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"POST /api/v1/instructions HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
    ],
    ids=["no request", "version", "header", "long header", "long path", "length", "smuggling"],
)
async def test_what_is_not_http_gets_a_problem_and_the_connection_ends(
    data: bytes, cluster: FakeCluster, running: RunningNode
) -> None:
    answer = await raw(cluster, running, data)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    assert 400 <= json.loads(body)["status"] < 500


async def test_a_silent_client_is_cut(cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEEPALIVE_TIMEOUT_S", 0.2)
    running = await cluster.start("n1")
    try:
        assert await raw(cluster, running, b"GET /health HTTP/1.1\r\n") == b""
    finally:
        await cluster.close()


async def test_a_client_that_shakes_no_hands_is_cut(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HANDSHAKE_TIMEOUT_S", 0.2)
    running = await cluster.start("n1")
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", running.server.port)
        await wait_for(lambda: running.server.connections == 1)
        assert await reader.read() == b""
        writer.close()
        await wait_for(lambda: running.server.connections == 0)
        assert running.server.drops["tls"] == 1
    finally:
        await cluster.close()


async def test_a_slow_body_is_refused(
    cluster: FakeCluster, running: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handlers, "BODY_TIMEOUT_S", 0.1)
    data = b"POST /api/v1/instructions HTTP/1.1\r\nHost: a\r\nConnection: close\r\nAuthorization: Bearer x\r\n"
    answer = await raw(cluster, running, data + b"Content-Length: 10\r\n\r\nabc")
    assert b" 400 " in answer.split(b"\r\n")[0]
    assert b"didn't come within" in answer


@pytest.mark.parametrize(
    ("path", "bound"), [("/api/v1/openapi.json", (app, "WRITE_TIMEOUT_S")), (LOGS, (streams, "WRITE_TIMEOUT_S"))]
)
async def test_a_client_that_does_not_read_its_answers_is_cut(
    cluster: FakeCluster,
    running: RunningNode,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    bound: tuple[ModuleType, str],
) -> None:
    """It asks again and again over one connection, until nothing more fits between the two."""
    monkeypatch.setattr(*bound, 0.2)
    open_shop(cluster)
    running.node.lines = [line("x" * 1000) for _ in range(MANY)]
    ask = f"GET {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {cluster.access_token()}\r\n\r\n".encode()
    _reader, writer = await asyncio.open_unix_connection(tmp_path / "agent.sock", limit=1)
    try:
        writer.write(ask * MANY)
        await wait_for(lambda: running.server.local_connections == 1)
        await wait_for(lambda: running.server.local_connections == 0)
    finally:
        writer.close()
    assert len(running.records) < MANY


async def test_connections_are_bounded_by_address(
    cluster: FakeCluster, running: RunningNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "MAX_CONNECTIONS_PER_ADDRESS", 2)
    writers = []
    for _ in range(2):
        _, writer = await asyncio.open_connection("127.0.0.1", running.server.port, ssl=context(cluster))
        writers.append(writer)
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await asyncio.open_connection("127.0.0.1", running.server.port, ssl=context(cluster))
    assert running.server.drops["address"] == 1
    for writer in writers:
        writer.close()
        await writer.wait_closed()
    await wait_for(lambda: running.server.connections == 0)
    monkeypatch.setattr(server, "MAX_CONNECTIONS", 0)
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await asyncio.open_connection("127.0.0.1", running.server.port, ssl=context(cluster))
    assert running.server.drops["bound"] == 1


async def test_connections_to_the_local_socket_are_bounded(
    cluster: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may read the status must not be able to take every file descriptor of the agent."""
    monkeypatch.setattr(server, "MAX_LOCAL_CONNECTIONS", 2)
    path = tmp_path / "agent.sock"
    running = await cluster.start("n1", socket=path)
    try:
        writers = [(await asyncio.open_unix_connection(str(path)))[1] for _ in range(2)]
        await wait_for(lambda: running.server.local_connections == 2)
        reader, refused = await asyncio.open_unix_connection(str(path))
        async with asyncio.timeout(5):
            assert await reader.read() == b""
        assert running.server.drops["local"] == 1
        for writer in (*writers, refused):
            writer.close()
            await writer.wait_closed()
        await wait_for(lambda: running.server.local_connections == 0)
        connector = aiohttp.UnixConnector(str(path))
        async with aiohttp.ClientSession(connector=connector) as session, session.get("http://local/health") as answer:
            assert answer.status == 200
    finally:
        await cluster.close()


async def test_an_address_that_asks_too_often_is_told_to_wait(cluster: FakeCluster) -> None:
    running = await cluster.start("n1", rate_limit=RateLimit(per_second=0.5, burst=2))
    try:
        async with aiohttp.ClientSession(f"https://127.0.0.1:{running.server.port}") as session:
            statuses = []
            for _ in range(3):
                async with session.get("/health", ssl=context(cluster)) as response:
                    statuses.append(response.status)
            assert statuses == [200, 200, 429]
            assert int(response.headers["Retry-After"]) >= 1
    finally:
        await cluster.close()


async def test_a_dead_socket_file_is_replaced_and_a_living_one_is_not(cluster: FakeCluster, tmp_path: Path) -> None:
    path = tmp_path / "run" / "agent.sock"
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    running = await cluster.start("n1", socket=path)
    app = build_app(running.node, stats=ApiStats(), log=lambda record: None)
    with pytest.raises(Conflict, match="another agent"):
        await ApiServer.start(app, host=None, tls=None, socket_path=path)
    assert path.is_socket()
    await cluster.close()
    assert not path.exists()


async def test_a_port_that_cannot_be_had_is_named(cluster: FakeCluster, running: RunningNode) -> None:
    app = build_app(running.node, stats=ApiStats(), log=lambda record: None)
    with pytest.raises(PortTaken) as taken:
        await ApiServer.start(app, host="127.0.0.1", port=running.server.port, tls=cluster.contexts["n1"])
    assert taken.value.ports == (running.server.port,)
    with pytest.raises(InputError):
        await ApiServer.start(app, host="192.0.2.1", port=0, tls=cluster.contexts["n1"])


@given(st.lists(st.floats(0, 5), max_size=200), st.integers(1, 10), st.floats(0.5, 20))
def test_no_address_gets_more_than_burst_and_rate(gaps: list[float], burst: int, per_second: float) -> None:
    limit = RateLimit(per_second=per_second, burst=burst)
    now = 0.0
    granted: list[float] = []
    for gap in gaps:
        now += gap
        wait_s = limit.take("a", now)
        assert wait_s >= 0.0
        if wait_s == 0.0:
            granted.append(now)
    for first in range(len(granted)):
        for last in range(first, len(granted)):
            assert last - first + 1 <= burst + (granted[last] - granted[first]) * per_second + 1e-6


def test_the_rate_limit_forgets_the_address_unused_for_longest() -> None:
    limit = RateLimit(per_second=0.001, burst=1, max_addresses=2)
    assert [limit.take(address, 0.0) > 0 for address in ("a", "b", "a", "c", "b", "a")] == [
        False,
        False,
        True,
        False,
        False,
        False,
    ]
