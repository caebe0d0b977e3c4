"""Metrics: read when asked for, in Prometheus's text format, in a registry of our own."""

from __future__ import annotations

from collections import Counter

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from agent.telemetry.metrics import Metrics

BOUNDS = ("0.0025", "0.005", "10.0", "+Inf")


def samples(metrics: Metrics) -> dict[str, float]:
    """`name{label}` → value, as a scraper reads them."""
    return {
        sample.name + (str(tuple(sample.labels.values())) if sample.labels else ""): sample.value
        for family in text_string_to_metric_families(metrics.exposition().decode())
        for sample in family.samples
    }


def test_counters_are_read_at_the_moment_of_asking() -> None:
    metrics, drops = Metrics(), Counter[str]()
    metrics.counter("datagram_drops", "Datagrams dropped", lambda: drops)
    assert not any(name.startswith("muster_datagram_drops") for name in samples(metrics))
    drops.update({"replay": 2, "length": 1})
    assert (
        samples(metrics).items()
        >= {
            "muster_datagram_drops_total('replay',)": 2.0,
            "muster_datagram_drops_total('length',)": 1.0,
        }.items()
    )


async def test_a_scraper_gets_them_all() -> None:
    metrics = Metrics()
    metrics.gauge("raft_term", "The current term", lambda: 3)
    assert await metrics.scrape() == metrics.exposition()


def test_a_gauge_is_one_number() -> None:
    metrics = Metrics()
    metrics.gauge("raft_term", "The term", lambda: 7)
    assert samples(metrics)["muster_raft_term"] == 7.0


def test_naming_a_metric_again_replaces_its_reader() -> None:
    metrics = Metrics()
    metrics.gauge("raft_term", "The term", lambda: 1)
    metrics.gauge("raft_term", "The term", lambda: 2)
    assert samples(metrics)["muster_raft_term"] == 2.0


def test_registering_reads_nothing() -> None:
    """The parts may not be there yet."""
    Metrics().gauge("raft_term", "The term", lambda: pytest.fail("read"))


def test_latencies_are_histograms() -> None:
    metrics = Metrics()
    for seconds in (0.003, 0.005, 20.0):
        metrics.request_seconds.observe("/api/v1/status", seconds)
    metrics.ledger_write_seconds.observe("", 0.0003)
    got = samples(metrics)
    assert got["muster_ledger_write_seconds_count"] == 1.0
    assert got["muster_api_request_seconds_count('/api/v1/status',)"] == 3.0
    assert got["muster_api_request_seconds_sum('/api/v1/status',)"] == pytest.approx(20.008)
    buckets = {bound: got[f"muster_api_request_seconds_bucket('/api/v1/status', '{bound}')"] for bound in BOUNDS}
    assert buckets == {"0.0025": 0, "0.005": 2, "10.0": 2, "+Inf": 3}


def test_the_process_wide_registry_stays_without_ours() -> None:
    Metrics().gauge("raft_term", "The term", lambda: 1)
    assert b"muster_" not in generate_latest(REGISTRY)


@pytest.mark.parametrize("name", ["", "Raft", "raft-term", "raft\nterm", "9"])
def test_a_name_that_isnt_one_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no metric"):
        Metrics().gauge(name, "x", lambda: 1)
