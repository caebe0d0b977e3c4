"""Requests of a backup or restore to single hosts. Each carries an admin's token for just that request."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING

from agent.client.endpoints import Endpoint
from agent.client.http import Request, TransportError
from agent.errors import Unreachable
from agent.instruction import NO_BODY, sign_request
from agent.model.api import BlobView
from agent.model.types import Digest, Label

if TYPE_CHECKING:
    from agent.client.client import Client

SILENCE_S = 120.0  # a volume is put into its place before an answer comes


async def fetch(client: Client, host: Label, path: str) -> AsyncGenerator[bytes, None]:
    """The body that `GET path` at that host answers.

    Raises Unreachable when it is interrupted or the home doesn't know the host, or the problem that the host answers.
    """
    endpoint = _endpoint(client, host)
    request = Request(method="GET", path=path, headers=_token(client, endpoint, f"GET {path}"), silence_s=SILENCE_S)
    try:
        async with client.open(endpoint, request) as answer:
            if answer.status != 200:
                await client.refuse(endpoint, answer)
            async for data in answer:
                yield data
    except TransportError as error:
        raise Unreachable(str(error), where=str(endpoint), fix="Give the command again.") from None


async def put(
    client: Client, host: Label, path: str, *, digest: Digest, size: int, content: AsyncIterator[bytes]
) -> None:
    """`PUT path` at that host. Raises as `fetch`."""
    endpoint = _endpoint(client, host)
    token = _token(client, endpoint, f"PUT {path}", digest, size)
    headers = {**token, "Content-Length": str(size)}
    body = content if size else b""
    request = Request(method="PUT", path=path, headers=headers, body=body, silence_s=SILENCE_S)
    try:
        await client.call(endpoint, request, BlobView)
    except TransportError as error:
        raise Unreachable(str(error), where=str(endpoint), fix="Give the command again.") from None


def _endpoint(client: Client, host: Label) -> Endpoint:
    found = client.endpoint_of(host)
    if found is None or found.id is None:
        # Not NotFound, which a host answers that never had what it is asked for.
        raise Unreachable("the home doesn't know this host", where=host, fix="`agent members` refreshes what it knows.")
    return found


def _token(client: Client, endpoint: Endpoint, does: str, digest: Digest = NO_BODY, size: int = 0) -> dict[str, str]:
    home, key = client.signer()
    assert endpoint.id is not None
    token = sign_request(
        key,
        operator_name=home.operator.name,
        cluster=home.cluster.id,
        epoch=home.cluster.epoch,
        host=endpoint.id,
        does=does,
        now_s=client.now(),
        digest=digest,
        size=size,
    )
    return {"Authorization": f"Bearer {token}"}
