"""What the demo says about the replicas once the agent that it killed is back."""

from __future__ import annotations

import pytest

from agent.control.failure import NEW_COORDINATOR_GRACE_S
from agent.errors import MusterError
from agent.model.status import ReplicaStatus
from bootstrap.demo import MISSED_AFTER_S, what_stayed


def replica(slot: int, host: str, process: str) -> ReplicaStatus:
    return ReplicaStatus(slot=slot, host=host, state="healthy", reason="", container_id=process, revision=1)


BEFORE = [replica(1, "n1", "11:1"), replica(2, "n2", "22:2")]


def test_for_long_is_what_a_coordinator_takes_for_long() -> None:
    assert MISSED_AFTER_S == NEW_COORDINATOR_GRACE_S  # bootstrap imports nothing of the daemon


def test_what_the_killed_agent_ran_is_found_again() -> None:
    assert "All 2 replicas" in what_stayed(BEFORE, [*BEFORE, replica(3, "n3", "33:3")], "n2", 60.0)


def test_a_host_that_was_away_for_long_has_lost_its_replica_to_another() -> None:
    moved = [BEFORE[0], replica(2, "n1", "44:4")]
    assert "n2 was away for 6 s" in what_stayed(BEFORE, moved, "n2", MISSED_AFTER_S + 1)
    with pytest.raises(MusterError, match="anew"):
        what_stayed(BEFORE, moved, "n2", MISSED_AFTER_S - 1)


def test_a_replica_of_a_host_that_was_never_away_may_not_be_started_anew() -> None:
    with pytest.raises(MusterError, match="anew"):
        what_stayed(BEFORE, [replica(1, "n1", "44:4"), BEFORE[1]], "n2", 60.0)
