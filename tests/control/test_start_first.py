"""A replica that moves goes on where it was until its successor is healthy, whatever happens meanwhile."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import UNSET
from msgspec.structs import replace

from agent.control import decide
from agent.control.progress import HEALTHY_DEADLINE_MS
from agent.host import HostContext, desired
from agent.model.errand import Prepare
from agent.model.instruction import Expel
from agent.model.ledger import Assignment, LevelEntry
from agent.model.spec import ReplicaKey
from agent.model.stack import PortSpec, Resources, Service, Volume
from agent.model.types import AgentId
from agent.state import STATE_LEVEL, hosts_of, service_of
from tests.control.test_scheduler import check_placed
from tests.control.world import World, seen
from tests.support.ledger import Ledger, service, stack

PORT = PortSpec(host_port=8443, container_port=8443)
SHARED = Volume(source="/srv/data", container_path="/data")
WEB = ReplicaKey(stack="shop", service="web", slot=1)
GIB = Resources(memory_mib=1024)
CONTEXT = HostContext(address="192.0.2.1")


def world(*names: str, level: int = STATE_LEVEL, **services: Service) -> World:
    ledger = Ledger(*names)
    made = World(ledger, level=level)
    assert ledger.deploy(stack(**services)).outcome == "applied"
    made.settle()
    assert made.phase() == "healthy"
    made.history.clear()
    return made


def moving(made: World, host: str = "n1", slot: int = 1) -> World:
    """The replica has left `host`, drained, and isn't healthy yet."""
    made.ledger.drain(host)
    while made.hosts_of("web")[slot] == host:
        made.step()
    made.sick_slots["web", slot] = "starting"
    made.settle()
    return made


def kept(made: World, slot: int = 1) -> str:
    """The host that still has the replica, by what that host itself makes of the ledger."""
    key = ReplicaKey(stack="shop", service="web", slot=slot)
    hosts = [
        member.name for member in made.state.members.values() if key in desired(made.state, member.id, CONTEXT).kept
    ]
    assert len(hosts) <= 1
    return hosts[0] if hosts else ""


def test_it_goes_on_until_its_successor_is_healthy_however_long_that_takes() -> None:
    made = moving(world("n1", "n2", web=service(ports=(PORT,))))
    assert (made.hosts_of("web"), kept(made)) == ({1: "n2"}, "n1")
    made.sick_slots["web", 1] = "failed"
    made.later(2 * HEALTHY_DEADLINE_MS / 1000)
    made.settle()
    assert (made.hosts_of("web"), kept(made), made.phase()) == ({1: "n2"}, "n1", "healthy")
    made.sick_slots.clear()
    made.settle()
    assert (made.hosts_of("web"), kept(made)) == ({1: "n2"}, "")


def test_its_memory_is_not_free_where_it_still_runs() -> None:
    made = world("n1", "n2", web=service(resources=GIB), wide=service(host="n2", resources=GIB))
    assert made.hosts_of("web") == {1: "n1"}
    made.memory = {"n1": 1024, "n2": 2048}
    moving(made)
    made.ledger.undrain("n1")
    made.ledger.deploy(stack("other", job=service(resources=GIB)))
    made.settle()
    assert not made.hosts_of("job", "other")
    assert made.plan("other").pending[ReplicaKey(stack="other", service="job", slot=1)] == (
        "n1: 1024 MiB wanted, 0 MiB free; n2: 1024 MiB wanted, 0 MiB free"
    )
    made.sick_slots.clear()
    made.settle()
    assert made.hosts_of("job", "other") == {1: "n1"}


def test_who_takes_its_place_in_the_same_plan_waits_until_it_has_left() -> None:
    made = world("n1", "n2", web=service(host="n1", resources=GIB))
    made.memory = {"n1": 1024, "n2": 1024}
    made.sick_slots["web", 1] = "starting"
    made.ledger.deploy(stack(web=service(host="n2", resources=GIB), zoo=service(host="n1", resources=GIB)))
    made.settle()
    assert (kept(made), made.hosts_of("web"), made.hosts_of("zoo")) == ("n1", {1: "n2"}, {})
    made.sick_slots.clear()
    made.settle()
    assert (made.hosts_of("zoo"), made.phase()) == ({1: "n1"}, "healthy")


def test_a_coordinator_that_has_just_begun_lets_nothing_go_before_it_has_heard() -> None:
    made = moving(world("n1", "n2", web=service()))
    made.sick_slots.clear()
    made.silent = {"n2"}
    made.settle()
    assert kept(made) == "n1"
    made.silent = {"n1"}
    made.settle()
    assert kept(made) == ""


def test_the_next_host_is_not_asked_about_where_it_comes_from() -> None:
    """Errands go to agents of any version, and only the ledger's level says that all know of predecessors."""
    made = world("n1", "n2", web=service())
    made.ledger.drain("n1")
    asked = [errand for errands in made.decide().errands.values() for errand in errands if isinstance(errand, Prepare)]
    assert [item.predecessor for errand in asked for item in errand.assignments] == [None]
    assert [item.predecessor for item in made.plan().assign] != [None]


def test_while_one_moves_the_stack_is_looked_at_again() -> None:
    made = moving(world("n1", "n2", web=service()))
    assert "shop" in decide(made.state, made.facts(), made.ledger.now_ms).waiting
    made.sick_slots.clear()
    made.settle()
    assert "shop" not in decide(made.state, made.facts(), made.ledger.now_ms).waiting


def test_the_end_of_the_drain_changes_nothing() -> None:
    made = moving(world("n1", "n2", web=service()))
    made.ledger.undrain("n1")
    made.settle()
    assert (made.hosts_of("web"), kept(made)) == ({1: "n2"}, "n1")
    made.sick_slots.clear()
    made.settle()
    assert (made.hosts_of("web"), kept(made)) == ({1: "n2"}, "")


def test_another_plan_meanwhile_replaces_only_the_successor() -> None:
    made = moving(world("n1", "n2", web=service()))
    made.ledger.deploy(stack(web=service(command=("two",))))
    made.settle()
    assert (made.hosts_of("web"), kept(made)) == ({1: "n2"}, "n1")
    assert {item.instruction.revision for item in made.state.assignments.values()} == {2}
    made.sick_slots.clear()
    made.settle()
    assert (made.hosts_of("web"), kept(made), made.phase()) == ({1: "n2"}, "", "healthy")


def test_a_plan_that_fails_meanwhile_goes_back_and_costs_nothing() -> None:
    made = moving(world("n1", "n2", web=service()))
    made.ledger.deploy(stack(web=service(command=("bad",))))
    made.sick_slots.clear()
    made.sick["web", ("bad",)] = "failed"
    while made.phase() != "failed":
        made.step()
    assert kept(made) == "n1"
    made.settle()
    assert {item.instruction.revision for item in made.state.assignments.values()} == {1}
    assert (made.hosts_of("web"), kept(made)) == ({1: "n2"}, "")


def test_a_plan_that_pins_it_elsewhere_moves_it_as_a_drain_does() -> None:
    made = world("n1", "n2", web=service(host="n1"))
    made.ledger.deploy(stack(web=service(host="n2")))
    while made.hosts_of("web") == {1: "n1"}:
        made.step()
    assert kept(made) == "n1"
    made.settle()
    assert (made.hosts_of("web"), kept(made)) == ({1: "n2"}, "")


def test_labels_that_it_wants_and_its_host_loses_move_it_so_too() -> None:
    ledger = Ledger("n1", "n2")
    ledger.relabel("n1", disk="ssd")
    ledger.deploy(stack(web=service(labels={"disk": "ssd"})))
    made = World(ledger)
    made.settle()
    ledger.relabel("n2", disk="ssd")
    ledger.relabel("n1")
    while made.hosts_of("web") == {1: "n1"}:
        made.step()
    assert kept(made) == "n1"


def test_the_next_host_dies_and_it_goes_to_a_third_from_where_it_runs() -> None:
    made = moving(world("n1", "n2", "n3", web=service()))
    (to,) = made.hosts_of("web").values()
    made.dead[to] = "dead"
    made.settle()
    assert made.hosts_of("web") == {1: "n3" if to == "n2" else "n2"}
    assert kept(made) == "n1"


def test_the_next_host_dies_and_it_comes_back_to_where_it_runs_once_that_may_be_used() -> None:
    made = moving(world("n1", "n2", web=service(ports=(PORT,))))
    made.dead["n2"] = "dead"
    made.settle()
    assert (made.hosts_of("web"), kept(made)) == ({1: "n2"}, "n1"), "there is no other one"
    made.ledger.undrain("n1")
    made.settle()
    assert (made.hosts_of("web"), kept(made)) == ({1: "n1"}, "")
    (item,) = made.state.assignments.values()
    assert [port.host_port for port in item.ports] == [PORT.host_port]


def test_back_where_it_runs_it_has_the_ports_that_it_has_there() -> None:
    made = world("n1", "n2", api=service(host="n1", ports=(PORT,)), web=service(ports=(PORT,), host="n1"))
    made.ledger.deploy(stack(web=service(ports=(PORT,))))
    made.settle()
    had = made.state.assignments[WEB].ports
    assert [port.host_port for port in had] == [PORT.host_port + 1], "api had the other one"
    moving(made)
    made.dead["n2"] = "dead"
    made.ledger.undrain("n1")
    made.settle()
    assert (made.hosts_of("web"), made.state.assignments[WEB].ports) == ({1: "n1"}, had)


def test_the_old_host_dies_and_nobody_waits_for_it() -> None:
    made = moving(world("n1", "n2", web=service()))
    made.dead["n1"] = "dead"
    made.sick_slots.clear()
    made.settle()
    assert (made.hosts_of("web"), kept(made)) == ({1: "n2"}, "")


def test_who_leaves_a_host_that_is_lost_has_no_predecessor() -> None:
    made = world("n1", "n2", web=service())
    made.dead["n1"] = "dead"
    made.sick_slots["web", 1] = "starting"
    made.settle()
    assert (made.hosts_of("web"), kept(made)) == ({1: "n2"}, "")


def test_the_next_host_is_drained_too_and_the_old_one_goes_on() -> None:
    made = moving(world("n1", "n2", "n3", web=service()))
    (to,) = made.hosts_of("web").values()
    made.ledger.drain(to)
    made.settle()
    assert set(made.hosts_of("web").values()) == {"n2", "n3"} - {to}
    assert kept(made) == "n1"
    made.sick_slots.clear()
    made.settle()
    assert kept(made) == ""


def test_a_stop_meanwhile_stops_both() -> None:
    made = moving(world("n1", "n2", web=service()))
    made.ledger.stop()
    assert kept(made) == ""
    made.settle()
    assert all(item.predecessor is None for item in made.state.assignments.values())


def test_a_removal_meanwhile_stops_both() -> None:
    made = moving(world("n1", "n2", web=service()))
    made.ledger.remove()
    assert kept(made) == ""


def test_a_removal_meanwhile_is_over_when_both_hosts_say_so() -> None:
    made = moving(world("n1", "n2", web=service()))
    made.stopping.add("n1")
    made.ledger.remove()
    made.settle()
    assert made.phase() == "removing"
    made.stopping.clear()
    made.settle()
    assert "shop" not in made.state.stacks


@pytest.mark.parametrize("fault", ["silent", "without_engine"])
def test_a_removal_waits_for_an_old_host_that_cannot_know_yet(fault: str) -> None:
    made = moving(world("n1", "n2", web=service()))
    getattr(made, fault).add("n1")
    made.ledger.remove()
    made.settle()
    assert made.phase() == "removing"
    getattr(made, fault).clear()
    made.dead["n1"] = "dead"
    made.settle()
    assert "shop" not in made.state.stacks


def test_what_is_still_ending_where_it_was_is_waited_for_too() -> None:
    made = world("n1", "n2", web=service(host="n2"))
    (item,) = made.state.assignments.values()
    made.ledger.remove()
    facts = made.facts()
    old = facts.hosts[made.ledger.id("n1")]
    assert old.report is not None
    ending = replace(old, report=replace(old.report, replicas=(seen(item, "stopping"),)))
    hosts = {**facts.hosts, made.ledger.id("n1"): ending}
    assert not decide(made.state, replace(facts, hosts=hosts), made.ledger.now_ms).entries
    hosts[made.ledger.id("n1")] = replace(ending, lost=True)
    assert decide(made.state, replace(facts, hosts=hosts), made.ledger.now_ms).entries


def test_one_that_is_healthy_where_it_is_to_leave_again_needs_its_first_host_no_more() -> None:
    made = moving(world("n1", "n2", "n3", web=service()))
    (to,) = made.hosts_of("web").values()
    third = "n3" if to == "n2" else "n2"
    made.unfit[third, "web"] = "no image"
    made.ledger.drain(to)
    made.settle()
    assert (made.hosts_of("web"), kept(made)) == ({1: to}, "n1")
    made.sick_slots.clear()
    made.settle()
    assert (made.hosts_of("web"), kept(made)) == ({1: to}, "")
    made.unfit.clear()
    made.settle()
    assert (made.hosts_of("web"), kept(made)) == ({1: third}, "")


def test_the_next_host_is_expelled_and_it_is_where_it_runs() -> None:
    made = moving(world("n1", "n2", "n3", web=service()))
    (to,) = made.hosts_of("web").values()
    made.ledger.instruct("expel", f"member:{made.ledger.id(to)}", Expel())
    assert (made.hosts_of("web"), kept(made)) == ({1: "n1"}, "")
    while made.hosts_of("web") == {1: "n1"}:
        made.step()
    assert (made.hosts_of("web"), kept(made)) == ({1: "n3" if to == "n2" else "n2"}, "n1")


def test_its_ports_there_are_nobodys_until_it_goes() -> None:
    made = moving(world("n1", "n2", web=service(ports=(PORT,))))
    made.ledger.undrain("n1")
    made.ledger.instruct("deploy", "stack:more", stack("more", api=service(host="n1", ports=(PORT,))))
    made.settle()
    check_placed(made.state, made.facts())
    (api,) = (item for item in made.state.assignments.values() if item.stack == "more")
    assert [port.host_port for port in api.ports] == [PORT.host_port + 1]


@pytest.mark.parametrize(
    "alone",
    [
        service(move_order="stop-first"),
        service(volumes=(SHARED,)),
        service(volumes=(Volume(source="./certs", container_path="/certs"), SHARED)),
    ],
)
def test_who_is_told_so_or_writes_to_a_path_of_its_host_runs_in_one_place_at_a_time(alone: Service) -> None:
    made = moving(world("n1", "n2", web=alone))
    assert (made.hosts_of("web"), kept(made)) == ({1: "n2"}, "")


def test_to_say_so_restarts_nothing() -> None:
    made = world("n1", "n2", web=service())
    made.ledger.deploy(stack(web=service(move_order="stop-first")))
    made.settle()
    assert made.batches() == [[ReplicaKey(stack="shop", service="web", slot=1)]]
    assert not [errand for errands in made.errands.values() for errand in errands if isinstance(errand, Prepare)]


@pytest.mark.parametrize(
    "volume",
    [Volume(source="/etc/ssl", container_path="/ssl", read_only=True), Volume(source="./data", container_path="/data")],
)
def test_who_only_reads_there_or_has_the_path_to_itself_does_not(volume: Volume) -> None:
    made = moving(world("n1", "n2", web=service(volumes=(volume,))))
    assert (made.hosts_of("web"), kept(made)) == ({1: "n2"}, "n1")


def test_before_all_members_know_of_predecessors_there_are_none() -> None:
    made = moving(world("n1", "n2", level=1, web=service()))
    assert (made.hosts_of("web"), kept(made)) == ({1: "n2"}, "")
    made.sick_slots.clear()
    made.settle()
    made.ledger.undrain("n1")
    made.ledger.propose(LevelEntry(at=made.ledger.now_ms, level=STATE_LEVEL))
    moving(made, "n2")
    assert (made.hosts_of("web"), kept(made)) == ({1: "n1"}, "n2")


EVENTS = st.one_of(
    st.sampled_from(["n1", "n2", "n3"]).map(lambda host: ("drain", host)),
    st.sampled_from(["n1", "n2", "n3"]).map(lambda host: ("undrain", host)),
    st.sampled_from([("step", ""), ("step", ""), ("slow", ""), ("quick", ""), ("scale", "3")]),
    st.sampled_from(["n1", "n2", "n3"]).map(lambda host: ("hears nothing of", host)),
    st.sampled_from(["n1", "n2", "n3"]).map(lambda host: ("cannot start on", host)),
)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 3), st.lists(EVENTS, max_size=25))
def test_whatever_moves_each_replica_that_ran_runs_somewhere(replicas: int, events: list[tuple[str, str]]) -> None:
    """Drains that cross, starts that are slow or fail, a coordinator that hasn't heard of hosts: nobody is without."""
    made = world("n1", "n2", "n3", web=service(replicas=replicas, ports=(PORT,)))
    slow = False
    runs: dict[ReplicaKey, set[AgentId]] = {key: {item.host} for key, item in made.state.assignments.items()}
    for kind, value in events:
        match kind:
            case "drain":
                made.ledger.drain(value)
            case "undrain":
                made.ledger.undrain(value)
            case "slow":
                slow = True
            case "quick":
                slow = False
                made.sick_slots.clear()
            case "scale":
                made.ledger.scale(web=max(replicas, int(value)))
            case "hears nothing of":
                made.silent = {value}
            case "cannot start on":
                made.unfit = {(value, "web"): "no image"}
            case _:
                made.silent, made.unfit = set(), {}
        before, ran = dict(made.state.assignments), {key for key, hosts in runs.items() if hosts}
        made.ledger.now_ms += 10
        made.step()
        check_placed(made.state, made.facts())
        for key, item in made.state.assignments.items():
            if slow and (key not in before or before[key].host != item.host):
                made.sick_slots[key.service, key.slot] = "starting"
        _run(made, runs)
        for key in ran:
            assert runs[key], f"{key} runs nowhere after {kind} {value}"


def _run(made: World, runs: dict[ReplicaKey, set[AgentId]]) -> None:
    """Hosts follow the ledger: what was started is soon healthy, or is not; what is kept goes on where it ran."""
    keeps = {member: desired(made.state, member, CONTEXT).kept for member in made.state.members}
    for key, item in made.state.assignments.items():
        had = runs.get(key, set())
        runs[key] = {host for host in had if key in keeps[host] or host == item.host}
        if (key.service, key.slot) not in made.sick_slots:
            runs[key].add(item.host)


ROOMY = st.builds(
    lambda host, memory, order: service(host=host, resources=Resources(memory_mib=memory), move_order=order),
    st.sampled_from([None, "n1", "n2"]),
    st.sampled_from([500, 1000]),
    st.sampled_from([UNSET, UNSET, "stop-first"]),
)
SHOPS = st.fixed_dictionaries({"a": ROOMY}, optional={"b": ROOMY})
CHANGES = st.one_of(
    SHOPS.map(lambda services: ("deploy", services)),
    SHOPS.map(lambda services: ("deploy", services)),
    st.sampled_from(["n1", "n2"]).map(lambda name: ("drain", name)),
    st.sampled_from(["n1", "n2"]).map(lambda name: ("undrain", name)),
    st.just(("sicken", "a")),
    st.just(("heal", "")),
)


def memory_of(made: World, item: Assignment) -> int:
    placed = service_of(made.state, item)
    assert placed is not None
    return placed.resources.memory_mib


@settings(max_examples=150, deadline=None)
@given(SHOPS, st.lists(st.tuples(CHANGES, st.integers(1, 6)), max_size=6))
def test_no_host_ever_has_more_than_fits(
    first: dict[str, Service], changes: list[tuple[tuple[str, object], int]]
) -> None:
    """Predecessors run until their successors are healthy, so that they count too, whatever happens in between."""
    made = World(Ledger("n1", "n2", "n3"))
    made.memory = dict.fromkeys(("n1", "n2", "n3"), 1000)
    used: dict[tuple[ReplicaKey, AgentId], int] = {}  # a predecessor uses what it was placed with
    for (kind, value), steps in [(("deploy", first), 20), *changes]:
        match kind, value:
            case "deploy", dict():
                assert made.ledger.deploy(stack(**value)).outcome == "applied"
            case "sicken", str():
                made.sick_slots[value, 1] = "starting"
            case "heal", _:
                made.sick_slots.clear()
            case _, str():
                getattr(made.ledger, kind)(value)
        for _ in range(steps):
            made.ledger.now_ms += 10
            made.step()
            used |= {(key, item.host): memory_of(made, item) for key, item in made.state.assignments.items()}
            held = [(key, host) for key, item in made.state.assignments.items() for host in hosts_of(item)]
            for host in made.state.members:
                assert sum(used[key, at] for key, at in held if at == host) <= 1000
    made.sick_slots.clear()
    for host in made.state.drained:
        made.ledger.undrain(made.state.members[host].name)
    made.settle()
    made.ledger.remove()
    made.settle()
    made.ledger.deploy(stack(a=service(replicas=6, resources=Resources(memory_mib=500))))
    made.settle()
    assert made.phase() == "healthy", "nothing stays reserved for what has gone"
