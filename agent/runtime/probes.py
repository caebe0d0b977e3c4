"""Asks a replica whether it is healthy: HTTP, TCP, or a command. Shell (sockets, processes).

Hand-written HTTP/1.1: one GET, of whose answer only the status line is read. Redirects count as answers (3xx is fine)
and are never followed: a replica must not send its host somewhere else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import ssl
from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

MAX_STATUS_LINE_BYTES = 4096  # the first line of an answer; a longer one isn't HTTP

_STATUS_LINE = re.compile(rb"HTTP/1\.[01] ([1-5][0-9]{2})(?: [^\r\n]*)?\r?\n")


class Answer(Struct, frozen=True):
    """`reason` says what was wrong, in a few words; empty when `ok`. `refused`: nothing listens at `where`."""

    ok: bool
    reason: str = ""
    where: str = ""
    refused: bool = False


WELL = Answer(True)


async def probe_tcp(address: str, port: int, *, timeout_s: float) -> Answer:
    """Healthy if the port accepts a connection."""
    return await _ask(address, port, None, None, timeout_s)


async def probe_http(address: str, port: int, *, scheme: str, path: str, timeout_s: float) -> Answer:
    """Healthy if a GET is answered 200 … 399 in time. Certificates aren't checked: this host asks itself."""
    host = f"[{address}]" if ":" in address else address
    request = (
        f"GET {path} HTTP/1.1\r\nHost: {host}:{port}\r\nUser-Agent: muster-probe\r\nAccept: */*\r\n"
        "Connection: close\r\n\r\n"
    )
    return await _ask(address, port, _lenient_tls() if scheme == "https" else None, request.encode(), timeout_s)


def _lenient_tls() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


async def _ask(address: str, port: int, tls: ssl.SSLContext | None, request: bytes | None, timeout_s: float) -> Answer:
    where = f"{address}:{port}"
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection(address, port, ssl=tls, limit=MAX_STATUS_LINE_BYTES)
            if request is None:
                return WELL
            writer.write(request)
            await writer.drain()
            line = await reader.readuntil(b"\n")
    except ConnectionRefusedError:
        return Answer(False, f"{where}: connection refused", where, refused=True)
    except TimeoutError:
        return Answer(False, f"no answer from {where} within {timeout_s:g} s")
    except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
        return Answer(False, f"{where}: {_short(error)}")
    finally:
        if writer is not None:
            writer.transport.abort()  # nothing more is wanted, and a peer that doesn't close mustn't hold us
    found = _STATUS_LINE.fullmatch(line)
    if found is None:
        return Answer(False, f"{where} doesn't speak HTTP")
    status = int(found[1])
    return WELL if 200 <= status < 400 else Answer(False, f"{where} answered {status}")


def _short(error: Exception) -> str:
    if isinstance(error, asyncio.IncompleteReadError | ConnectionResetError):
        return "connection closed without an answer"
    if isinstance(error, ssl.SSLError):
        return "TLS handshake failed"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "not an HTTP answer"


async def probe_command(
    test: tuple[str, ...], *, environment: Mapping[str, str], directory: Path, timeout_s: float
) -> Answer:
    """A plan's `health_check.test` for a plain process: `CMD` and arguments, or `CMD-SHELL` and one line for /bin/sh.

    Healthy if it ends with 0 in time. Its output is discarded; processes that it leaves running are killed with it.
    """
    command = ("/bin/sh", "-c", *test[1:2]) if test[0] == "CMD-SHELL" else test[1:]
    if not command:
        return Answer(False, "the health check has no command")
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            cwd=directory,
            env=dict(environment),
            start_new_session=True,
        )
    except OSError as error:
        return Answer(False, f"the health check can't be started: {error.strerror}")
    try:
        async with asyncio.timeout(timeout_s):
            code = await process.wait()
    except TimeoutError:
        return Answer(False, f"the health check took longer than {timeout_s:g} s")
    finally:
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            await process.wait()
    return WELL if code == 0 else Answer(False, f"the health check ended with code {code}")
