"""Sending contents: a plan's files before its instruction, image archives for the hosts' engines."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from io import BufferedReader
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct

from agent.client.endpoints import Endpoint
from agent.client.http import Request, TransportError
from agent.errors import MusterError, NotFound, TooMany, Unreachable
from agent.instruction import BlobUse, sign_blob
from agent.model.api import BlobView, ImageProgress
from agent.model.types import Digest, Label

if TYPE_CHECKING:
    from agent.client.client import Client

PART_BYTES = 1_048_576  # read from the disk at once
ASK_TIMEOUT_S = 15.0  # for a small answer
SILENCE_S = 60.0  # while it works an agent says something every 15 s
MEMBERS_TRIED = 3  # a member that goes away in the middle is rare, and so is the next one
BUSY_TRIES = 60  # BUSY_WAIT_S apart; other uploads end
BUSY_WAIT_S = 1.0
MAX_LINE_BYTES = 65_536  # a progress line has some hundred

Told = Callable[[int], None]


class _Content(Struct, frozen=True, kw_only=True):
    path: Path
    digest: Digest
    size: int
    use: BlobUse


async def send_files(client: Client, files: Mapping[Digest, Path]) -> None:
    """See Client.send_files."""
    sizes = await asyncio.to_thread(lambda: {digest: path.stat().st_size for digest, path in files.items()})
    contents = [_Content(path=files[digest], digest=digest, size=sizes[digest], use="file") for digest in files]
    await _send(client, contents, lambda _: None)


async def load_image(
    client: Client, archive: Path, digest: Digest, hosts: tuple[Label, ...], told: Told
) -> AsyncGenerator[ImageProgress, None]:
    """See Client.load_image."""
    size = (await asyncio.to_thread(archive.stat)).st_size
    content = _Content(path=archive, digest=digest, size=size, use="image")
    endpoint = await _send(client, [content], told)
    request = Request(
        method="POST",
        path=f"/api/v1/images/{digest}/load",
        headers=_authorization(client, content, hosts),
        silence_s=SILENCE_S,
    )
    rest = b""
    try:
        async with client.open(endpoint, request) as answer:
            if answer.status != 200:
                await client.refuse(endpoint, answer)
            async for part in answer:
                *lines, rest = (rest + part).split(b"\n")
                if len(rest) > MAX_LINE_BYTES:
                    raise MusterError(f"a line of more than {MAX_LINE_BYTES} bytes", where=str(endpoint))
                for line in filter(None, lines):
                    yield _progress(line, endpoint)
    except TransportError as error:
        client.lost(endpoint)
        fix = "Run the command again: what was sent is still there."
        raise Unreachable(str(error), where=str(endpoint), fix=fix) from None


async def _send(client: Client, contents: list[_Content], told: Told) -> Endpoint:
    """Send all of them to one member. Raises Unreachable, or the problem that it answers."""
    failed: dict[Endpoint, str] = {}
    while True:
        endpoint = await client.connect(failed)
        try:
            for content in contents:
                await _patiently(client, endpoint, content, told)
        except TransportError as error:
            failed[endpoint] = str(error)
            client.lost(endpoint)
            if len(failed) == MEMBERS_TRIED:
                raise Unreachable(str(error), where=str(endpoint)) from None
        else:
            return endpoint


async def _patiently(client: Client, endpoint: Endpoint, content: _Content, told: Told) -> None:
    """Send one to a member, and try again for a while if the member is busy."""
    for _ in range(BUSY_TRIES):
        with contextlib.suppress(TooMany):
            if not await _has(client, endpoint, content.digest):
                await _put(client, endpoint, content, told)
            return
        await asyncio.sleep(BUSY_WAIT_S)
    raise TooMany("it is busy with other uploads", where=str(endpoint), fix="Try again later, or use --via.")


async def _has(client: Client, endpoint: Endpoint, digest: Digest) -> bool:
    request = Request(method="GET", path=f"/api/v1/blobs/{digest}", headers=client.headers(), timeout_s=ASK_TIMEOUT_S)
    try:
        await client.call(endpoint, request, BlobView)
    except NotFound:
        return False
    return True


async def _put(client: Client, endpoint: Endpoint, content: _Content, told: Told) -> None:
    headers = {**_authorization(client, content), "Content-Length": str(content.size)}
    try:
        file = await asyncio.to_thread(content.path.open, "rb")
    except OSError as error:
        raise NotFound(f"can't be read: {(error.strerror or 'error').lower()}", where=str(content.path)) from None
    try:
        request = Request(
            method="PUT",
            path=f"/api/v1/blobs/{content.digest}",
            params={"use": content.use},
            headers=headers,
            body=_parts(file, told) if content.size else b"",
            silence_s=SILENCE_S,
        )
        await client.call(endpoint, request, BlobView)
    finally:
        # An early answer leaves the parts where they are, with the file open.
        await asyncio.to_thread(file.close)


async def _parts(file: BufferedReader, told: Told) -> AsyncGenerator[bytes, None]:
    sent = 0
    while data := await asyncio.to_thread(file.read, PART_BYTES):
        yield data
        told(sent := sent + len(data))


def _authorization(client: Client, content: _Content, hosts: tuple[Label, ...] = ()) -> dict[str, str]:
    """By the cluster's clock. Raises InputError without a home."""
    home, key = client.signer()
    token = sign_blob(
        key,
        operator_name=home.operator.name,
        cluster=home.cluster.id,
        epoch=home.cluster.epoch,
        use=content.use,
        digest=content.digest,
        size=content.size,
        now_s=client.now(),
        hosts=hosts,
    )
    return {"Authorization": f"Bearer {token}"}


def _progress(line: bytes, endpoint: Endpoint) -> ImageProgress:
    try:
        return msgspec.json.decode(line, type=ImageProgress)
    except msgspec.MsgspecError as error:
        raise MusterError(f"a line isn't understood: {error}", where=str(endpoint)) from None
