"""Bringing an image archive into the engines of many hosts: `agent load`. Shell (asyncio).

The agent that an operator sent the archive to asks the hosts, and passes the operator's token on. Each host verifies
that token itself (signature, time, scope, its own name), fetches the archive from there, verifies its sha256, and only
then gives it to its engine. Nothing of it enters the ledger.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import Protocol

from agent import errors
from agent.instruction import BlobClaims, read_blob
from agent.model.api import ImageProgress
from agent.model.types import AgentId
from agent.node.driver.blobs import BlobService
from agent.node.messages import ImageLoad, LoadImage, Reply
from agent.state import audience_of
from agent.tasks import cancel_and_wait

TELL_INTERVAL_S = 0.5  # more often isn't read


class Loader(Protocol):
    """The part of agent.node.driver.hosting.Hosting that is used here."""

    @property
    def takes_images(self) -> bool: ...

    async def load_image(self, archive: Path) -> tuple[str, ...] | None: ...


class ImageService:
    """Both sides: `load` for this agent's API, `answer` for peers."""

    def __init__(self, blobs: BlobService, loader: Loader) -> None:
        self._blobs = blobs
        self._loader = loader

    async def load(self, token: str) -> AsyncGenerator[ImageProgress]:
        """Load the archive, which this agent has, into the engines of the hosts that the token names; yields each
        host's progress.

        Raises NotAuthenticated, NotAllowed, NotFound (upload it first) or Unprocessable (no such member).
        """
        claims = self._claims(token)
        hosts = self._hosts(claims)
        if await self._blobs.size(claims.digest) is None:
            raise errors.NotFound("this agent doesn't have the archive", where=claims.digest, fix="Send it again.")
        told: asyncio.Queue[ImageProgress | None] = asyncio.Queue()
        tasks = [asyncio.create_task(self._load_on(host, token, claims, told)) for host in hosts]
        failed = False
        try:
            under_way = len(tasks)
            while under_way:
                progress = await told.get()
                if progress is None:
                    under_way -= 1
                    continue
                failed = failed or progress.step == "failed"
                yield progress
        finally:
            await cancel_and_wait(*tasks)
        if not failed:  # else it stays for its grace, so that another try needn't send it again
            await self._drop(claims)

    async def answer(self, peer: AgentId, request: LoadImage) -> AsyncGenerator[Reply]:
        """A member has an archive for this host's engine."""
        claims = self._claims(request.token)
        async with aclosing(self._load_here(claims, [peer])) as parts:
            async for part in parts:
                yield part
        await self._drop(claims)

    async def _load_on(
        self, host: AgentId, token: str, claims: BlobClaims, told: asyncio.Queue[ImageProgress | None]
    ) -> None:
        driver = self._blobs.driver
        name = driver.core.context.name_of(host)
        try:
            if host == driver.core.context.id:
                async with aclosing(self._load_here(claims, [])) as parts:
                    async for part in parts:
                        told.put_nowait(_progress(name, claims, part))
            else:
                async with (
                    driver.visits.linked(host),
                    aclosing(driver.requests.call(host, LoadImage(token=token))) as replies,
                ):
                    async for reply in replies:
                        if isinstance(reply, ImageLoad):
                            told.put_nowait(_progress(name, claims, reply))
        except errors.MusterError as error:
            told.put_nowait(ImageProgress(host=name, step="failed", size=claims.size, what=error.what, fix=error.fix))
        except OSError as error:
            what = error.strerror or "input/output error"
            told.put_nowait(ImageProgress(host=name, step="failed", size=claims.size, what=what))
        finally:
            told.put_nowait(None)

    async def _load_here(self, claims: BlobClaims, sources: list[AgentId]) -> AsyncGenerator[ImageLoad]:
        own_name = self._blobs.driver.core.context.own_name
        if claims.hosts and own_name not in claims.hosts:
            raise errors.NotAllowed(f"the operator's token doesn't name {own_name}")
        if not self._loader.takes_images:
            if claims.hosts:
                raise errors.Unprocessable(f"{own_name} runs no Docker", fix="Leave it out.")
            yield ImageLoad(step="skipped")
            return
        done = 0

        def told(written: int) -> None:
            nonlocal done
            done = written

        fetching = asyncio.create_task(self._blobs.fetch(claims.digest, claims.size, told, sources))
        try:
            while not fetching.done():
                yield ImageLoad(step="fetching", done=done)
                await asyncio.wait({fetching}, timeout=TELL_INTERVAL_S)
            await fetching
        finally:
            await cancel_and_wait(fetching)
        yield ImageLoad(step="loading", done=claims.size)
        images = await self._loader.load_image(self._blobs.store.path(claims.digest))
        yield ImageLoad(step="loaded", done=claims.size, images=images or ())

    def _claims(self, token: str) -> BlobClaims:
        state = self._blobs.driver.state
        claims = read_blob(token, state.operators, audience_of(state), time.time())
        if claims.use != "image":
            raise errors.NotAllowed("the token is for a file, not for an image")
        return claims

    def _hosts(self, claims: BlobClaims) -> list[AgentId]:
        members = {member.name: member.id for member in self._blobs.driver.state.members.values()}
        if unknown := sorted(set(claims.hosts) - members.keys()):
            known = ", ".join(sorted(members))
            raise errors.Unprocessable(f"no member is called {', '.join(unknown)}", fix=f"Members: {known}.")
        return [members[name] for name in sorted(claims.hosts or members)]

    async def _drop(self, claims: BlobClaims) -> None:
        """The image is in the engine now; a plan's file with the same content stays."""
        if claims.digest not in self._blobs.named():
            with contextlib.suppress(OSError):  # then the grace ends it
                await asyncio.to_thread(self._blobs.store.remove, claims.digest)


def _progress(host: str, claims: BlobClaims, part: ImageLoad) -> ImageProgress:
    return ImageProgress(host=host, step=part.step, done=part.done, size=claims.size, images=part.images)
