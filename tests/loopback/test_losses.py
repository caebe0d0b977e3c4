"""Agents that die, in every number: what was accepted stays, what runs goes on, and people are told."""

from __future__ import annotations

import time

from tests.loopback.world import (
    EXAMPLE,
    coordinator_of,
    others,
    pids_below,
    replicas,
    request,
    wait_healthy,
    wait_status,
)
from tests.support.agents import Desk
from tests.support.waiting import wait_for_sync

EXIT_DEGRADED = 3


def revision(desk: Desk, through: str) -> int:
    return next(stack.revision for stack in desk.cluster.status(through).stacks if stack.name == "web")


def test_an_agent_that_was_killed_finds_what_it_ran_and_touches_nothing(web: Desk) -> None:
    before = pids_below(web.cluster.directory)
    assert len(before) >= 3
    web.cluster.kill("n2")
    victim = next(replica for replica in replicas(web.cluster.status("n1"), "web").values() if replica.host == "n2")
    assert request(web.cluster, victim) == f"hello from n2 slot {victim.slot}", "a dead agent takes nothing with it"
    web.cluster.start("n2")
    web.cluster.wait_ready()
    wait_healthy(web.cluster, "web", 3, through="n2")
    assert pids_below(web.cluster.directory) == before


def test_after_the_coordinators_death_the_next_instruction_is_taken_and_nothing_lost(web: Desk) -> None:
    lost = coordinator_of(web.cluster)
    left = others(web.cluster, lost)
    before = revision(web, left[0])
    web.cluster.kill(lost)
    began = time.monotonic()
    web.run("--via", left[0], "scale", "web", "web=3", "--detach")
    assert time.monotonic() - began < 20, "one election, not one timeout after another"
    assert coordinator_of(web.cluster, left[0]) != lost
    assert revision(web, left[1]) == before + 1
    web.cluster.start(lost)
    web.cluster.wait_ready()
    assert revision(web, lost) == before + 1


def test_without_a_majority_nothing_is_taken_but_everything_runs_on(web: Desk) -> None:
    placed = wait_healthy(web.cluster, "web", 3)
    for name in ("n2", "n3"):
        web.cluster.kill(name)
    wait_status(web.cluster, "n1", lambda status: status.stale or status.coordinator is None, "n1 is alone")
    refused = web.run("--via", "n1", "scale", "web", "web=4", "--detach", code=EXIT_DEGRADED)
    assert "no majority: n2, n3 unreachable" in refused.stderr + refused.stdout
    for slot, replica in placed.items():
        assert request(web.cluster, replica) == f"hello from {replica.host} slot {slot}"
    shown = web.run("--via", "n1", "status", code=EXIT_DEGRADED).stdout
    assert "n2" in shown
    web.cluster.up()
    web.cluster.wait_ready()
    assert {slot: r.container_id for slot, r in wait_healthy(web.cluster, "web", 3).items()} == {
        slot: r.container_id for slot, r in placed.items()
    }


def test_a_restart_of_all_agents_finds_everything_again(web: Desk) -> None:
    before, at = pids_below(web.cluster.directory), revision(web, "n1")
    for name in web.cluster.names:
        web.cluster.kill(name)
    web.cluster.up()
    web.cluster.wait_ready()
    wait_healthy(web.cluster, "web", 3)
    assert pids_below(web.cluster.directory) == before
    assert revision(web, "n3") == at


def test_a_clean_stop_hands_over_without_a_refused_instruction(web: Desk) -> None:
    leaving = coordinator_of(web.cluster)
    left = others(web.cluster, leaving)
    before = revision(web, left[0])
    web.cluster.stop(leaving)
    web.run("--via", left[0], "scale", "web", "web=3", "--detach")
    assert revision(web, left[1]) == before + 1
    wait_for_sync(lambda: coordinator_of(web.cluster, left[0]) in left)


def test_the_example_can_be_deployed_by_its_path_alone(web: Desk) -> None:
    assert EXAMPLE.exists()
    web.run("deploy", str(EXAMPLE))
