"""A stack's way from one revision to the next (ARCHITECTURE.md "The way of an instruction"), against hosts that do what
the ledger says."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.control import Decision, decide
from agent.control.preparation import PLACE_DEADLINE_MS
from agent.control.progress import HEALTHY_DEADLINE_MS, PULL_DEADLINE_MS
from agent.control.rollout import MAX_CHANGES_PER_ENTRY
from agent.model.instruction import Enrol, Expel
from agent.model.ledger import AssignEntry, PhaseEntry
from agent.model.spec import ReplicaKey
from agent.model.stack import PortSpec, Resources, Service, Volume
from agent.state import REMOVAL_LEVEL, rests, service_of
from tests.control.test_scheduler import check_placed
from tests.control.world import World
from tests.support.ledger import Ledger, member, service, stack

BAD = ("bad",)
PORT = PortSpec(host_port=8443, container_port=80)


def world(*names: str, **services: Service) -> World:
    made = World(Ledger(*names))
    if services:
        assert made.ledger.deploy(stack(**services)).outcome == "applied"
    return made


def phases(made: World) -> list[str]:
    return [entry.phase for entry in made.history if isinstance(entry, PhaseEntry)]


def classes() -> dict[str, Service]:
    return {
        "db": service(),
        "main": service(role="main"),
        "worker": service(role="worker", replicas=3),
    }


def settles_with_workers_after_main(made: World) -> None:
    """Main takes its time: until it is healthy no worker runs. Then everything settles."""
    made.sick["main", ()] = "starting"
    made.settle()
    assert made.phase() == "main"
    assert (made.runs("db"), made.runs("main"), made.runs("worker")) == (True, True, False)
    made.sick.clear()
    made.settle()


def test_services_then_main_then_workers_then_validating_then_healthy() -> None:
    made = world(**classes())
    made.settle()
    assert phases(made) == ["services", "main", "workers", "validating", "healthy"]
    assert [sorted({key.service for key in batch}) for batch in made.batches()] == [["db"], ["main"], ["worker"]]


def test_a_first_deploy_makes_all_replicas_of_a_class_at_once() -> None:
    made = world(web=service(replicas=5))
    made.settle()
    assert [len(batch) for batch in made.batches()] == [5]


def test_a_class_waits_until_the_one_before_is_healthy() -> None:
    made = world(**classes())
    made.sick["db", ()] = "starting"
    made.settle()
    assert made.phase() == "services"
    assert not made.hosts_of("main")
    made.sick.clear()
    made.settle()
    assert made.phase() == "healthy"


def test_a_stack_of_nothing_is_healthy_at_once() -> None:
    made = world(web=service(replicas=0))
    made.settle()
    assert made.phase() == "healthy"


def test_reports_from_before_the_last_change_do_not_count() -> None:
    made = world(web=service())
    made.step()
    stale = made.facts()
    made.ledger.restart()
    assert made.step() != ()  # re-pointed to the restart's generation
    before = made.state
    hosts = {
        host: replace(known, report=replace(known.report, applied=before.index - 1)) if known.report else known
        for host, known in made.facts().hosts.items()
    }
    entries = decide(before, replace(stale, hosts=hosts), made.ledger.now_ms).entries
    assert not [
        entry for entry in entries if isinstance(entry, PhaseEntry) and entry.phase in ("validating", "healthy")
    ]


def test_a_healthy_stack_proposes_nothing() -> None:
    made = world(**classes())
    made.settle()
    made.later(86_400)
    assert made.step() == ()


class TestReplacing:
    def test_unchanged_services_keep_their_containers_with_another_pointer(self) -> None:
        made = world(**classes())
        made.settle()
        before = made.hosts_of("worker")
        made.history.clear()
        made.ledger.deploy(stack(**{**classes(), "main": service(role="main", command=("two",))}))
        made.settle()
        first = made.batches()[0]
        assert {key.service for key in first} == {"db", "worker"}  # pointers of all that doesn't change, at once
        assert [key.service for key in made.batches()[1]] == ["main"]
        assert made.hosts_of("worker") == before
        assert {item.instruction.revision for item in made.state.assignments.values()} == {2}

    def test_one_slot_of_a_service_at_a_time(self) -> None:
        made = world(web=service(replicas=4))
        made.settle()
        made.history.clear()
        made.ledger.deploy(stack(web=service(replicas=4, command=("two",))))
        made.settle()
        assert [[key.slot for key in batch] for batch in made.batches()] == [[1], [2], [3], [4]]

    def test_the_next_slot_waits_until_the_replaced_one_is_healthy(self) -> None:
        made = world(web=service(replicas=3))
        made.settle()
        made.ledger.deploy(stack(web=service(replicas=3, command=("two",))))
        made.sick["web", ("two",)] = "starting"
        made.settle()
        revisions = Counter(item.instruction.revision for item in made.state.assignments.values())
        assert revisions == {2: 1, 1: 2}

    def test_services_of_one_class_roll_side_by_side(self) -> None:
        made = world(one=service(replicas=2), two=service(replicas=2))
        made.settle()
        made.history.clear()
        made.ledger.deploy(stack(one=service(replicas=2, command=BAD), two=service(replicas=2, command=BAD)))
        made.settle()
        assert [len(batch) for batch in made.batches()] == [2, 2]

    def test_a_restart_replaces_one_by_one(self) -> None:
        made = world(web=service(replicas=3))
        made.settle()
        made.history.clear()
        made.ledger.restart()
        made.settle()
        assert [[key.slot for key in batch] for batch in made.batches()] == [[1], [2], [3]]
        assert made.phase() == "healthy"
        assert {item.generation for item in made.state.assignments.values()} == {2}

    def test_a_restart_goes_class_by_class_too(self) -> None:
        made = world(**classes())
        made.settle()
        made.history.clear()
        made.ledger.restart()
        made.settle()
        assert [[key.service for key in batch] for batch in made.batches()] == [["db"], ["main"], *[["worker"]] * 3]
        assert phases(made) == ["services", "main", "workers", "validating", "healthy"]

    def test_a_service_that_is_gone_is_released_first(self) -> None:
        made = world(web=service(ports=(PORT,)))
        made.settle()
        made.ledger.deploy(stack(frontend=service(ports=(PORT,))))
        made.settle()
        assert not made.hosts_of("web")
        assert made.phase() == "healthy"


class TestScale:
    def test_up_and_down(self) -> None:
        made = world(web=service(replicas=2))
        made.settle()
        before = made.hosts_of("web")
        made.ledger.scale(web=5)
        made.settle()
        assert set(made.hosts_of("web")) == {1, 2, 3, 4, 5}
        assert {slot: made.hosts_of("web")[slot] for slot in before} == before
        made.ledger.scale(web=1)
        made.settle()
        assert set(made.hosts_of("web")) == {1}
        assert made.phase() == "healthy"

    def test_to_zero(self) -> None:
        made = world(web=service(replicas=2))
        made.settle()
        made.ledger.scale(web=0)
        made.settle()
        assert made.hosts_of("web") == {}
        assert made.phase() == "healthy"

    def test_a_deploy_larger_than_one_entry_is_cut(self) -> None:
        made = world("n1", web=service(replicas=MAX_CHANGES_PER_ENTRY + 1))
        entries = [entry for entry in made.step() if isinstance(entry, AssignEntry)]
        assert [len(entry.assign) for entry in entries] == [MAX_CHANGES_PER_ENTRY, 1]


class TestStop:
    def test_a_stopped_stack_keeps_its_assignments(self) -> None:
        made = world(web=service(replicas=2))
        made.settle()
        before = made.hosts_of("web")
        made.ledger.stop()
        made.settle()
        assert made.phase() == "stopped"
        assert made.hosts_of("web") == before
        made.ledger.start()
        made.settle()
        assert made.phase() == "healthy"
        assert made.hosts_of("web") == before

    def test_a_start_goes_class_by_class_as_a_deploy_does(self) -> None:
        made = world(**classes())
        made.settle()
        made.ledger.stop()
        made.settle()
        made.history.clear()
        made.ledger.start()
        settles_with_workers_after_main(made)
        assert phases(made) == ["services", "main", "workers", "validating", "healthy"]
        assert made.runs("worker")
        assert made.state.stacks["shop"].held == frozenset()

    def test_a_deploy_over_a_stopped_stack_starts_it_class_by_class(self) -> None:
        made = world(**classes())
        made.settle()
        made.ledger.stop()
        made.settle()
        made.ledger.deploy(stack(**{**classes(), "db": service(command=("two",))}))
        settles_with_workers_after_main(made)
        assert (made.phase(), made.runs("worker")) == ("healthy", True)

    def test_what_a_failed_start_did_not_come_to_stays_down_until_it_is_started_again(self) -> None:
        made = world(**classes())
        made.settle()
        made.ledger.stop()
        made.settle()
        made.ledger.start()
        made.sick["main", ()] = "failed"
        made.settle()
        assert (made.phase(), made.runs("worker")) == ("failed", False)
        made.sick.clear()
        made.settle()
        assert (made.phase(), made.runs("worker")) == ("failed", False)
        made.ledger.start()
        made.settle()
        assert (made.phase(), made.runs("worker")) == ("healthy", True)

    def test_before_a_start_hosts_say_that_they_can_run_what_was_stopped(self) -> None:
        made = world(web=service())
        made.settle()
        (host,) = made.hosts_of("web").values()
        made.ledger.stop()
        made.settle()
        made.unfit[host, "web"] = "the image is gone"
        made.ledger.start()
        made.settle()
        held = made.state.stacks["shop"]
        assert (held.phase, made.runs("web")) == ("failed", False)
        assert held.reason == f"preparation: web on {host}: the image is gone; nothing was changed"

    def test_what_is_placed_runs_once_it_is_started(self) -> None:
        made = World(Ledger())
        assert made.ledger.place(stack(**classes())).outcome == "applied"
        made.settle()
        assert made.phase() == "stopped"
        before = {name: made.hosts_of(name) for name in classes()}
        assert [len(hosts) for hosts in before.values()] == [1, 1, 3]
        assert not any(made.runs(name) for name in classes())
        made.ledger.start()
        made.settle()
        assert made.phase() == "healthy"
        assert {name: made.hosts_of(name) for name in classes()} == before
        assert all(made.runs(name) for name in classes())

    def test_a_stack_with_one_service_stopped_is_healthy(self) -> None:
        made = world(web=service(), db=service())
        made.settle()
        made.ledger.stop("db")
        made.settle()
        assert made.phase() == "healthy"


def removed_while_one_ends() -> tuple[World, str]:
    """A slot was given up just before the stack was; with the host where it still ends."""
    made = world("n1", "n2", web=service(replicas=2))
    made.settle()
    made.ending = [made.state.assignments[ReplicaKey(stack="shop", service="web", slot=2)]]
    made.ledger.scale(web=1)
    made.settle()
    made.ledger.remove()
    return made, made.state.members[made.ending[0].host].name


class TestRemove:
    def test_it_releases_all_and_goes(self) -> None:
        made = world(**classes())
        made.settle()
        made.ledger.remove()
        made.settle()
        assert "shop" not in made.state.stacks
        assert not made.state.assignments

    @pytest.mark.parametrize("delete_volumes", [False, True])
    def test_each_replica_is_let_go_when_its_host_says_that_it_is_gone(self, delete_volumes: bool) -> None:
        made = world(web=service(replicas=3))
        made.settle()
        made.stopping.add("n1")
        made.ledger.remove(delete_volumes=delete_volumes)
        made.settle()
        assert set(made.hosts_of("web").values()) == {"n1"}
        made.later(600)
        made.settle()
        assert made.phase() == "removing", "what still runs isn't called removed, however long it takes"
        made.stopping.clear()
        made.settle()
        assert "shop" not in made.state.stacks

    def test_a_report_from_before_the_removal_says_nothing_of_it(self) -> None:
        made = world(web=service(replicas=2))
        made.settle()
        made.ledger.remove()
        facts = made.facts()
        late = made.ledger.id("n1")
        known = facts.hosts[late]
        assert known.report is not None
        behind = replace(known, report=replace(known.report, applied=made.state.index - 1))
        entries = decide(made.state, replace(facts, hosts={**facts.hosts, late: behind}), made.ledger.now_ms).entries
        released = {slot.slot for entry in entries if isinstance(entry, AssignEntry) for slot in entry.release}
        assert released == {slot for slot, host in made.hosts_of("web").items() if host != "n1"}

    @pytest.mark.parametrize("fault", ["silent", "without_engine"])
    def test_a_host_that_cannot_know_yet_is_waited_for(self, fault: str) -> None:
        made = world("n1", "n2", web=service(replicas=2))
        made.settle()
        getattr(made, fault).add("n2")
        made.ledger.remove()
        made.settle()
        assert set(made.hosts_of("web").values()) == {"n2"}
        getattr(made, fault).clear()
        made.settle()
        assert "shop" not in made.state.stacks

    def test_an_engine_that_is_away_holds_up_only_what_it_runs(self) -> None:
        made = world("n1", web=service(runtime="process", image=None, command=("web",)))
        made.settle()
        made.without_engine.add("n1")
        made.ledger.remove()
        made.settle()
        assert "shop" not in made.state.stacks

    def test_a_dead_host_does_not_hold_a_removal_up(self) -> None:
        made = world("n1", "n2", web=service(replicas=2))
        made.settle()
        made.dead["n2"] = "dead"
        made.stopping.add("n2")
        made.ledger.remove()
        made.settle()
        assert "shop" not in made.state.stacks

    @pytest.mark.parametrize(
        ("kept", "what"),
        [
            (True, service(volumes=(Volume(source="data", container_path="/data"),))),
            (True, service(volumes=(Volume(source="./certs", container_path="/certs"),))),
            (True, service(runtime="process", image=None, command=("web",))),
            (False, service(volumes=(Volume(source="/srv", container_path="/srv"),))),
            (False, service()),
        ],
    )
    def test_a_dead_host_that_has_volumes_to_delete_is_remembered(self, kept: bool, what: Service) -> None:
        made = world("n1", "n2", web=replace(what, replicas=2))
        made.settle()
        made.dead["n2"] = "dead"
        made.ledger.remove(delete_volumes=True)
        made.settle()
        assert (set(made.hosts_of("web").values()) == {"n2"}) == kept
        del made.dead["n2"]
        made.settle()
        assert "shop" not in made.state.stacks

    def test_who_deploys_before_that_waits_for_its_volumes_until_it_is_expelled(self) -> None:
        keeps = service(replicas=2, volumes=(Volume(source="data", container_path="/data"),))
        made = world("n1", "n2", web=keeps)
        made.settle()
        made.dead["n2"] = "dead"
        made.ledger.remove(delete_volumes=True)
        made.settle()
        made.ledger.deploy(stack(web=keeps))
        made.settle()
        assert list(made.plan().pending.values()) == ["its volume is on n2 (dead)"]
        assert made.ledger.instruct("expel", f"member:{made.ledger.id('n2')}", Expel()).outcome == "applied"
        made.settle()
        assert made.hosts_of("web") == {1: "n1", 2: "n1"}

    def test_a_host_that_never_comes_back_is_forgotten_by_expelling_it(self) -> None:
        made = world("n1", "n2", web=service(replicas=2, volumes=(Volume(source="data", container_path="/data"),)))
        made.settle()
        made.dead["n2"] = "dead"
        made.ledger.remove(delete_volumes=True)
        made.settle()
        assert made.ledger.instruct("expel", f"member:{made.ledger.id('n2')}", Expel()).outcome == "applied"
        assert "shop" not in made.state.stacks

    def test_slots_that_were_given_up_before_and_are_still_ending_are_waited_for(self) -> None:
        made, _ = removed_while_one_ends()
        made.settle()
        assert made.phase() == "removing", "a container that still ends isn't called removed"
        made.ending.clear()
        made.settle()
        assert "shop" not in made.state.stacks

    def test_a_dead_host_has_nothing_ending(self) -> None:
        made, host = removed_while_one_ends()
        made.dead[host] = "dead"
        made.settle()
        assert "shop" not in made.state.stacks

    @pytest.mark.parametrize("delete_volumes", [False, True])
    def test_one_that_was_scaled_to_nothing_is_gone_when_its_hosts_say_so(self, delete_volumes: bool) -> None:
        made = world("n1", "n2", web=service(replicas=2))
        made.settle()
        made.ending = list(made.state.assignments.values())
        made.ledger.scale(web=0)
        made.settle()
        assert not made.state.assignments
        made.ledger.remove(delete_volumes=delete_volumes)
        made.settle()
        assert made.phase() == "removing"
        made.ending.clear()
        made.settle()
        assert "shop" not in made.state.stacks

    def test_volumes_of_slots_that_were_given_up_go_before_the_stack_does(self) -> None:
        """Each host has to have heard of it: nothing tells it any more once the stack has gone."""
        made = world("n1", "n2", web=service(replicas=1))
        made.settle()
        made.ledger.scale(web=0)
        made.settle()
        made.ledger.remove(delete_volumes=True)
        made.behind.add("n2")
        made.settle()
        assert made.phase() == "removing"
        made.behind.clear()
        made.settle()
        assert "shop" not in made.state.stacks

    @pytest.mark.parametrize("fault", ["dead", "behind"])
    def test_a_host_that_has_nothing_to_delete_or_is_lost_holds_no_removal_up(self, fault: str) -> None:
        made = world("n1", "n2", web=service(replicas=1))
        made.settle()
        made.ledger.scale(web=0)
        made.settle()
        made.ledger.remove(delete_volumes=fault == "dead")
        if fault == "dead":
            made.dead["n2"] = "dead"
        else:
            made.behind.add("n2")
        made.settle()
        assert "shop" not in made.state.stacks

    def test_before_all_members_know_of_that_it_goes_with_its_last_replica(self) -> None:
        made = World(Ledger("n1"), level=REMOVAL_LEVEL - 1)
        made.ledger.deploy(stack())
        made.settle()
        made.ledger.scale(web=0)
        made.settle()
        made.ledger.remove()
        assert "shop" not in made.state.stacks

    def test_who_deploys_meanwhile_keeps_the_stack(self) -> None:
        made = world("n1", "n2", web=service(replicas=2))
        made.settle()
        made.stopping.add("n2")
        made.ledger.remove()
        made.settle()
        made.ledger.deploy(stack(web=service(replicas=2)))
        made.settle()
        assert made.phase() == "healthy"
        assert set(made.hosts_of("web").values()) == {"n1", "n2"}


class TestFailure:
    def test_a_failed_replica_fails_the_first_deploy_with_its_reason(self) -> None:
        made = world(main=service(role="main", command=BAD), worker=service(role="worker"))
        made.sick["main", BAD] = "failed"
        made.settle()
        held = made.state.stacks["shop"]
        assert held.phase == "failed"
        assert held.reason == "main.1 on n1: failed"
        assert not made.hosts_of("worker")

    def test_what_ran_before_is_restored_and_the_rest_keeps_running(self) -> None:
        made = world(web=service(replicas=3), db=service())
        made.settle()
        before = {key: replace(item) for key, item in made.state.assignments.items()}
        made.history.clear()
        made.ledger.deploy(stack(web=service(replicas=3, command=BAD), db=service()))
        made.sick["web", BAD] = "failed"
        made.settle()
        assert made.phase() == "failed"
        assert made.state.stacks["shop"].reason.endswith("; back to revision 1")
        assert made.state.assignments == before
        replaced = [key for batch in made.batches() for key in batch if key.service == "web"]
        assert replaced == [ReplicaKey(stack="shop", service="web", slot=1)] * 2  # there and back, the others never

    def test_a_rollback_to_what_hosts_cannot_run_any_more_changes_nothing(self) -> None:
        made = world(web=service(replicas=2))
        made.settle()
        first = made.state.signed[made.state.stacks["shop"].deployed.digest].stack
        made.ledger.deploy(stack(web=service(replicas=2, command=("two",))))
        made.settle()
        before = dict(made.state.assignments)
        made.unfit["n1", "web"] = "the image is gone"
        made.ledger.deploy(first)
        made.settle()
        held = made.state.stacks["shop"]
        assert (held.phase, held.deployed.revision) == ("failed", 2)
        assert held.reason == "preparation: web on n1: the image is gone; nothing was changed"
        assert made.state.assignments == before

    def test_a_rollback_that_fails_goes_forward_again(self) -> None:
        made = world(web=service(command=BAD), main=service(role="main"))
        made.settle()
        first = made.state.signed[made.state.stacks["shop"].deployed.digest].stack
        made.ledger.deploy(stack(web=service(command=("two",)), main=service(role="main")))
        made.settle()
        made.sick["web", BAD] = "failed"
        made.ledger.deploy(first)
        made.settle()
        held = made.state.stacks["shop"]
        assert (held.phase, held.deployed.revision) == ("failed", 2)
        assert held.reason.endswith("; back to revision 2")
        assert {item.instruction.revision for item in made.state.assignments.values()} == {2}
        assert made.runs("web")

    def test_a_failed_update_restores_scale_and_services_that_it_dropped(self) -> None:
        made = world(web=service(replicas=1), old=service())
        made.settle()
        made.ledger.scale(web=3)
        made.settle()
        made.ledger.deploy(stack(web=service(command=BAD)))
        made.sick["web", BAD] = "failed"
        made.settle()
        assert set(made.hosts_of("web")) == {1, 2, 3}
        assert set(made.hosts_of("old")) == {1}

    @pytest.mark.parametrize(("state", "limit_ms"), [("starting", HEALTHY_DEADLINE_MS), ("pulling", PULL_DEADLINE_MS)])
    def test_not_healthy_within_its_deadline_fails(self, state: str, limit_ms: int) -> None:
        made = world(web=service(command=BAD))
        made.sick["web", BAD] = state  # type: ignore[assignment]  # parametrised
        made.settle()
        begun = max(made.state.stacks["shop"].moved_at, made.state.stacks["shop"].phase_since)
        made.ledger.now_ms = begun + limit_ms - 1
        assert made.step() == ()
        made.ledger.now_ms += 1
        made.step()
        assert made.phase() == "failed"

    def test_a_replica_without_host_fails_with_the_hosts_reasons(self) -> None:
        half = service(resources=Resources(memory_mib=5000))
        made = world(web=half, **dict.fromkeys(("a", "b", "c"), half))
        made.settle()
        assert made.phase() == "preparing"
        made.later(PLACE_DEADLINE_MS / 1000)
        made.settle()
        assert "web.1 has no host: n1: 5000 MiB wanted, 3192 MiB free" in made.state.stacks["shop"].reason

    def test_a_host_that_has_not_reported_never_fails_a_rollout(self) -> None:
        made = world(web=service(replicas=2))
        made.step()
        made.silent.add("n1")
        made.later(10 * HEALTHY_DEADLINE_MS / 1000)
        assert made.step() == ()
        made.silent.clear()
        made.settle()
        assert made.phase() == "healthy"

    def test_a_coordinator_counts_deadlines_from_its_own_begin(self) -> None:
        made = world(web=service(command=BAD))
        made.sick["web", BAD] = "starting"
        made.settle()
        made.later(10 * HEALTHY_DEADLINE_MS / 1000)
        facts = replace(made.facts(), since_ms=made.ledger.now_ms)
        assert decide(made.state, facts, made.ledger.now_ms).entries == ()

    def test_a_failed_restart_stops_at_the_first_slot(self) -> None:
        made = world(web=service(replicas=3))
        made.settle()
        made.ledger.restart()
        made.step()
        made.sick["web", ()] = "failed"
        made.settle()
        assert made.phase() == "failed"
        assert Counter(item.generation for item in made.state.assignments.values()) == {0: 2, 2: 1}

    def test_a_first_deploy_that_was_late_becomes_healthy(self) -> None:
        made = world(web=service(command=BAD))
        made.sick["web", BAD] = "starting"
        made.settle()
        made.later(HEALTHY_DEADLINE_MS / 1000)
        made.settle()
        assert made.phase() == "failed"
        made.sick.clear()
        made.settle()
        assert made.phase() == "healthy"

    def test_an_instruction_after_a_failure_starts_anew(self) -> None:
        made = world(web=service())
        made.settle()
        made.ledger.deploy(stack(web=service(command=BAD)))
        made.sick["web", BAD] = "failed"
        made.settle()
        made.ledger.deploy(stack(web=service(command=("good",))))
        made.settle()
        assert made.phase() == "healthy"


class TestHosts:
    def test_a_dead_hosts_replicas_go_elsewhere(self) -> None:
        made = world("n1", "n2", "n3", web=service(replicas=3))
        made.settle()
        made.dead["n2"] = "dead"
        made.settle()
        assert made.phase() == "healthy"
        assert "n2" not in made.hosts_of("web").values()
        after = made.hosts_of("web")
        made.dead.clear()
        made.settle()
        assert made.hosts_of("web") == after  # healed: it runs nothing that isn't assigned to it

    def test_a_pinned_replica_waits_for_its_dead_host(self) -> None:
        made = world("n1", "n2", web=service(host="n2"))
        made.settle()
        made.dead["n2"] = "dead"
        made.settle()
        assert made.hosts_of("web") == {1: "n2"}

    def test_a_volume_keeps_its_replica_on_the_dead_host(self) -> None:
        made = world("n1", "n2", db=service(volumes=(Volume(source="data", container_path="/data"),)))
        made.settle()
        (host,) = made.hosts_of("db").values()
        made.dead[host] = "dead"
        made.settle()
        assert made.hosts_of("db") == {1: host}

    def test_a_port_conflict_gives_that_replica_another_port_only(self) -> None:
        made = world("n1", web=service(replicas=2, ports=(PORT,)))
        made.taken.add(("n1", 8444))
        made.settle()
        ports = [item.ports[0].host_port for _, item in sorted(made.state.assignments.items())]
        assert ports == [8443, 8445]
        assert made.phase() == "healthy"

    def test_a_new_host_gets_the_global_service(self) -> None:
        made = world("n1", agent=service(replicas="global"))
        made.settle()

        new = member("n2")
        made.ledger.instruct("enrol", f"member:{new.id}", Enrol(member=new))
        made.settle()
        assert made.hosts_of("agent") == {1: "n1", 2: "n2"}

    def test_a_dead_host_in_the_middle_of_a_rollout(self) -> None:
        made = world("n1", "n2", "n3", web=service(replicas=3))
        made.settle()
        made.ledger.deploy(stack(web=service(replicas=3, command=("two",))))
        made.step()
        made.dead["n1"] = "dead"
        made.settle()
        assert made.phase() == "healthy"
        assert "n1" not in made.hosts_of("web").values()


def test_asking_twice_gives_the_same_answer() -> None:
    made = world(**classes())
    facts = made.facts()
    one = decide(made.state, facts, made.ledger.now_ms).entries
    assert one == decide(made.state, facts, made.ledger.now_ms).entries


def test_stacks_planned_together_share_no_port() -> None:
    ledger = Ledger("n1")
    ledger.deploy(stack("one", web=service(ports=(PORT,))))
    ledger.deploy(stack("two", web=service(ports=(PORT,))))
    made = World(ledger)
    made.settle()
    assert {item.ports[0].host_port for item in ledger.state.assignments.values()} == {8443, 8444}


def test_without_stacks_there_is_nothing_to_do() -> None:
    made = world()
    assert made.decide() == Decision()


WEB = st.builds(
    lambda replicas, command, role, ports: service(replicas=replicas, command=command, role=role, ports=ports),
    st.one_of(st.integers(0, 4), st.just("global")),
    st.sampled_from([(), ("two",), BAD]),
    st.sampled_from(["service", "main", "worker"]),
    st.sampled_from([(), (PORT,)]),
)
EVENTS = st.one_of(
    st.dictionaries(st.sampled_from(["a", "b"]), WEB, min_size=1, max_size=2).flatmap(
        lambda s: st.sampled_from([("deploy", s), ("deploy", s), ("place", s)])
    ),
    st.integers(0, 4).map(lambda n: ("scale", n)),
    st.sampled_from([("restart", None), ("stop", None), ("start", None), ("remove", None), ("step", None)]),
    st.sampled_from(["n1", "n2", "n3"]).map(lambda n: ("die", n)),
    st.sampled_from(["n1", "n2", "n3"]).map(lambda n: ("heal", n)),
    st.sampled_from(["n1", "n2", "n3"]).map(lambda n: ("drain", n)),
    st.sampled_from(["n1", "n2", "n3"]).map(lambda n: ("undrain", n)),
    st.integers(8443, 8446).map(lambda p: ("take", p)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(EVENTS, max_size=12))
def test_whatever_happens_the_constraints_hold_and_in_the_end_all_is_as_wanted(
    events: list[tuple[str, object]],
) -> None:
    """Every entry proposed is one that the ledger takes (World.step asserts it); no two replicas share a port; once
    hosts are back and nothing is sick, a deploy that isn't bad gets healthy."""
    made = world()
    made.sick["a", BAD] = made.sick["b", BAD] = "failed"
    for kind, value in events:
        _happen(made, kind, value)
        made.ledger.now_ms += 10
        made.step()
        check_placed(made.state, made.facts())
    made.dead.clear()
    made.sick.clear()
    for host in made.state.drained:
        made.ledger.undrain(made.state.members[host].name)
    if "shop" in made.state.stacks:
        made.settle()
    made.ledger.deploy(stack(a=service(replicas=3, ports=(PORT,)), b=service(role="main")))
    made.settle()
    check_placed(made.state, made.facts())
    assert made.phase() == "healthy"
    for item in made.state.assignments.values():
        assert item.instruction == made.state.stacks["shop"].deployed
        assert service_of(made.state, item) is not None
        assert not rests(made.state.stacks["shop"], item.service)


def _happen(made: World, kind: str, value: object) -> None:
    ledger = made.ledger
    match kind:
        case "deploy":
            assert isinstance(value, dict)
            ledger.deploy(stack(**value))
        case "place":
            assert isinstance(value, dict)
            ledger.place(stack(**value))
        case "scale":
            assert isinstance(value, int)
            ledger.scale(a=value)
        case "restart" | "stop" | "start" | "remove":
            getattr(ledger, kind)()
        case "die" if len(made.dead) < 2:
            made.dead[str(value)] = "dead"
        case "heal":
            made.dead.pop(str(value), None)
        case "drain":
            ledger.drain(str(value))
        case "undrain":
            ledger.undrain(str(value))
        case "take":
            assert isinstance(value, int)
            made.taken.add(("n1", value))


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 5), st.integers(1, 5))
def test_replacing_never_takes_a_second_replica_of_a_service_down(replicas: int, steps: int) -> None:
    made = world("n1", "n2", web=service(replicas=replicas))
    made.settle()
    made.ledger.deploy(stack(web=service(replicas=replicas, command=("two",))))
    made.sick["web", ("two",)] = "starting"
    for _ in range(steps):
        made.step()
        replaced = [item for item in made.state.assignments.values() if item.instruction.revision == 2]
        assert len(replaced) <= 1
