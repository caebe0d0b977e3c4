"""Everything is looked at before anything changes (docs/seed.md "Phase 1: preparation")."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.control import schedule
from agent.control.preparation import ANSWER_DEADLINE_MS, PLACE_DEADLINE_MS, preparations
from agent.control.progress import PULL_DEADLINE_MS
from agent.model.errand import MAX_SLOTS, Prepare
from agent.model.ledger import AssignEntry, Assignment, PhaseEntry
from agent.model.report import RuntimeInfo
from agent.model.spec import ReplicaKey
from agent.model.stack import InstructionRef, PortSpec, Resources, Service
from tests.control.world import World, all_well, report
from tests.support.ledger import Ledger, service, stack

PORT = PortSpec(host_port=8443, container_port=80)
NOT_THERE = "image web:2 isn't on this host and can't be pulled (Bring it there with `agent load`.)"


def world(*names: str, **services: Service) -> World:
    made = World(Ledger(*names))
    made.ledger.deploy(stack(**services))
    return made


def running(**services: Service) -> World:
    made = world("n1", "n2", **services)
    made.settle()
    assert made.phase() == "healthy"
    made.history.clear()
    return made


def prepared_services(made: World) -> set[tuple[str, str]]:
    """(host, service) of what is being prepared."""
    return {
        (made.state.members[host].name, errand.service)
        for host, errands in made.errands.items()
        for errand in errands
        if isinstance(errand, Prepare)
    }


def test_nothing_is_assigned_before_every_host_is_ready() -> None:
    made = world("n1", "n2", web=service(replicas=2), job=service(role="worker", host="n2"))
    made.pulling.add(("n2", "job"))
    made.settle()
    assert made.phase() == "preparing"
    assert not made.state.assignments
    assert prepared_services(made) == {("n1", "web"), ("n2", "web"), ("n2", "job")}
    made.pulling.clear()
    made.settle()
    assert made.phase() == "healthy"


def test_a_failed_preparation_leaves_what_runs_untouched() -> None:
    made = running(web=service(replicas=2), db=service())
    before = made.state.assignments
    made.unfit["n1", "web"] = NOT_THERE
    made.ledger.deploy(stack(web=service(replicas=2, command=("two",)), db=service()))
    made.settle()
    assert made.phase() == "failed"
    assert made.state.stacks["shop"].reason == f"preparation: web on n1: {NOT_THERE}; nothing was changed"
    assert made.state.assignments == before
    assert not [entry for entry in made.history if isinstance(entry, AssignEntry)]
    assert made.state.stacks["shop"].deployed.revision == 1


def test_replicas_more_that_a_host_cannot_run_are_started_where_others_can_and_that_is_told() -> None:
    made = running(web=service())
    (first,) = made.hosts_of("web").values()
    (other,) = {"n1", "n2"} - {first}
    made.unfit[other, "web"] = NOT_THERE
    made.ledger.scale(web=2)
    made.settle()
    assert set(made.hosts_of("web").values()) == {"n1", "n2"}
    failures = [entry.reason for entry in made.history if isinstance(entry, PhaseEntry) and entry.phase == "failed"]
    reason = f"preparation: web on {other}: {NOT_THERE}; what is missing is started all the same, where that works"
    assert failures == [reason]


def test_a_first_deploy_that_cannot_be_prepared_starts_nothing() -> None:
    made = world("n1", web=service())
    made.unfit["n1", "web"] = NOT_THERE
    made.settle()
    made.later(3600)
    made.settle()
    assert made.phase() == "failed"
    assert not made.state.assignments


def test_only_what_will_start_is_prepared() -> None:
    made = running(web=service(), db=service())
    made.ledger.deploy(stack(web=service(command=("two",)), db=service()))
    made.decide()
    prepared = [errand for errands in made.errands.values() for errand in errands if isinstance(errand, Prepare)]
    assert {errand.service for errand in prepared} == {"web"}


@pytest.mark.parametrize("act", ["stop", "scale down"])
def test_what_starts_nothing_needs_no_preparation(act: str) -> None:
    made = running(web=service(replicas=2))
    made.mute = {"n1", "n2"}
    made.ledger.stop() if act == "stop" else made.ledger.scale(web=1)
    made.settle()
    assert made.phase() == ("stopped" if act == "stop" else "healthy")


def test_a_port_that_is_taken_is_replaced_before_anything_starts() -> None:
    made = world("n1", web=service(ports=(PORT,)))
    made.taken |= {("n1", 8443), ("n1", 8444)}
    made.settle()
    assert made.phase() == "healthy"
    (only,) = made.state.assignments.values()
    assert only.ports[0].host_port == 8445
    assert len(made.batches()) == 1


def test_no_port_left_fails_without_a_start() -> None:
    made = world("n1", web=service(ports=(PORT,)))
    made.taken |= {("n1", port) for port in range(8443, 8543)}
    made.settle()
    made.later(PLACE_DEADLINE_MS / 1000)
    made.settle()
    assert made.phase() == "failed"
    assert "n1: no free port in 8443…8542/tcp" in made.state.stacks["shop"].reason


def test_a_dead_host_that_is_pinned_to_fails_it_after_a_restarts_time() -> None:
    made = world("n1", "n2", web=service(host="n2"), db=service(host="n1"))
    made.dead["n2"] = "dead"
    made.settle()
    assert made.phase() == "preparing"
    made.later(PLACE_DEADLINE_MS / 1000)
    made.settle()
    assert made.phase() == "failed"
    assert "web.1 has no host: pinned to n2 (dead)" in made.state.stacks["shop"].reason
    assert not made.state.assignments


HUGE = Resources(memory_mib=1_000_000)


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (service(labels={"zone": "c"}), "n1: label zone=c wanted, none there; n2: label zone=c wanted, none there"),
        (service(resources=HUGE), "n1: 1000000 MiB wanted, 8192 MiB free; n2: 1000000 MiB wanted, 8192 MiB free"),
        (service(host="n2", resources=HUGE), "pinned to n2 (1000000 MiB wanted, 8192 MiB free)"),
        (service(resources=HUGE, replicas="global"), "n1: 1000000 MiB wanted, 8192 MiB free; n2: 1000000 MiB wanted"),
    ],
)
def test_what_no_host_can_ever_run_fails_at_once(wanted: Service, why: str) -> None:
    made = running(web=service())
    before = made.state.assignments
    made.ledger.deploy(stack(web=service(), job=wanted))
    made.settle()
    assert made.phase() == "failed"
    assert made.state.stacks["shop"].reason.startswith(f"preparation: job.1 has no host: {why}")
    assert made.state.stacks["shop"].reason.endswith("; nothing was changed")
    assert made.state.assignments == before


def test_a_running_one_that_becomes_too_big_for_where_it_must_stay_fails_at_once() -> None:
    made = running(web=service(host="n1"))
    made.ledger.deploy(stack(web=service(host="n1", resources=HUGE)))
    made.settle()
    assert made.phase() == "failed"
    assert "web.1 has no host: n1: 1000000 MiB wanted, 8192 MiB free" in made.state.stacks["shop"].reason


def test_one_that_no_host_can_ever_run_is_told_also_behind_one_that_is_waited_for() -> None:
    made = world("n1", "n2", a=service(host="n2"), b=service(labels={"zone": "c"}))
    made.dead["n2"] = "dead"
    made.settle()
    assert made.phase() == "failed"
    assert "b.1 has no host" in made.state.stacks["shop"].reason


def test_a_host_that_never_told_what_it_has_may_be_the_one() -> None:
    made = world("n1", "n2", web=service(resources=Resources(memory_mib=9000)))
    made.silent.add("n2")
    made.settle()
    assert made.phase() == "preparing"
    made.silent.clear()
    made.memory["n2"] = 10_000
    made.settle()
    assert made.hosts_of("web") == {1: "n2"}


def test_what_others_hold_may_come_free() -> None:
    made = world("n1", db=service(resources=Resources(memory_mib=8000)))
    made.settle()
    made.ledger.deploy(stack("late", web=service(resources=Resources(memory_mib=8000))))
    made.settle()
    assert made.phase("late") == "preparing"
    made.ledger.remove()
    made.settle()
    assert made.phase("late") == "healthy"


def test_an_engine_that_does_not_answer_now_may_do_so_later() -> None:
    made = world("n1", web=service(runtime="process", image=None, command=("x",)), db=service())
    away = RuntimeInfo(name="docker", available=False)
    told = report("n1", runtimes=(away,), applied=made.state.index)
    facts = all_well(made.state, n1=told)
    assert schedule(made.state, "shop", facts).never == {ReplicaKey(stack="shop", service="web", slot=1)}
    assert schedule(made.state, "shop", facts).pending.keys() == {
        ReplicaKey(stack="shop", service=name, slot=1) for name in ("web", "db")
    }


def test_a_replica_that_the_change_leaves_alone_holds_nothing_up() -> None:
    made = running(web=service(host="n2"), job=service(host="n1"))
    made.dead["n2"] = "dead"
    made.ledger.scale(job=2)
    made.settle()
    assert set(made.hosts_of("job")) == {1, 2}


@pytest.mark.parametrize(("state", "allowed_ms"), [("mute", ANSWER_DEADLINE_MS), ("pulling", PULL_DEADLINE_MS)])
def test_a_host_is_waited_for_as_long_as_its_work_takes(state: str, allowed_ms: int) -> None:
    made = world("n1", web=service())
    if state == "mute":
        made.mute.add("n1")
    else:
        made.pulling.add(("n1", "web"))
    made.settle()
    made.ledger.now_ms = made.state.stacks["shop"].phase_since + allowed_ms - 20
    assert made.step() == ()
    made.later(0.02)
    made.settle()
    assert made.phase() == "failed"
    assert f"web on n1: not prepared within {allowed_ms // 1000} s" in made.state.stacks["shop"].reason


def test_the_next_coordinator_goes_on() -> None:
    made = world("n1", "n2", web=service(replicas=2))
    made.pulling.add(("n1", "web"))
    made.settle()
    asked = made.errands
    made.errands = {}  # the one that asked is gone, and so is what it was told
    made.settle()
    assert made.errands == asked
    made.pulling.clear()
    made.settle()
    assert made.phase() == "healthy"


def test_a_host_that_is_lost_meanwhile_is_replaced() -> None:
    made = world("n1", "n2", web=service())
    made.pulling.add(("n1", "web"))
    made.settle()
    made.dead["n1"] = "dead"
    made.settle()
    assert made.phase() == "healthy"
    assert made.hosts_of("web") == {1: "n2"}


def test_replicas_move_without_being_prepared_when_their_host_dies() -> None:
    """It is too late to be careful then: the host's own start says what is wrong."""
    made = running(web=service(host=None))
    made.mute = {"n1", "n2"}
    made.dead["n1"] = "dead"
    made.settle()
    assert made.hosts_of("web") == {1: "n2"}
    assert not [entry for entry in made.history if isinstance(entry, PhaseEntry)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["web", "job"]), st.integers(1, 5000)), unique=True))
def test_every_change_is_prepared_once_by_its_own_host_up_to_a_bound(changes: list[tuple[str, str, int]]) -> None:
    ref = InstructionRef(revision=1, digest="0" * 64)
    wanted = [
        Assignment(stack="shop", service=name, slot=slot, host=host, instruction=ref)
        for host, name, slot in {(name, slot): (host, name, slot) for host, name, slot in changes}.values()
    ]
    asked = preparations(world("n1", web=service()).state.stacks["shop"], wanted)
    flat = [(host, item) for host, errands in asked.items() for errand in errands for item in errand.assignments]
    assert all(item.host == host for host, item in flat)
    assert all(len({item.service for item in errand.assignments}) == 1 for some in asked.values() for errand in some)
    assert len(flat) == len({(item.service, item.slot) for _, item in flat})
    if len(wanted) <= MAX_SLOTS:
        assert {(item.service, item.slot) for _, item in flat} == {(item.service, item.slot) for item in wanted}
