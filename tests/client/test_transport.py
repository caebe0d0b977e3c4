"""Connections to agents: what is left in mid-answer ends with the command, whatever the agent does."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.client.endpoints import Endpoint
from agent.client.http import NotConnected, Request
from agent.client.transport import HttpsTransport
from agent.net.tls import api_server_context
from tests.support.fake_node import FakeCluster
from tests.support.trust import Trust, found


@contextmanager
def silent_agent(context: ssl.SSLContext) -> Iterator[Endpoint]:
    """It begins an answer to one request, and from then on neither writes nor reads."""
    over = threading.Event()

    def serve() -> None:
        raw, _ = listener.accept()
        with context.wrap_socket(raw, server_side=True) as connection:
            connection.recv(65_536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
            over.wait()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Endpoint(address="127.0.0.1", port=listener.getsockname()[1], label="n1")
        finally:
            over.set()
            thread.join()


def test_closing_leaves_no_connection_open_to_an_agent_that_has_fallen_silent(tmp_path: Path) -> None:
    trust = Trust()
    (identity,) = found(tmp_path, 1, trust)

    async def watch(endpoint: Endpoint) -> None:
        transport = HttpsTransport(trust.anchor, frozenset())
        async with transport.request(endpoint, Request(method="GET", path="/")) as answer:
            assert await anext(answer) == b"x"
        await transport.close()

    context = api_server_context(identity.certificate_path, identity.tls_key_path)
    with silent_agent(context) as endpoint, warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always")
        asyncio.run(watch(endpoint))
        gc.collect()
    assert [str(warning.message) for warning in left] == []


async def test_who_stops_waiting_at_any_moment_leaves_no_connection_behind(running: FakeCluster) -> None:
    endpoint = Endpoint(address="127.0.0.1", port=running.nodes["n1"].server.port)
    with warnings.catch_warnings(record=True) as left:
        warnings.simplefilter("always")
        answered, turns = False, 0
        while not answered:
            transport = HttpsTransport(running.home.trust_anchor, frozenset())
            asking = asyncio.create_task(ask(transport, endpoint))
            for _ in range(turns):
                await asyncio.sleep(0)
            answered = asking.done()
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            await transport.close()
            turns += 1
        gc.collect()
    assert [str(warning.message) for warning in left] == []


async def ask(transport: HttpsTransport, endpoint: Endpoint) -> None:
    async with transport.request(endpoint, Request(method="GET", path="/health")) as answer:
        assert b"".join([part async for part in answer])


@pytest.mark.parametrize("name", ["a..b", "x" * 64 + ".example.org"])
async def test_what_cannot_be_a_name_says_so(running: FakeCluster, name: str) -> None:
    transport = HttpsTransport(running.home.trust_anchor, frozenset())
    with pytest.raises(NotConnected, match="name"):
        await ask(transport, Endpoint(address=name))
    await transport.close()
