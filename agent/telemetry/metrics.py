"""Prometheus metrics: what the parts count anyway, read when somebody asks.

Nothing is pushed: every part keeps plain counters, and names a function that reads them.

    metrics = Metrics()
    metrics.counter("link_drops", "Frames and peers dropped on peer links, by reason", lambda: table.counts)
    metrics.gauge("raft_term", "The current term", lambda: raft.term)
    metrics.exposition()                       # for GET /metrics

Latencies are the exception: `request_seconds` and `ledger_write_seconds` are observed as they happen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX: Final = "muster_"
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

Reading = float | Mapping[str, float]
"""One value, or one per label value."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")

# From a local read (1 ms) to an instruction that waits for a new coordinator (10 s).
_REQUEST_BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

# An fsync: 0.2 ms on a good disk, seconds on a dying one.
_WRITE_BUCKETS_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0)


class _Read(Collector):
    """One family whose values are read at scrape time."""

    def __init__(self, family: type[CounterMetricFamily | GaugeMetricFamily], name: str, text: str, label: str) -> None:
        self._family = family
        self._name = name
        self._text = text
        self._label = label
        self.read: Callable[[], Reading] = dict

    def collect(self) -> Iterable[Metric]:
        reading = self.read()
        if not isinstance(reading, Mapping):
            yield self._family(self._name, self._text, value=float(reading))
            return
        family = self._family(self._name, self._text, labels=[self._label])
        for key, value in sorted(dict(reading).items()):
            family.add_metric([str(key)], float(value))
        yield family

    def describe(self) -> Iterable[Metric]:
        """Without reading: the parts may not be there yet."""
        return ()


class Metrics:
    """The agent's own registry; the process-wide default stays empty. All calls come from the event loop's thread."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry(auto_describe=False)
        self._readers: dict[str, _Read] = {}
        self.request_seconds = Histogram(
            PREFIX + "api_request_seconds",
            "Time to answer an API request, by route template",
            ["endpoint"],
            buckets=_REQUEST_BUCKETS_S,
            registry=self._registry,
        )
        self.ledger_write_seconds = Histogram(
            PREFIX + "ledger_write_seconds",
            "Time to bring a write to the ledger's disk",
            buckets=_WRITE_BUCKETS_S,
            registry=self._registry,
        )

    def counter(self, name: str, text: str, read: Callable[[], Reading], *, label: str = "reason") -> None:
        """Show what `read` gives as the counter `muster_<name>_total`; a mapping becomes one line per key.

        The same name again replaces the reader. Raises ValueError for a name that isn't one.
        """
        self._show(CounterMetricFamily, name, text, read, label)

    def gauge(self, name: str, text: str, read: Callable[[], Reading], *, label: str = "kind") -> None:
        """Show what `read` gives as the gauge `muster_<name>`; else as `counter`."""
        self._show(GaugeMetricFamily, name, text, read, label)

    def exposition(self) -> bytes:
        """All metrics in Prometheus's text format (`CONTENT_TYPE`)."""
        return generate_latest(self._registry)

    def _show(
        self,
        family: type[CounterMetricFamily | GaugeMetricFamily],
        name: str,
        text: str,
        read: Callable[[], Reading],
        label: str,
    ) -> None:
        if _NAME.fullmatch(name) is None or _NAME.fullmatch(label) is None:
            raise ValueError(f"{name!r} or {label!r} is no metric's name")
        if (reader := self._readers.get(name)) is None:
            reader = self._readers[name] = _Read(family, PREFIX + name, text, label)
            reader.read = read
            self._registry.register(reader)
        reader.read = read
