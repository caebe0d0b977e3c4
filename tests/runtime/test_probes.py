"""Probes against real sockets: what counts as well, and that nobody can hold or mislead the host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from agent.model.ledger import AssignedPort
from agent.runtime.probes import probe_command, probe_http, probe_tcp
from agent.runtime.sockets import local_address, taken_ports


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[int]:
    """A server that answers anything so; None: not at all."""
    waiting = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if answer is None:
            await waiting.wait()
        else:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        waiting.set()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", ""),
        (b"HTTP/1.0 204\r\n\r\n", ""),
        (b"HTTP/1.1 302 Found\r\nLocation: http://192.0.2.1/\r\n\r\n", ""),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", "answered 404"),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "answered 503"),
        (b"SSH-2.0-x\r\n", "doesn't speak HTTP"),
        (b"", "connection closed without an answer"),
        (b"x" * 10_000, "not an HTTP answer"),
    ],
)
async def test_an_http_answer_is_well_from_200_to_399(answer: bytes, reason: str) -> None:
    async with answering(answer) as port:
        said = await probe_http("127.0.0.1", port, scheme="http", path="/health", timeout_s=5)
    assert (said.ok, said.reason.removeprefix(f"127.0.0.1:{port}").lstrip(": ")) == (not reason, reason)


async def test_who_does_not_answer_in_time_is_not_well() -> None:
    async with answering(None) as port:
        said = await probe_http("127.0.0.1", port, scheme="http", path="/", timeout_s=0.1)
        assert "no answer" in said.reason
        assert (await probe_tcp("127.0.0.1", port, timeout_s=5)).ok


async def test_a_closed_port_is_refused() -> None:
    async with answering(b"") as port:
        pass
    assert (await probe_tcp("127.0.0.1", port, timeout_s=5)).reason == f"127.0.0.1:{port}: connection refused"


@pytest.mark.parametrize(
    ("test", "reason"),
    [
        (("CMD", "true"), ""),
        (("CMD-SHELL", "test $WELL = yes && pwd | grep -q tmp"), ""),
        (("CMD", "false"), "the health check ended with code 1"),
        (("CMD", "sleep", "60"), "the health check took longer than 0.3 s"),
        (("CMD", "no-such-program"), "the health check can't be started: No such file or directory"),
        (("CMD",), "the health check has no command"),
    ],
)
async def test_a_command_is_well_when_it_ends_with_0_in_time(test: tuple[str, ...], reason: str) -> None:
    environment = {"PATH": "/usr/bin:/bin", "WELL": "yes"}
    timeout_s = 0.3 if "sleep" in test else 10
    said = await probe_command(test, environment=environment, directory=Path("/tmp"), timeout_s=timeout_s)
    assert (said.ok, said.reason) == (not reason, reason)


async def test_only_what_listens_on_the_publish_address_takes_a_port() -> None:
    async with answering(b"") as port:
        wanted = (AssignedPort(container_port=80, host_port=port),)
        assert taken_ports("127.0.0.1", wanted) == (port,)
        assert taken_ports("0.0.0.0", wanted) == (port,)
        assert taken_ports("127.0.0.2", wanted) == ()
        assert taken_ports("127.0.0.1", (AssignedPort(container_port=80, host_port=port, protocol="udp"),)) == ()
    assert taken_ports("127.0.0.1", wanted) == ()


def test_what_is_published_everywhere_is_reached_on_loopback() -> None:
    assert [local_address(each) for each in ("0.0.0.0", "::", "127.0.0.2")] == ["127.0.0.1", "::1", "127.0.0.2"]
