"""An answer of the Docker Engine that is read as it comes: events, a log, a pull's progress. Shell (threads).

docker-py's own `CancellableStream.close` shuts the connection down and leaves its descriptor to the garbage collector
unless somebody reads on to the end. Here ending the reading and freeing the connection are two calls.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

import requests
import urllib3.exceptions

T = TypeVar("T")


class StreamedAnswer(Generic[T]):
    """The `items` that one thread reads from `response`. That thread calls `close`; any thread may call `cancel`."""

    def __init__(self, items: Iterator[T], response: requests.Response) -> None:
        self._items = items
        self._response = response
        self._lock = threading.Lock()
        self._closed = False

    def __iter__(self) -> Iterator[T]:
        """Ends quietly where the connection does."""
        with contextlib.suppress(urllib3.exceptions.ProtocolError, OSError):
            yield from self._items

    def cancel(self) -> None:
        """End the iteration, also one that waits for the engine. The connection stays `close`'s to free."""
        with self._lock:  # `close` takes urllib3's `shutdown` away
            if not self._closed:
                # Read to its end already (RuntimeError, the connection serves others), or gone (OSError).
                with contextlib.suppress(RuntimeError, ValueError, OSError):
                    self._response.raw.shutdown()

    def close(self) -> None:
        """Free the connection; what wasn't read is lost."""
        with self._lock:
            self._closed = True
        self._response.raw.close()
        self._response.close()
