"""Durations, sizes and times as people write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import InputError
from agent.formats.durations import duration_text, parse_duration_ms, parse_memory_mib
from agent.formats.timestamps import parse_rfc3339_ms, rfc3339


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("30s", 30_000),
        ("1m30s", 90_000),
        ("500ms", 500),
        ("1h", 3_600_000),
        ("1.5s", 1500),
        ("0s", 0),
        ("1h2m3s4ms", 3_723_004),
    ],
)
def test_durations(text: str, ms: int) -> None:
    assert parse_duration_ms(text) == ms


@pytest.mark.parametrize(
    "text", ["", "30", "s", "-1s", "1 s", "1d", "1e3s", "30s\n", "٣s", "1s" * 40, "9999999999s", "1.s", "inf", "1us"]
)
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_duration_ms(text, where="$.interval")
    assert caught.value.where == "$.interval"


@pytest.mark.parametrize(
    ("ms", "text"), [(150, "150ms"), (45, "45ms"), (90_000, "1m30s"), (0, "0s"), (3_600_001, "1h1ms")]
)
def test_durations_are_printed_short(ms: int, text: str) -> None:
    assert duration_text(ms) == text


@given(st.integers(0, 10**12))
def test_a_printed_duration_reads_back(ms: int) -> None:
    assert parse_duration_ms(duration_text(ms)) == ms


@pytest.mark.parametrize(
    ("text", "mib"),
    [
        ("512m", 512),
        ("512M", 512),
        ("2g", 2048),
        ("512MiB", 512),
        ("512mb", 512),
        ("1.5g", 1536),
        ("1", 1),
        ("1048577", 2),
    ],
)
def test_sizes(text: str, mib: int) -> None:
    assert parse_memory_mib(text) == mib


@pytest.mark.parametrize("text", ["", "m", "-1m", "1x", "512m\n", "1e9", "٣m", "9" * 40, "1  m"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_memory_mib(text)


def test_times_are_rfc_3339_in_utc() -> None:
    assert rfc3339(1_705_314_600_000) == "2024-01-15T10:30:00Z"
    assert rfc3339(1_705_314_615_123) == "2024-01-15T10:30:15.123Z"


@given(st.integers(0, 253_402_300_799_999))
def test_a_printed_time_reads_back(ms: int) -> None:
    assert parse_rfc3339_ms(rfc3339(ms)) == ms


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2024-01-15",
        "2024-01-15T10:30:00",
        "2024-13-15T10:30:00Z",
        "2024-01-15T10:30:60Z",
        "2024-01-15T10:30:00Z\n",
        "2024-01-15 10:30:00Z",
        "2024-01-15T10:30:00+00:00",
        "0000-01-01T00:00:00Z",
        "٢٠٢٤-01-15T10:30:00Z",
    ],
)
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        parse_rfc3339_ms(text)
