"""Waiting for a condition instead of for a while: the only place in the tests that polls."""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar, cast, overload

T = TypeVar("T")

TIMEOUT_S = 20.0  # generous: two busy cores stretch everything, and only a failure waits this long
INTERVAL_S = 0.01  # short against what a test may take, long against what a condition costs


def _failure(condition: Callable[[], object], timeout_s: float, last: object, what: str | None) -> AssertionError:
    if what is None:
        name = getattr(condition, "__qualname__", repr(condition))
        code = getattr(condition, "__code__", None)
        what = f"{name} ({code.co_filename}:{code.co_firstlineno})" if code else name
    return AssertionError(f"waited {timeout_s:g} s in vain for: {what}; it was last {last!r}")


@overload
async def wait_for(
    condition: Callable[[], Awaitable[T]],
    timeout_s: float = ...,
    *,
    what: str | None = ...,
    interval_s: float = ...,
) -> T: ...


@overload
async def wait_for(
    condition: Callable[[], T],
    timeout_s: float = ...,
    *,
    what: str | None = ...,
    interval_s: float = ...,
) -> T: ...


async def wait_for(
    condition: Callable[[], T | Awaitable[T]],
    timeout_s: float = TIMEOUT_S,
    *,
    what: str | None = None,
    interval_s: float = INTERVAL_S,
) -> T:
    """Poll ``condition``, a plain or a coroutine function, until it is true; return its value.

    It is asked once more after the time is up, and may be cut off when it hangs itself. Errors it raises are the
    caller's. Raises AssertionError naming ``what`` (else the function and its line) and the last value.
    """
    deadline = time.monotonic() + timeout_s
    last: object = "not answered"
    while True:
        late = time.monotonic() >= deadline
        answer = condition()
        if inspect.isawaitable(answer):
            try:
                async with asyncio.timeout(max(deadline - time.monotonic(), interval_s)) as limit:
                    answer = cast("T", await answer)
            except TimeoutError:
                if limit.expired():
                    raise _failure(condition, timeout_s, last, what) from None
                raise
        last = answer
        if answer:
            return answer
        if late:
            raise _failure(condition, timeout_s, last, what)
        await asyncio.sleep(interval_s)


def wait_for_sync(
    condition: Callable[[], T],
    timeout_s: float = TIMEOUT_S,
    *,
    what: str | None = None,
    interval_s: float = INTERVAL_S,
) -> T:
    """Do as ``wait_for`` does, for a plain function and outside an event loop."""
    deadline = time.monotonic() + timeout_s
    while True:
        late = time.monotonic() >= deadline
        answer = condition()
        if answer:
            return answer
        if late:
            raise _failure(condition, timeout_s, answer, what)
        time.sleep(interval_s)
