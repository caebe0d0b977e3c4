"""Events as the client reads them, from a member that writes what a test says."""

from __future__ import annotations

import asyncio
from asyncio import StreamReader, StreamWriter
from contextlib import aclosing
from pathlib import Path

import msgspec
import pytest

from agent.client import socket_client, streams
from agent.model.status import Health
from tests.support.fake_node import event

HEALTH = Health(ok=True, name="n1", coordinator="n1", applied=1, agent_version="1")


def answer(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)


@pytest.mark.parametrize(
    ("id_", "asked_for"),
    [("agent:7", "agent:7"), ("é", None), ("a\rX-Other: b", None), ("\0", None), ("x" * 5_000, None)],
    ids=["ours", "not ASCII", "a header more", "NUL", "endless"],
)
async def test_an_id_that_no_header_can_have_is_not_sent_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, id_: str, asked_for: str | None
) -> None:
    monkeypatch.setattr(streams, "RETRY_S", 0.0)
    heads: list[bytes] = []

    async def serve(reader: StreamReader, writer: StreamWriter) -> None:
        while head := (await reader.readuntil(b"\r\n\r\n")):
            if b" /health " in head:
                writer.write(answer(msgspec.json.encode(HEALTH)))
                continue
            heads.append(head)
            told = msgspec.json.encode(event(len(heads), "it happened")).decode()
            writer.write(answer(f"id: {id_}\ndata: {told}\n\n".encode()))
            break
        writer.close()

    path = tmp_path / "agent.sock"
    server = await asyncio.start_unix_server(serve, path)
    async with socket_client(path) as client, aclosing(client.events(follow=True)) as events:
        assert [(await anext(events)).what for _ in range(2)] == ["it happened"] * 2
    server.close()
    await server.wait_closed()
    sent = [line for line in heads[1].split(b"\r\n") if line.lower().startswith(b"last-event-id")]
    assert sent == ([] if asked_for is None else [b"Last-Event-ID: " + asked_for.encode()])
