"""The API's bounds, and the rate limit by client address."""

from __future__ import annotations

from collections import OrderedDict

HANDSHAKE_TIMEOUT_S = 5.0  # a TLS handshake takes two round trips
KEEPALIVE_TIMEOUT_S = 15.0  # aiohttp's header timeout too: a client that is slower holds a connection for nothing
BODY_TIMEOUT_S = 15.0  # 1 MiB at 70 kB/s
UPLOAD_SILENCE_S = 30.0  # of an upload nothing may come for so long; the whole may take hours
UPLOAD_PART_BYTES = 1_048_576  # goes to the disk at once; a thread for every packet would cost more than the disk
WRITE_TIMEOUT_S = 30.0  # a client that doesn't read is cut
SHUTDOWN_TIMEOUT_S = 3.0  # requests under way may end; an instruction's client asks again elsewhere
MAX_CONNECTIONS = 512  # some 50 KiB of TLS buffers each: 25 MiB
MAX_CONNECTIONS_PER_ADDRESS = 64  # browsers open 6 a tab; one address can't keep all others out
MAX_LOCAL_CONNECTIONS = 64  # on the socket: a person's commands and a script or two; each holds a file descriptor
MAX_STREAMS = 128  # event and log streams at once: each costs a task and a queue
REQUESTS_PER_SECOND = 50.0  # by address: far above a person, a dashboard or a CLI
BURST_REQUESTS = 200  # a page that loads, a script that looks at every stack
MAX_ADDRESSES = 4096  # buckets kept; the one unused for longest goes first

STREAM_KEEPALIVE_S = 15.0  # below the idle timeouts of proxies (usually 60 s); also finds clients that are gone
KEPT_PAUSE_S = 0.2  # kept events come at once; after this silence they are all told


class RateLimit:
    """A token bucket by client address. Pure; `now` is seconds on a monotonic clock.

    Invariant: in any interval of t seconds an address gets at most `burst + t * per_second` requests.
    """

    def __init__(
        self,
        *,
        per_second: float = REQUESTS_PER_SECOND,
        burst: int = BURST_REQUESTS,
        max_addresses: int = MAX_ADDRESSES,
    ) -> None:
        self._per_second = per_second
        self._burst = burst
        self._max_addresses = max_addresses
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address → (tokens, at)

    def take(self, address: str, now: float) -> float:
        """0.0 when the request may go on, else the seconds after which one would."""
        tokens, at = self._buckets.pop(address, (float(self._burst), now))
        tokens = min(float(self._burst), tokens + max(0.0, now - at) * self._per_second)
        allowed = tokens >= 1.0
        self._buckets[address] = (tokens - 1.0 if allowed else tokens, now)
        if len(self._buckets) > self._max_addresses:
            self._buckets.popitem(last=False)
        return 0.0 if allowed else (1.0 - tokens) / self._per_second
