"""The engine's API: what it says is told, and a stream frees its connection however the reading ends."""

from __future__ import annotations

import asyncio
import gc
import json
import re
import tempfile
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from agent import errors
from agent.model.stack import Image
from agent.runtime.docker import AT_ONCE, DockerRuntime
from agent.runtime.engine import MAX_MESSAGE_BYTES, Engine, EngineRefused
from tests.support.leaks import snapshot
from tests.support.replicas import AGENT, CLUSTER
from tests.support.waiting import wait_for

VERSION = {"Version": "20.10.24", "ApiVersion": "1.41"}
CONTAINER = "c" * 64
BOTH_ENDS = 2  # of the one connection; they are this very process's
PATIENCE_S = 5.0  # for what takes milliseconds, on a busy machine
MANY = 2000  # more than any buffer takes


def log_frame(line: bytes) -> bytes:
    return b"\x01\0\0\0" + len(line).to_bytes(4, "big") + line


class Answer:
    """What the engine sends: its head, then chunks; `ends` with the last one, `breaks` off, or goes on for ever."""

    def __init__(self, *chunks: bytes, status: str = "200 OK", how: str = "ends") -> None:
        self.chunks, self.status, self.how = chunks, status, how


@asynccontextmanager
async def listening(**answers: Answer) -> AsyncIterator[str]:
    """The URL of an engine that answers by the last part of a path, and with its version to everything else."""
    asked: set[asyncio.StreamWriter] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.add(writer)
        try:
            while request := await reader.readuntil(b"\r\n\r\n"):
                name = request.split(b" ")[1].partition(b"?")[0].rpartition(b"/")[2].decode()
                found = answers.get(name, Answer(json.dumps(VERSION).encode()))
                writer.write(f"HTTP/1.1 {found.status}\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
                for chunk in found.chunks:
                    writer.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
                    await writer.drain()
                if found.how == "ends":
                    writer.write(b"0\r\n\r\n")
                if found.how == "breaks":
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    with tempfile.TemporaryDirectory(prefix="muster-engine-") as directory:  # a socket's path is short
        path = Path(directory) / "docker.sock"
        server = await asyncio.start_unix_server(answer, path)
        try:
            yield f"unix://{path}"
        finally:
            server.close()
            for writer in asked:
                writer.close()


@asynccontextmanager
async def engine_that(**answers: Answer) -> AsyncIterator[Engine]:
    """Connected to an engine that is `listening`."""
    async with listening(**answers) as url:
        engine = Engine(url)
        try:
            await engine.ping()
            yield engine
        finally:
            await engine.close()


def engine_with_streams(count: int) -> Any:
    """An engine whose events and logs give so many items and then wait for the client to go."""
    return engine_that(
        events=Answer(*(b'{"n": %d}\n' % n for n in range(count)), how="waits"),
        logs=Answer(*(log_frame(b"2026-01-01T00:00:00Z %d\n" % n) for n in range(count)), how="waits"),
    )


async def read_events(engine: Engine) -> AsyncGenerator[Any]:
    async with engine.events({}) as messages:
        async for message in messages:
            yield message


def read_logs(engine: Engine) -> AsyncGenerator[Any]:
    return engine.logs(CONTAINER, tail=None, since=None, follow=True)


@pytest.fixture
def _no_collector() -> Iterator[None]:
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("read", [read_events, read_logs])
@pytest.mark.parametrize(("taken", "count"), [(1, MANY), (5, 5)])
async def test_a_stream_that_is_left_frees_its_connection_at_once(
    read: Callable[[Engine], AsyncGenerator[Any]], taken: int, count: int
) -> None:
    """While more is there, and while it waits."""
    async with engine_with_streams(count) as engine:
        before = snapshot().sockets  # the kept connection too, which the stream takes
        async with aclosing(read(engine)) as items:
            assert len([await anext(items) for _ in range(taken)]) == taken
        await wait_for(lambda: len(snapshot().sockets) == len(before) - BOTH_ENDS)


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize("read", [read_events, read_logs])
async def test_a_reader_that_is_cancelled_while_it_waits_frees_its_connection(
    read: Callable[[Engine], AsyncGenerator[Any]],
) -> None:
    seen: list[Any] = []

    async def follow(engine: Engine) -> None:
        async with aclosing(read(engine)) as items:
            async for item in items:
                seen.append(item)

    async with engine_with_streams(3) as engine:
        before = snapshot().sockets  # the kept connection too, which the stream takes
        reading = asyncio.create_task(follow(engine))
        await wait_for(lambda: len(seen) == 3)
        reading.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reading
        await wait_for(lambda: len(snapshot().sockets) == len(before) - BOTH_ENDS)


async def test_a_log_ends_where_its_connection_does() -> None:
    whole, cut = log_frame(b"2026-01-01T00:00:00Z one\n"), log_frame(b"2026-01-01T00:00:00Z two\n")[:-3]
    async with engine_that(logs=Answer(whole, cut, how="breaks")) as engine:
        assert [line.line async for line in read_logs(engine)] == ["one"]


async def test_a_log_frame_that_is_none_is_refused() -> None:
    async with engine_that(logs=Answer(b"\x01\0\0\0\xff\xff\xff\xff")) as engine:
        with pytest.raises(errors.MusterError, match="isn't one"):
            await anext(read_logs(engine))


async def test_events_that_break_off_are_an_engine_that_is_away() -> None:
    async with engine_that(events=Answer(b'{"n": 0}\n', how="breaks")) as engine:
        with pytest.raises(errors.RuntimeUnavailable, match="listening to events"):
            assert [message async for message in read_events(engine)]


async def test_a_message_as_long_as_any_is_taken_and_a_longer_one_refused() -> None:
    longest = b'"%s"\n' % (b"x" * (MAX_MESSAGE_BYTES - 3))
    async with engine_that(events=Answer(longest, b" " + longest, how="waits")) as engine:
        messages = read_events(engine)
        assert len(await anext(messages)) == MAX_MESSAGE_BYTES - 3
        with pytest.raises(EngineRefused, match="isn't one"):
            await anext(messages)


@pytest.mark.parametrize("message", [b"{\n", b'"\xff"\n', b"x\n"])
async def test_a_message_that_is_none_is_refused(message: bytes) -> None:
    async with engine_that(events=Answer(message, how="waits")) as engine:
        with pytest.raises(EngineRefused, match="isn't one"):
            await anext(read_events(engine))


async def test_an_archive_that_cannot_be_read_is_not_the_engines_fault() -> None:
    async with engine_that(load=Answer(b'{"stream": "Loaded image: web:1"}\n')) as engine:
        with pytest.raises(OSError, match="Input/output error"):
            await engine.load(Path("/proc/self/mem"))  # the first page is nobody's


async def test_an_engine_that_names_its_version_with_every_answer_is_not_asked_for_it() -> None:
    named = Answer(b"OK", status="200 OK\r\nServer: Docker/20.10.24+dfsg1 (linux)")
    async with engine_that(_ping=named, version=Answer(status="500 No")) as engine:
        assert await engine.ping() == "20.10.24+dfsg1"


async def test_an_engine_that_does_not_is_asked_for_it() -> None:
    async with engine_that() as engine:
        assert await engine.ping() == VERSION["Version"]


async def test_after_its_close_an_engine_is_not_connected_to_again() -> None:
    async with engine_that() as engine:
        await engine.close()
        before = snapshot().sockets
        with pytest.raises(errors.RuntimeUnavailable, match="let go"):
            await engine.ping()
        assert snapshot().sockets == before


async def test_of_several_that_are_asked_one_failure_ends_the_others(tmp_path: Path) -> None:
    """They would hold up what is asked next."""
    slow = [f"{n:064x}" for n in range(AT_ONCE)]
    async with listening(stats=Answer(how="waits")) as url:
        runtime = DockerRuntime(
            cluster=CLUSTER, agent=AGENT, data_dir=tmp_path, publish_address="127.0.0.1", base_url=url
        )
        try:
            for ids in (["no id", *slow], ["no id"]):
                async with asyncio.timeout(PATIENCE_S):
                    with pytest.raises(errors.InvariantBroken):
                        await runtime.counters(ids)
        finally:
            await runtime.close()


async def test_a_pull_that_breaks_off_is_told_as_such() -> None:
    async with engine_that(create=Answer(b'{"status": "Pulling"}\n', how="breaks")) as engine:
        messages = engine.pull(Image(ref="web:1"))
        assert await anext(messages) == {"status": "Pulling"}
        with pytest.raises(EngineRefused, match="the pull broke off"):
            await anext(messages)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (b'{"message": "no space left"}', "no space left"),
        (b"<html>", "<html>"),
        (b"[1]", "[1]"),
        (b'"\xff"', '"'),
        (b"", "no reason"),
    ],
)
async def test_a_refusal_is_told_in_the_engines_words(said: bytes, told: str) -> None:
    async with engine_that(create=Answer(*[said] if said else [], status="500 Oops")) as engine:
        with pytest.raises(EngineRefused, match=f"^creating container x: {re.escape(told)}"):
            await engine.create("x", {})


async def test_where_the_engine_redirects_to_is_not_asked() -> None:
    async with engine_that(json=Answer(status="301 Moved\r\nLocation: /version")) as engine:
        with pytest.raises(EngineRefused):
            await engine.inspect(CONTAINER)


@pytest.mark.parametrize("answer", [Answer(b"{"), Answer(b'"\xff"'), Answer(b'{"a', how="breaks")])
async def test_an_answer_that_is_cut_or_none_is_an_engine_that_is_away(answer: Answer) -> None:
    async with engine_that(info=answer) as engine:
        with pytest.raises(errors.RuntimeUnavailable, match="asking how it is"):
            await engine.info()


async def test_only_full_ids_become_part_of_a_path() -> None:
    async with engine_that() as engine:
        for name in ("../volumes/x", "c" * 63, "web", ""):
            with pytest.raises(errors.InvariantBroken):
                await engine.remove(name)


async def test_a_url_that_nobody_can_ask_is_said() -> None:
    with pytest.raises(errors.RuntimeUnavailable, match="ssh://"):
        await Engine("ssh://somewhere").ping()
