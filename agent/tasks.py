"""Asyncio tasks: ending them, and noticing that one failed that must not."""

from __future__ import annotations

import asyncio
from typing import Any


async def cancel_and_wait(*tasks: asyncio.Future[Any] | None) -> None:
    """Cancel these, and wait until all have ended, however they end."""
    given = [task for task in tasks if task is not None]
    for task in given:
        task.cancel()
    await asyncio.gather(*given, return_exceptions=True)


def must_not_fail(task: asyncio.Task[None]) -> None:
    """A done-callback: an error is a bug, for the event loop's exception handler, which ends the process."""
    if not task.cancelled() and (error := task.exception()) is not None:
        task.get_loop().call_exception_handler({"message": f"{task.get_name()} failed", "exception": error})
