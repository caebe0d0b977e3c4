"""Accepting: whatever the kernel handed over is served or closed, also when the end comes in between."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter

from agent.net.acceptor import Acceptor, listen
from tests.support.waiting import wait_for


async def test_a_connection_that_came_just_before_the_end_is_closed() -> None:
    served: list[str] = []

    async def serve(connection: socket.socket, host: str) -> None:
        served.append(host)
        connection.close()

    acceptor = Acceptor(listen("127.0.0.1", 0), admit=lambda _: True, serve=serve, drops=Counter())
    client = socket.create_connection(("127.0.0.1", acceptor.port))
    client.setblocking(False)
    acceptor._accept()  # the reader callback has run, the connection's own task hasn't
    await acceptor.close()
    assert served == []
    assert await asyncio.wait_for(asyncio.get_running_loop().sock_recv(client, 1), 5) == b""
    client.close()


async def test_a_connection_without_room_is_closed_and_others_are_served() -> None:
    served: list[str] = []
    rooms = iter([False, True])

    async def serve(connection: socket.socket, host: str) -> None:
        served.append(host)
        connection.close()

    acceptor = Acceptor(listen("127.0.0.1", 0), admit=lambda _: next(rooms), serve=serve, drops=Counter())
    clients = [socket.create_connection(("127.0.0.1", acceptor.port)) for _ in range(2)]
    await wait_for(lambda: served == ["127.0.0.1"])
    await acceptor.close()
    await acceptor.close()
    for client in clients:
        client.close()
