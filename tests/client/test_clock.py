"""The cluster's clock by the `Date` of its answers."""

from __future__ import annotations

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.client.clock import ClusterClock

AT_S = 1_795_000_000.0


@given(st.integers(min_value=86_400, max_value=253_000_000_000))
def test_a_date_as_agents_send_it_is_taken_to_the_second(at_s: int) -> None:
    clock = ClusterClock()
    clock.heard(format_datetime(datetime.fromtimestamp(at_s, UTC), usegmt=True), 0.0)
    assert clock.now(0.0) == at_s + 0.5


@pytest.mark.parametrize(
    "date",
    [
        None,
        "",
        "soon",
        "Thu, 31 Nov 2026 05:25:54 GMT",
        "Sun, 29 Nov 0000 05:25:54 GMT",
        "Sun, 29 Nov 2026 25:25:54 GMT",
        "Sun, 29 Nov 2026 05:25:54 +0100",
        "Sun, 29 Nov 2026 05:25:54 GMT\n",
        "Sun, ٢٩ Nov 2026 05:25:54 GMT",
        "2026-11-29T05:25:54Z",
    ],
)
def test_what_is_no_date_says_nothing(date: str | None) -> None:
    clock = ClusterClock()
    clock.heard(date, AT_S)
    assert clock.now(AT_S) == AT_S


def test_a_clock_within_the_resolution_is_right() -> None:
    clock = ClusterClock()
    clock.heard("Sun, 29 Nov 2026 05:25:54 GMT", datetime(2026, 11, 29, 5, 25, 55, tzinfo=UTC).timestamp())
    assert clock.offset_s == 0.0
    assert not clock.wrong
