"""Getting an image: found on the host, else pulled, with progress and a clear reason when it can't be had. Shell."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Any

from agent import errors
from agent.model.stack import Image
from agent.runtime.engine import Engine

PROGRESS_INTERVAL_S = 0.5  # more often isn't read
_DONE = frozenset({"Pull complete", "Already exists", "Download complete"})


class _Layers:
    """How far each layer of a pull is."""

    def __init__(self) -> None:
        self._done: set[str] = set()
        self._bytes: dict[str, int] = {}

    def take(self, message: dict[str, Any]) -> None:
        layer, status = str(message.get("id", "")), str(message.get("status", ""))
        if not layer or status.startswith("Pulling from"):
            return
        self._bytes.setdefault(layer, 0)
        if status in _DONE:
            self._done.add(layer)
        current = (message.get("progressDetail") or {}).get("current")
        if status == "Downloading" and isinstance(current, int):
            self._bytes[layer] = current

    def __str__(self) -> str:
        return f"{len(self._done)} of {len(self._bytes)} layers, {sum(self._bytes.values()) // 1_000_000} MB"


async def ensure_image(engine: Engine, image: Image, progress: Callable[[str], None]) -> str:
    """The image's id. An image that is there isn't pulled again.

    Raises NotFound with the engine's message when it can't be had; RuntimeUnavailable when the engine is away.
    """
    found = await engine.image_id(image)
    if found is None:
        await _pull(engine, image, progress)
        found = await engine.image_id(image)
    if found is None:
        what = f"image {image.ref} isn't the one that the plan pins ({image.digest})"
        raise errors.NotFound(what, fix="Deploy with the digest of the image that you mean.")
    return found


async def _pull(engine: Engine, image: Image, progress: Callable[[str], None]) -> None:
    layers, told_at = _Layers(), 0.0
    progress(f"image {image.ref}")
    try:
        async with aclosing(engine.pull(image)) as messages:
            async for message in messages:
                if not isinstance(message, dict):
                    continue
                if error := message.get("error"):
                    raise errors.MusterError(str(error)[:300])
                layers.take(message)
                if time.monotonic() - told_at >= PROGRESS_INTERVAL_S:
                    told_at = time.monotonic()
                    progress(f"image {image.ref}: {layers}")
    except errors.RuntimeUnavailable:
        raise
    except errors.MusterError as error:
        raise _cannot(image, error.what, error.fix) from error


def _cannot(image: Image, why: str, fix: str = "") -> errors.NotFound:
    return errors.NotFound(
        f"image {image.ref} isn't on this host and can't be pulled: {why}",
        fix=fix or "Bring it there with `agent load`, or give a reference that this host can pull.",
    )
