"""What is reported of a replica, from what is wanted, seen and remembered: the module's table, walked."""

from __future__ import annotations

from typing import Any

import pytest

from agent.host import Doing, ReconcileMemory, Refused, reconcile, replica_states
from agent.host.life import TRIES_BEFORE_FAILED, start_failed, started, with_log
from agent.model.report import ObservedReplica
from agent.model.spec import ReplicaSpec
from agent.model.workload import Workload
from tests.support.replicas import key, spec, wanted, workload

LONG = 100.0  # seconds, more than any settling


def report(of: ReplicaSpec, *seen: Workload, at: float = LONG, doing: Doing | None = None) -> ObservedReplica:
    """The report at `at`, of a host that planned at 0 and now."""
    memory = ReconcileMemory(looked=True)
    for now in (0.0, at):
        _, memory = reconcile(wanted(of), seen, memory, now)
    (found,) = replica_states(wanted(of), seen, memory, {key(): doing} if doing else {}, at)
    return found


@pytest.mark.parametrize(
    ("changes", "at", "state"),
    [
        ({}, 0.5, "starting"),
        ({}, LONG, "healthy"),
        ({"health": "starting"}, LONG, "starting"),
        ({"health": "healthy"}, 0.0, "healthy"),
        ({"health": "unhealthy"}, LONG, "unhealthy"),
        ({"state": "restarting"}, LONG, "backoff"),
        ({"state": "created"}, LONG, "starting"),
        ({"state": "exited", "exit_code": 1}, LONG, "backoff"),
    ],
)
def test_what_runs_as_wanted(changes: dict[str, Any], at: float, state: str) -> None:
    assert report(spec(), workload(spec(), **changes), at=at).state == state


@pytest.mark.parametrize(("code", "state"), [(0, "stopped"), (1, "failed"), (None, "failed")])
def test_what_ended_and_is_left_by_its_restart_policy(code: int | None, state: str) -> None:
    once = spec(restart_policy="no")
    assert report(once, workload(once, state="exited", exit_code=code)).state == state


def test_nothing_yet_is_pending_and_actions_show() -> None:
    assert report(spec()).state == "pending"
    assert report(spec(), doing=Doing(state="pulling", detail="3 of 7 layers")).reason == "3 of 7 layers"


def test_the_predecessor_is_reported_as_its_own_revision_until_it_is_replaced() -> None:
    new = spec(command=("new",), revision=2)
    found = report(new, workload(spec()))
    assert (found.state, found.revision, found.spec_hash) == ("stopping", 1, spec().hash)


def test_another_revision_of_what_runs_is_reported_as_that_revision() -> None:
    found = report(spec(revision=2), workload(spec()))
    assert (found.state, found.revision) == ("healthy", 2)


def given_up(of: ReplicaSpec) -> ReconcileMemory:
    _, memory = reconcile(wanted(of), [], ReconcileMemory(looked=True), 0.0)
    for _ in range(TRIES_BEFORE_FAILED):
        memory = start_failed(memory, key(), "no such file", 0.0)
    return memory


def test_failed_stays_failed_through_slow_tries_until_it_is_healthy() -> None:
    memory = given_up(spec())
    (waiting,) = replica_states(wanted(spec()), [], memory, {}, 1.0)
    assert (waiting.state, waiting.reason) == ("failed", "no such file")
    (trying,) = replica_states(wanted(spec()), [], memory, {key(): Doing(state="starting")}, 1.0)
    assert trying.state == "failed"
    memory = started(memory, key())
    _, memory = reconcile(wanted(spec()), [workload(spec())], memory, 2.0)
    assert replica_states(wanted(spec()), [workload(spec())], memory, {}, 2.0)[0].state == "failed"
    _, memory = reconcile(wanted(spec()), [workload(spec())], memory, LONG)
    assert replica_states(wanted(spec()), [workload(spec())], memory, {}, LONG)[0].state == "healthy"


def test_after_failures_it_has_to_run_longer_before_it_counts_as_healthy() -> None:
    memory = ReconcileMemory(looked=True)
    for run in (1, 2):
        _, memory = reconcile(
            wanted(spec()), [workload(spec(), state="exited", exit_code=1, started_at=run)], memory, 0.0
        )
    running = workload(spec(), started_at=3)
    _, memory = reconcile(wanted(spec()), [running], memory, 0.0)
    states = [replica_states(wanted(spec()), [running], memory, {}, now)[0].state for now in (1.0, 3.9, 4.0)]
    assert states == ["starting", "starting", "healthy"]


def test_failures_of_the_predecessor_are_not_reported_of_a_new_revision() -> None:
    memory = given_up(spec())
    for new in (spec(revision=2), spec(command=("new",), revision=2)):
        _, after = reconcile(wanted(new), [], memory, 1.0, busy=frozenset({key()}))
        assert replica_states(wanted(new), [], after, {}, 1.0)[0].state == "pending"


def test_last_words_follow_the_reason_and_are_bounded() -> None:
    memory = with_log(given_up(spec()), key(), ("x" * 999, *map(str, range(9))))
    (found,) = replica_states(wanted(spec()), [], memory, {}, 1.0)
    assert found.reason == "no such file | 4 | 5 | 6 | 7 | 8"


def test_stopped_refused_and_leaving_replicas() -> None:
    stopped, refused = spec("stopped"), Refused(key=key("refused"), revision=7, reason="the policy says no")
    leaving = workload(spec("leaving"))
    desired = wanted(stopped=(stopped,), refused=(refused,))
    found = replica_states(desired, [leaving], ReconcileMemory(), {}, 0.0)
    assert [(each.service, each.state) for each in found] == [
        ("leaving", "stopping"),
        ("refused", "failed"),
        ("stopped", "stopped"),
    ]
    (halting,) = replica_states(wanted(stopped=(stopped,)), [workload(stopped)], ReconcileMemory(), {}, 0.0)
    assert halting.state == "stopping"


def test_what_is_kept_for_its_successor_is_told_as_it_runs() -> None:
    kept = wanted(kept=frozenset({key()}))
    for health, state in (("none", "healthy"), ("healthy", "healthy"), ("unhealthy", "unhealthy")):
        (found,) = replica_states(kept, [workload(spec(), health=health)], ReconcileMemory(), {}, 0.0)
        assert (found.state, found.reason) == (state, "runs until its successor is healthy")
    assert replica_states(kept, [], ReconcileMemory(), {}, 0.0) == ()
