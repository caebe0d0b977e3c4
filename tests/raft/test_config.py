"""Timing: presets that hold their own invariants."""

from __future__ import annotations

import pytest

from agent.raft import RaftLimits, RaftTiming
from agent.raft.messages import MAX_CHUNK_BYTES, MAX_ENTRIES_PER_APPEND


@pytest.mark.parametrize("timing", [RaftTiming.lan(), RaftTiming.wan(), RaftTiming.local()])
def test_two_lost_heartbeats_are_forgiven(timing: RaftTiming) -> None:
    assert timing.election_timeout_min_s > 3 * timing.heartbeat_s


def test_lan_is_what_the_design_says() -> None:
    timing = RaftTiming.lan()
    assert (timing.heartbeat_s, timing.election_timeout_min_s, timing.election_timeout_max_s) == (0.150, 0.500, 1.000)


@pytest.mark.parametrize(
    "fields",
    [
        {"heartbeat_s": 0.0},
        {"heartbeat_s": 0.25},
        {"election_timeout_min_s": 1.0},
        {"link_loss_delay_min_s": 0.2},
        {"link_loss_delay_max_s": 0.6},
        {"snapshot_retry_s": 0.0},
        {"snapshot_retry_max_s": 0.9},
        {"unbelieved_s": 0.0},
        {"first_election_delay_max_s": -1.0},
        {"slow_persist_s": 0.0},
    ],
)
def test_timing_that_cannot_work_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        RaftTiming(**fields)  # type: ignore[arg-type]  # each case is one field


def test_what_we_send_is_inside_what_we_take() -> None:
    limits = RaftLimits()
    assert limits.append_entries <= MAX_ENTRIES_PER_APPEND
    assert limits.chunk_bytes <= MAX_CHUNK_BYTES
