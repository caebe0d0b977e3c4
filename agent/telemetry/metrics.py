"""Prometheus metrics: what the parts count anyway, read when somebody asks.

Nothing is pushed: every part keeps plain counters, and names a function that reads them.

    metrics = Metrics()
    metrics.counter("link_drops", "Frames and peers dropped on peer links, by reason", lambda: table.counts)
    metrics.gauge("raft_term", "The current term", lambda: raft.term)
    await metrics.scrape()                     # for GET /metrics

Prometheus's library is imported only then: it brings web servers along, and most agents are never asked.
"""

from __future__ import annotations

import asyncio
import importlib
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from math import inf
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from prometheus_client import Metric

PREFIX: Final = "muster_"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

_NAME = re.compile(r"[a-z][a-z0-9_]*")

# From a local read (1 ms) to an instruction that waits for a new coordinator (10 s).
_REQUEST_BOUNDS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# An fsync: 0.2 ms on a good disk, seconds on a dying one.
_WRITE_BOUNDS_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)


class Latencies:
    """How long something took: a histogram for each label value, or one without. Labels are ours, and few."""

    def __init__(self, name: str, text: str, label: str, bounds_s: tuple[float, ...]) -> None:
        self.name, self.text, self.label = name, text, label
        self.bounds_s = (*bounds_s, inf)
        self.counts: dict[str, list[int]] = {}
        self.sums_s: dict[str, float] = {}

    def observe(self, label: str, seconds: float) -> None:
        """It took so long."""
        self.counts.setdefault(label, [0] * len(self.bounds_s))[bisect_left(self.bounds_s, seconds)] += 1
        self.sums_s[label] = self.sums_s.get(label, 0.0) + seconds

    def family(self) -> Metric:
        """As Prometheus has it: each bucket counts those below it too."""
        from prometheus_client.core import HistogramMetricFamily

        family = HistogramMetricFamily(PREFIX + self.name, self.text, labels=[self.label] if self.label else [])
        for label, counts in sorted(self.counts.items()):
            bounds = ("+Inf" if bound == inf else str(bound) for bound in self.bounds_s)
            buckets = list(zip(bounds, accumulate(counts), strict=True))
            family.add_metric([label] if self.label else [], buckets, self.sums_s[label])
        return family


class Metrics:
    """The agent's own; the process-wide registry stays empty. All calls come from the event loop's thread."""

    def __init__(self) -> None:
        self._counters: dict[str, tuple[str, Callable[[], Mapping[str, int]]]] = {}
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        what = "Time to answer an API request, by route template"
        self.request_seconds = Latencies("api_request_seconds", what, "endpoint", _REQUEST_BOUNDS_S)
        what = "Time to bring a write to the ledger's disk"
        self.ledger_write_seconds = Latencies("ledger_write_seconds", what, "", _WRITE_BOUNDS_S)

    def counter(self, name: str, text: str, read: Callable[[], Mapping[str, int]]) -> None:
        """Show what `read` counts by reason as the counter `muster_<name>_total`.

        The same name again replaces the reader. Raises ValueError for a name that isn't one.
        """
        self._counters[_checked(name)] = text, read

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show what `read` gives as the gauge `muster_<name>`; else as `counter`."""
        self._gauges[_checked(name)] = text, read

    async def scrape(self) -> bytes:
        """`exposition`; the library is imported in a thread, since others wait for the event loop."""
        await asyncio.to_thread(importlib.import_module, "prometheus_client.core")
        return self.exposition()

    def exposition(self) -> bytes:
        """All metrics in Prometheus's text format (`CONTENT_TYPE`)."""
        from prometheus_client import CollectorRegistry, generate_latest

        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return generate_latest(registry)

    def collect(self) -> Iterable[Metric]:
        """As a collector of Prometheus's library."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        yield self.request_seconds.family()
        yield self.ledger_write_seconds.family()
        for name, (text, counts) in self._counters.items():
            counter = CounterMetricFamily(PREFIX + name, text, labels=["reason"])
            for reason, count in sorted(counts().items()):
                counter.add_metric([reason], count)
            yield counter
        for name, (text, value) in self._gauges.items():
            yield GaugeMetricFamily(PREFIX + name, text, value=value())


def _checked(name: str) -> str:
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"{name!r} is no metric's name")
    return name
