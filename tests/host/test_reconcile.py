"""Reconcile: what is wanted comes about, nothing else is touched, and a cut anywhere does no harm."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.host import Action, Desired, Prepare, ReconcileMemory, Refused, Remove, Start, Stop, reconcile
from agent.host.life import BACKOFF_MAX_S, LET_GO_S, STABLE_S, backoff_s, found_running, start_failed, started, wake_at
from agent.host.ports import conflicts
from agent.model.ledger import AssignedPort
from agent.model.spec import ReplicaKey, ReplicaSpec
from agent.model.workload import Workload
from tests.support.replicas import key, spec, wanted, workload


class World:
    """An engine as small as can be. Actions change it; it checks that ports are free and ends come before removals."""

    def __init__(self, workloads: Iterable[Workload] = ()) -> None:
        self.workloads = {workload.id: workload for workload in workloads}
        self.count = 1000

    def run(self, action: Action) -> None:
        match action:
            case Prepare():
                pass
            case Stop(workload_id=id_):
                if id_ in self.workloads:
                    self.workloads[id_] = replace(self.workloads[id_], state="exited", exit_code=143)
            case Remove(workload_id=id_):
                removed = self.workloads.pop(id_, None)
                assert removed is None or removed.state in ("exited", "created"), "removed while it runs"
            case Start(spec=wanted_spec):
                self.start(wanted_spec)

    def start(self, wanted_spec: ReplicaSpec) -> None:
        self.count += 1
        for other in self.workloads.values():
            if other.state in ("running", "restarting") and other.key != wanted_spec.key:
                numbers = {port.host_port for port in other.ports}
                assert not numbers & {port.host_port for port in wanted_spec.ports}, "a port is used twice"
        for id_, present in self.workloads.items():
            if (present.key, present.spec_hash) == (wanted_spec.key, wanted_spec.hash):
                if present.state != "running":
                    self.workloads[id_] = replace(present, state="running", exit_code=None, started_at=self.count)
                return
        made = workload(wanted_spec, id=f"{self.count:064x}", started_at=self.count)
        self.workloads[made.id] = made

    def state(self) -> set[tuple[ReplicaKey, str, str]]:
        return {(w.key, w.spec_hash, w.state) for w in self.workloads.values()}


def settle(world: World, desired: Desired, memory: ReconcileMemory | None = None, now: float = 0.0) -> ReconcileMemory:
    """Plan and act until there is nothing left to do; time passes as the memory asks."""
    memory = memory or ReconcileMemory()
    for _ in range(30):
        actions, memory = reconcile(desired, world.workloads.values(), memory, now)
        for action in actions:
            world.run(action)
            if isinstance(action, Start):
                memory = started(memory, action.key)
        if not actions:
            later = wake_at(memory, now)
            if later is None or later > now + STABLE_S:
                return memory
            now = later
        now += 0.01
    raise AssertionError(f"doesn't settle: {actions}")


def plan(desired: Desired, *workloads: Workload, memory: ReconcileMemory | None = None, now: float = 0.0) -> list[str]:
    actions, _ = reconcile(desired, workloads, memory or ReconcileMemory(looked=True), now)
    return [type(action).__name__ for action in actions]


class TestOneReplica:
    def test_what_is_missing_is_started(self) -> None:
        assert plan(wanted(spec())) == ["Start"]

    def test_what_runs_as_wanted_is_left_alone(self) -> None:
        assert plan(wanted(spec()), workload(spec())) == []

    def test_another_spec_replaces_and_the_image_is_had_before_the_old_one_stops(self) -> None:
        old, new = spec(), spec(command=("serve",))
        assert plan(wanted(new), workload(old)) == ["Prepare", "Stop", "Remove", "Start"]

    def test_another_revision_of_the_same_spec_touches_nothing(self) -> None:
        assert plan(wanted(spec(revision=2)), workload(spec())) == []

    def test_facts_may_change_while_it_runs(self) -> None:
        assert plan(wanted(spec(facts={"MAIN_HOST": "10.0.0.9"})), workload(spec())) == []

    def test_what_is_no_longer_wanted_is_stopped_and_removed(self) -> None:
        assert plan(wanted(), workload(spec())) == ["Stop", "Remove"]

    def test_a_stopped_service_is_stopped_and_what_is_left_of_it_stays(self) -> None:
        stopped = wanted(stopped=(spec(),))
        assert plan(stopped, workload(spec())) == ["Stop"]
        assert plan(stopped, workload(spec(), state="exited", exit_code=143)) == []

    def test_of_two_workloads_of_one_replica_the_wanted_one_stays(self) -> None:
        old = workload(spec(command=("old",)), id="2" * 64)
        actions, _ = reconcile(wanted(spec()), [old, workload(spec())], ReconcileMemory(), 0.0)
        assert {action.workload_id for action in actions if isinstance(action, Stop | Remove)} == {"2" * 64}

    def test_a_container_that_was_created_and_never_started_is_started(self) -> None:
        assert plan(wanted(spec()), workload(spec(), state="created")) == ["Start"]

    def test_busy_replicas_are_left_alone(self) -> None:
        actions, _ = reconcile(wanted(spec()), [], ReconcileMemory(), 0.0, busy=frozenset({key()}))
        assert actions == ()


class TestKept:
    """What moved to another host, and isn't healthy there yet."""

    KEPT = wanted(kept=frozenset({key()}))

    def test_what_runs_goes_on_and_what_has_ended_is_not_started_again(self) -> None:
        assert plan(self.KEPT, workload(spec())) == []
        assert plan(self.KEPT, workload(spec(), state="exited", exit_code=1)) == ["Remove"]
        assert plan(self.KEPT) == []

    def test_an_agent_that_starts_again_meanwhile_leaves_it_too(self) -> None:
        assert plan(self.KEPT, workload(spec()), memory=ReconcileMemory()) == []

    def test_once_its_successor_is_healthy_it_ends_a_moment_later(self) -> None:
        """Who was told of the one before it has time to hear of the next."""
        _, memory = reconcile(self.KEPT, [workload(spec())], ReconcileMemory(), 10.0)
        actions, memory = reconcile(wanted(), [workload(spec())], memory, 20.0)
        assert (actions, wake_at(memory, 20.0)) == ((), 20.0 + LET_GO_S)
        actions, memory = reconcile(wanted(), [workload(spec())], memory, 20.0 + LET_GO_S / 2)
        assert actions == ()
        actions, _ = reconcile(wanted(), [workload(spec())], memory, 20.0 + LET_GO_S)
        assert [type(action).__name__ for action in actions] == ["Stop", "Remove"]

    def test_when_it_comes_back_meanwhile_nothing_happens_to_it(self) -> None:
        _, memory = reconcile(self.KEPT, [workload(spec())], ReconcileMemory(), 10.0)
        assert reconcile(wanted(spec()), [workload(spec())], memory, 20.0)[0] == ()

    def test_nobody_waits_for_its_port(self) -> None:
        """The start fails, and the coordinator gives another one: nobody knows when this one will be free."""
        other = spec("api", ports=(8443,))
        assert plan(wanted(other, kept=frozenset({key()})), workload(spec(ports=(8443,)))) == ["Start"]


class TestRefused:
    def test_what_the_policy_refuses_is_stopped(self) -> None:
        refused = Refused(key=key(), revision=1, reason="no", spec_hash=spec().hash)
        assert plan(wanted(refused=(refused,)), workload(spec())) == ["Stop", "Remove"]

    def test_the_predecessor_of_a_refused_revision_keeps_running(self) -> None:
        refused = Refused(key=key(), revision=2, reason="no", spec_hash=spec(command=("new",)).hash)
        assert plan(wanted(refused=(refused,)), workload(spec())) == []


class TestRestarts:
    def ended(self, code: int | None, **changes: Any) -> list[str]:
        of = spec(**changes)
        return plan(wanted(of), workload(of, state="exited", exit_code=code))

    @pytest.mark.parametrize(
        ("policy", "code", "restarts"),
        [
            ("no", 1, False),
            ("no", 0, False),
            ("on-failure", 0, False),
            ("on-failure", 1, True),
            ("on-failure", None, True),
            ("always", 0, True),
            ("unless-stopped", 0, True),
        ],
    )
    def test_the_restart_policy_decides(self, policy: str, code: int | None, restarts: bool) -> None:
        assert self.ended(code, restart_policy=policy) == (["Start"] if restarts else [])

    def test_the_first_restart_is_at_once_then_the_pause_doubles_up_to_its_bound(self) -> None:
        assert [backoff_s(failures) for failures in range(1, 6)] == [0.0, 1.0, 2.0, 4.0, 8.0]
        assert backoff_s(1000) == BACKOFF_MAX_S

    def test_an_end_counts_once_however_often_it_is_seen(self) -> None:
        ended = workload(spec(), state="exited", exit_code=1)
        memory = ReconcileMemory(looked=True)
        for now in (0.0, 0.1, 0.2):
            _, memory = reconcile(wanted(spec()), [ended], memory, now)
        assert memory.life(key()).failures == 1

    def test_a_crash_loop_waits_longer_each_time_and_a_minute_of_running_forgets_it(self) -> None:
        memory, now = ReconcileMemory(looked=True), 0.0
        for run in range(1, 5):
            _, memory = reconcile(wanted(spec()), [workload(spec(), started_at=run)], memory, now)
            gone = workload(spec(), started_at=run, state="exited", exit_code=1)
            _, memory = reconcile(wanted(spec()), [gone], memory, now)
            assert memory.life(key()).start_after == now + backoff_s(run)
            assert plan(wanted(spec()), gone, memory=memory, now=now) == (["Start"] if run == 1 else [])
            now = memory.life(key()).start_after
            assert plan(wanted(spec()), gone, memory=memory, now=now) == ["Start"]
        again = workload(spec(), started_at=9)
        for moment in (now, now + STABLE_S):
            _, memory = reconcile(wanted(spec()), [again], memory, moment)
        assert memory.life(key()).failures == 0

    def test_restarts_by_the_engine_itself_are_failures_too(self) -> None:
        memory = ReconcileMemory(looked=True)
        for restarts in (0, 1, 3):
            _, memory = reconcile(wanted(spec()), [workload(spec(), restarts=restarts)], memory, 0.0)
        assert memory.life(key()).failures == 3

    def test_an_unhealthy_replica_is_restarted_once_for_each_run(self) -> None:
        sick = workload(spec(), health="unhealthy")
        assert plan(wanted(spec()), sick) == ["Stop", "Start"]
        assert plan(wanted(spec(restart_policy="no")), workload(spec(restart_policy="no"), health="unhealthy")) == []
        _, memory = reconcile(wanted(spec()), [sick], ReconcileMemory(looked=True), 0.0)
        _, memory = reconcile(wanted(spec()), [sick], memory, 0.1)
        assert memory.life(key()).failures == 1

    def test_a_failed_start_waits_and_three_in_its_rollout_give_it_up(self) -> None:
        _, memory = reconcile(wanted(spec()), [], ReconcileMemory(), 0.0)
        for _ in range(3):
            assert not memory.life(key()).given_up
            memory = start_failed(memory, key(), "no such file", 0.0)
        assert memory.life(key()).given_up
        assert plan(wanted(spec()), memory=memory, now=1.9) == []
        assert plan(wanted(spec()), memory=memory, now=2.0) == ["Start"]

    def test_one_that_was_healthy_before_is_never_given_up(self) -> None:
        memory = ReconcileMemory()
        memory = memory.with_life(
            key(), found_running(replace(memory.life(key()), spec_hash=spec().hash, revision=1), workload(spec()), 0.0)
        )
        for _ in range(9):
            memory = start_failed(memory, key(), "no", 0.0)
        assert not memory.life(key()).given_up

    def test_a_missing_image_gives_it_up_at_once_and_the_predecessor_keeps_running(self) -> None:
        new, old = spec(command=("new",)), workload(spec())
        _, memory = reconcile(wanted(new), [old], ReconcileMemory(), 0.0)
        memory = start_failed(memory, key(), "no image", 0.0, final=True)
        assert memory.life(key()).given_up
        assert plan(wanted(new), old, memory=memory, now=1.0) == []

    def test_another_revision_tries_again_at_once(self) -> None:
        _, memory = reconcile(wanted(spec()), [], ReconcileMemory(), 0.0)
        memory = start_failed(memory, key(), "no", 0.0, final=True)
        assert plan(wanted(spec()), memory=memory) == []
        assert plan(wanted(spec(revision=2)), memory=memory) == ["Start"]


class TestPorts:
    def test_a_start_waits_for_a_port_that_another_replica_is_about_to_free(self) -> None:
        old, new = spec("old", ports=(8443,)), spec("new", ports=(8443,))
        assert plan(wanted(new), workload(old)) == ["Stop", "Remove"]
        assert plan(wanted(new)) == ["Start"]

    def test_it_does_not_wait_for_a_replica_that_keeps_the_port(self) -> None:
        one, two = spec("one", ports=(8443,)), spec("two", ports=(8443,))
        assert plan(wanted(one, two), workload(one)) == ["Start"]

    def test_it_does_not_wait_for_what_a_refused_replica_left_running(self) -> None:
        refused = Refused(key=key("old"), revision=2, reason="no", spec_hash="another")
        left = workload(spec("old", ports=(8443,)))
        assert plan(wanted(spec("web", ports=(8443,)), refused=(refused,)), left) == ["Start"]

    def test_two_replicas_can_swap_their_ports(self) -> None:
        one, two = spec("one", ports=(1,)), spec("two", ports=(2,))
        world = World([workload(one, id="1" * 64), workload(two, id="2" * 64)])
        swapped = wanted(spec("one", ports=(2,)), spec("two", ports=(1,)))
        settle(world, swapped)
        assert world.state() == {(each.key, each.hash, "running") for each in swapped.specs}

    def test_a_taken_port_is_reported_until_the_replica_starts_or_gets_another(self) -> None:
        taken = spec(ports=(8443,))
        _, memory = reconcile(wanted(taken), [], ReconcileMemory(), 0.0)
        memory = start_failed(memory, key(), "port 8443 is taken", 0.0, busy_ports=(8443,))
        assert [conflict.host_port for conflict in conflicts(memory.lives, (taken,))] == [8443]
        assert conflicts(memory.lives, (spec(ports=(8444,)),)) == ()
        assert conflicts(started(memory, key()).lives, (taken,)) == ()


# Whole plans, cut anywhere

SERVICES = st.sampled_from(["a", "b", "c"])


@st.composite
def specs(draw: st.DrawFn) -> ReplicaSpec:
    number = draw(st.integers(1, 4))
    return spec(
        draw(SERVICES),
        draw(st.integers(1, 2)),
        command=(draw(st.sampled_from(["v1", "v2"])),),
        ports=(8000 + number,) if draw(st.booleans()) else (),
        restart_policy=draw(st.sampled_from(["no", "on-failure", "always", "unless-stopped"])),
        revision=draw(st.integers(1, 3)),
    )


@st.composite
def workloads(draw: st.DrawFn) -> list[Workload]:
    found = []
    taken: set[int] = set()
    for number, of in enumerate(draw(st.lists(specs(), max_size=5))):
        state = draw(st.sampled_from(["created", "running", "restarting", "exited"]))
        ports = {port.host_port for port in of.ports}
        if state in ("running", "restarting"):
            if ports & taken:
                continue
            taken |= ports
        found.append(
            workload(
                of,
                id=f"{number:064x}",
                state=state,
                started_at=number,
                health=draw(st.sampled_from(["none", "starting", "healthy"])),
                exit_code=draw(st.sampled_from([None, 0, 1])) if state == "exited" else None,
                revision=draw(st.integers(1, 3)),
            )
        )
    return found


@st.composite
def wanted_sets(draw: st.DrawFn) -> Desired:
    running: dict[ReplicaKey, ReplicaSpec] = {}
    numbers: set[int] = set()
    for each in draw(st.lists(specs(), max_size=5)):
        ports = {port.host_port for port in each.ports}
        if not ports & numbers:
            running[each.key] = each
            numbers |= ports
    halted = {each.key: each for each in draw(st.lists(specs(), max_size=2)) if each.key not in running}
    return wanted(*running.values(), stopped=tuple(halted.values()))


def assert_converged(world: World, desired: Desired) -> None:
    ours = list(world.workloads.values())
    for each in desired.specs:
        mine = [w for w in ours if w.key == each.key]
        assert [w.spec_hash for w in mine] == [each.hash]
        left_alone = mine[0].state == "exited" and (each.restart_policy in ("no", "on-failure"))
        assert mine[0].state in ("running", "restarting") or left_alone
    wanted_keys = {each.key for each in (*desired.specs, *desired.stopped)}
    assert {w.key for w in ours} <= wanted_keys
    halted = {each.key for each in desired.stopped}
    assert not [w for w in ours if w.key in halted and w.state in ("running", "restarting")]


@given(found=workloads(), desired=wanted_sets())
def test_a_plan_cut_after_any_action_converges_when_planned_again(found: list[Workload], desired: Desired) -> None:
    actions, memory = reconcile(desired, found, ReconcileMemory(), 0.0)
    for cut in range(len(actions) + 1):
        for remembers in (True, False):
            world = World(found)
            for action in actions[:cut]:
                world.run(action)
            settle(world, desired, memory if remembers else None)
            assert_converged(world, desired)


@given(found=workloads(), desired=wanted_sets())
def test_a_converged_host_is_left_alone(found: list[Workload], desired: Desired) -> None:
    world = World(found)
    memory = settle(world, desired)
    actions, _ = reconcile(desired, world.workloads.values(), memory, 10_000.0)
    assert actions == ()


@given(found=workloads(), desired=wanted_sets(), other=wanted_sets())
def test_a_change_of_mind_in_the_middle_converges_to_the_last_wish(
    found: list[Workload], desired: Desired, other: Desired
) -> None:
    world = World(found)
    actions, memory = reconcile(other, found, ReconcileMemory(), 0.0)
    for action in actions[: len(actions) // 2]:
        world.run(action)
    settle(world, desired, memory)
    assert_converged(world, desired)


def test_udp_and_tcp_are_different_ports() -> None:
    udp = spec("dns", ports=(53,))
    udp = replace(udp, ports=(AssignedPort(container_port=53, host_port=53, protocol="udp"),))
    tcp = spec("web", ports=(53,))
    assert plan(wanted(udp, tcp), workload(udp)) == ["Start"]
    assert plan(wanted(tcp), workload(udp)) == ["Stop", "Remove", "Start"]
