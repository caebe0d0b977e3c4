"""Events and logs as they come, across members: when one is lost, the next continues where it stopped."""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, TypeVar

import msgspec

from agent.client.http import HungUp, Request, TransportError
from agent.errors import MusterError, Unreachable
from agent.model.doctor import HostAnswer
from agent.model.events import Event, LogLine

if TYPE_CHECKING:
    from agent.client.client import Client

T = TypeVar("T")

SILENCE_S = 45.0  # three of the agent's keepalives
RECONNECT_S = 30.0  # an election and a restart take less
RETRY_S = 0.5  # between two tries
MAX_LINE_BYTES = 1_048_576  # an examination with its log; a log line of 16,384 characters in JSON has 100 KB

_ID = re.compile(r" ?[!-~]{1,128}")  # agents' have at most 50; it is sent back in a header

_Replica = tuple[str, int, str]


class _Reconnects:
    """Bounds how long a stream keeps trying to reconnect in vain. A stream that never began fails at once."""

    def __init__(self, opened: Callable[[], None] | None = None) -> None:
        self._opened = opened
        self._began = False
        self._since: float | None = None

    def opened(self) -> None:
        """A member's stream has begun."""
        if self._opened is not None:
            self._opened()

    def came(self) -> None:
        """Something came."""
        self._began, self._since = True, None

    async def wait(self, error: Exception) -> None:
        """Before the next try. Raises Unreachable when there won't be one."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        over = now - self._since >= RECONNECT_S
        if isinstance(error, Unreachable) and (over or not self._began):
            raise error
        if over:
            raise Unreachable(f"the stream broke off: {error}") from None
        await asyncio.sleep(RETRY_S)


async def events(
    client: Client, *, follow: bool, recent: bool, opened: Callable[[], None] | None
) -> AsyncGenerator[Event, None]:
    """See Client.events."""
    params = {"follow": _boolean(follow), "recent": _boolean(recent)}
    reconnects = _Reconnects(opened)
    last_id = ""
    while True:
        headers = {"Last-Event-ID": last_id} if last_id else {}
        try:
            async with aclosing(_server_sent(client, params, headers, reconnects)) as items:
                async for number, event in items:
                    last_id = number
                    yield event
            if not follow:
                return
        except (TransportError, Unreachable) as error:
            await reconnects.wait(error)
        else:
            await reconnects.wait(HungUp())


async def logs(client: Client, path: str, params: Mapping[str, str]) -> AsyncGenerator[LogLine, None]:
    """See Client.logs. After a loss, lines are asked for since the last ones; those that come twice are left out."""
    reconnects = _Reconnects()
    last: dict[_Replica, str] = {}
    while True:
        before = dict(last)
        try:
            async with aclosing(_lines(client, path, _resumed(params, before), {}, reconnects)) as lines:
                async for text in lines:
                    if not text:
                        continue
                    line = _decoded(text, LogLine)
                    replica = (line.service, line.slot, line.host)
                    if line.at and line.at <= before.get(replica, ""):
                        continue
                    last[replica] = max(line.at, last.get(replica, ""))
                    yield line
            return
        except (TransportError, Unreachable) as error:
            await reconnects.wait(error)


async def doctor(client: Client, hosts: Sequence[str], *, log: bool) -> AsyncGenerator[HostAnswer, None]:
    """See Client.doctor. Nothing is retried: a person waits, and a partial answer is useful too."""
    params = {"log": _boolean(log)} | ({"hosts": ",".join(hosts)} if hosts else {})
    try:
        async with aclosing(_lines(client, "/api/v1/doctor", params, {}, _Reconnects())) as lines:
            async for text in lines:
                if text:
                    yield _decoded(text, HostAnswer)
    except TransportError as error:
        raise Unreachable(f"the member that was asked went away: {error}", fix="Ask again.") from None


def _resumed(params: Mapping[str, str], last: Mapping[_Replica, str]) -> dict[str, str]:
    """Lines of plain processes have no times: where there are only these, continue with what comes from now on."""
    if not last:
        return dict(params)
    times = [at for at in last.values() if at]
    behind = {"since": min(times)} if times else {"tail": "0"}
    return {name: value for name, value in params.items() if name != "tail"} | behind


async def _server_sent(
    client: Client, params: Mapping[str, str], headers: Mapping[str, str], reconnects: _Reconnects
) -> AsyncGenerator[tuple[str, Event], None]:
    """(id, event), as WHATWG HTML §9.2.6 reads them; ours have one line of data each."""
    number, data = "", ""
    async with aclosing(_lines(client, "/api/v1/events", params, headers, reconnects)) as lines:
        async for text in lines:
            name, _, value = text.decode("utf-8", "replace").partition(":")
            if name == "id":
                number = value.removeprefix(" ") if _ID.fullmatch(value) else ""
            elif name == "data":
                data = value.removeprefix(" ")
            elif not text and data:
                event = _decoded(data.encode(), Event)
                data = ""
                yield number, event


async def _lines(
    client: Client, path: str, params: Mapping[str, str], headers: Mapping[str, str], reconnects: _Reconnects
) -> AsyncGenerator[bytes, None]:
    """The lines of one member's answer, without their ends."""
    endpoint = await client.connect()
    request = Request(
        method="GET", path=path, params=params, headers={**client.headers(), **headers}, silence_s=SILENCE_S
    )
    rest = b""
    try:
        async with client.open(endpoint, request) as answer:
            if answer.status != 200:
                await client.refuse(endpoint, answer)
            reconnects.opened()
            async for part in answer:
                reconnects.came()
                *whole, rest = (rest + part).split(b"\n")
                if len(rest) > MAX_LINE_BYTES:
                    raise MusterError(f"a line of more than {MAX_LINE_BYTES} bytes", where=str(endpoint))
                for line in whole:
                    yield line
    except TransportError:
        client.lost(endpoint)
        raise


def _decoded(data: bytes, type_: type[T]) -> T:
    try:
        return msgspec.json.decode(data, type=type_)
    except msgspec.MsgspecError as error:
        raise MusterError(f"a line isn't understood: {error}") from None


def _boolean(value: bool) -> str:
    return "true" if value else "false"
