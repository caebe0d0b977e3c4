"""Where replicas go, and the reason for each that goes nowhere."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.control import ClusterFacts, HostFacts, Schedule, same_container, schedule
from agent.model.cluster import Member
from agent.model.ledger import AssignedPort, Assignment
from agent.model.report import PortConflict, RuntimeInfo
from agent.model.spec import ReplicaKey
from agent.model.stack import PortSpec, Resources, Service, Volume
from agent.state import ClusterState, key_of, satisfies, service_of
from tests.control.world import all_well, report
from tests.support.ledger import Ledger, member, service, stack


def hosts(state: ClusterState, plan: Schedule) -> dict[str, str]:
    return {f"{item.service}.{item.slot}": state.members[item.host].name for item in plan.assign}


def reasons(plan: Schedule) -> dict[str, str]:
    return {f"{key.service}.{key.slot}": reason for key, reason in plan.pending.items()}


def deployed(*names: str, members: tuple[Member, ...] = (), **services: Service) -> Ledger:
    ledger = Ledger(*names, members=members)
    assert ledger.deploy(stack(**services)).outcome == "applied"
    return ledger


def change(facts: ClusterFacts, ledger: Ledger, name: str, **fields: object) -> ClusterFacts:
    host = ledger.id(name)
    return replace(facts, hosts={**facts.hosts, host: replace(facts.hosts[host], **fields)})


def place(ledger: Ledger, facts: ClusterFacts | None = None) -> Schedule:
    plan = schedule(ledger.state, "shop", facts or all_well(ledger.state))
    if plan.assign:
        assert not ledger.assign(*plan.assign).ignored
    return plan


def test_replicas_spread_over_hosts() -> None:
    ledger = deployed("n1", "n2", "n3", web=service(replicas=6))
    plan = place(ledger)
    assert Counter(hosts(ledger.state, plan).values()) == {"n1": 2, "n2": 2, "n3": 2}


def test_replicas_spread_over_regions_then_zones_then_hosts() -> None:
    members = (
        member("a1", (("region", "a"), ("zone", "1"))),
        member("a2", (("region", "a"), ("zone", "1"))),
        member("a3", (("region", "a"), ("zone", "2"))),
        member("b1", (("region", "b"), ("zone", "1"))),
    )
    ledger = deployed(members=members, web=service(replicas=4))
    placed = hosts(ledger.state, place(ledger))
    assert Counter(name[0] for name in placed.values()) == {"a": 2, "b": 2}
    assert "a3" in placed.values()


def test_least_reserved_host_wins_when_spread_is_equal() -> None:
    ledger = deployed("n1", "n2", big=service(host="n1", resources=Resources(memory_mib=4096)), web=service())
    place(ledger)
    assert ledger.state.assignments[ReplicaKey(stack="shop", service="web", slot=1)].host == ledger.id("n2")


def test_a_pin_is_a_hosts_name() -> None:
    ledger = deployed("n1", "n2", web=service(host="n2", replicas=3))
    assert set(hosts(ledger.state, place(ledger)).values()) == {"n2"}


def test_labels_must_match() -> None:
    ledger = deployed(members=(member("n1", (("disk", "hdd"),)), member("n2")), web=service(labels={"disk": "ssd"}))
    plan = place(ledger)
    assert reasons(plan) == {"web.1": "n1: label disk=ssd wanted, hdd there; n2: label disk=ssd wanted, none there"}


def test_memory_is_reserved_and_the_reason_says_how_much_is_free() -> None:
    ledger = deployed("n1", web=service(replicas=2, resources=Resources(memory_mib=512)))
    facts = all_well(ledger.state, n1=report(ledger.id("n1"), memory_mib=812))
    plan = place(ledger, facts)
    assert hosts(ledger.state, plan) == {"web.1": "n1"}
    assert reasons(plan) == {"web.2": "n1: 512 MiB wanted, 300 MiB free"}


def test_cpu_is_reserved() -> None:
    ledger = deployed("n1", web=service(resources=Resources(cpu_millis=2000)))
    facts = all_well(ledger.state, n1=report(ledger.id("n1"), cpu_millis=1000))
    assert reasons(place(ledger, facts)) == {"web.1": "n1: 2000 thousandths of a CPU wanted, 1000 free"}


def test_a_runtime_that_does_not_answer_is_the_reason() -> None:
    ledger = deployed("n1", "n2", web=service())
    facts = all_well(
        ledger.state,
        n1=report(ledger.id("n1"), runtimes=(RuntimeInfo(name="docker", available=False, reason="no socket"),)),
        n2=report(ledger.id("n2"), runtimes=(RuntimeInfo(name="process", available=True),)),
    )
    assert reasons(place(ledger, facts)) == {"web.1": "n1: docker doesn't answer (no socket); n2: no docker there"}


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({"liveness": "dead", "lost": True}, "dead"),
        ({"liveness": "left"}, "left"),
        ({"liveness": "suspect"}, "not answering"),
        ({"drained": True}, "drained"),
        ({"report": None}, "hasn't reported yet"),
    ],
)
def test_a_host_that_takes_nothing_now_says_why(facts: dict[str, object], reason: str) -> None:
    ledger = deployed("n1", "n2", web=service())
    known = change(all_well(ledger.state), ledger, "n1", **facts)
    plan = schedule(ledger.state, "shop", known)
    assert hosts(ledger.state, plan) == {"web.1": "n2"}
    nobody = change(known, ledger, "n2", **facts)
    assert reasons(schedule(ledger.state, "shop", nobody)) == {"web.1": f"n1: {reason}; n2: {reason}"}


def test_a_host_that_has_not_reported_yet_is_waited_for() -> None:
    ledger = deployed("n1", "n2", web=service(), pinned=service(host="n1"))
    known = change(all_well(ledger.state), ledger, "n2", report=None, awaited=True, liveness="unknown")
    plan = schedule(ledger.state, "shop", known)
    assert hosts(ledger.state, plan) == {"pinned.1": "n1"}
    assert reasons(plan) == {"web.1": "waiting for n2 to report"}


def test_unknown_is_not_unhealthy() -> None:
    ledger = deployed("n1", "n2", web=service(replicas=2))
    place(ledger)
    known = change(all_well(ledger.state), ledger, "n2", report=None, awaited=True, liveness="unknown")
    assert schedule(ledger.state, "shop", known) == Schedule()


def test_a_lost_hosts_replica_goes_elsewhere() -> None:
    ledger = deployed("n1", "n2", "n3", web=service(replicas=3))
    place(ledger)
    gone = ledger.state.assignments[ReplicaKey(stack="shop", service="web", slot=1)].host
    name = ledger.state.members[gone].name
    plan = schedule(ledger.state, "shop", change(all_well(ledger.state), ledger, name, liveness="dead", lost=True))
    assert [item.slot for item in plan.assign] == [1]
    assert plan.assign[0].host != gone
    assert not plan.release


def test_a_pinned_replica_stays_with_its_lost_host() -> None:
    ledger = deployed("n1", "n2", web=service(host="n2"))
    lost = change(all_well(ledger.state), ledger, "n2", liveness="dead", lost=True)
    assert reasons(schedule(ledger.state, "shop", lost)) == {"web.1": "pinned to n2 (dead)"}
    place(ledger)
    plan = schedule(ledger.state, "shop", lost)
    assert (plan.assign, plan.release) == ((), ())
    assert reasons(plan) == {"web.1": "pinned to n2 (dead)"}


def test_a_named_volume_keeps_its_replica_a_path_does_not() -> None:
    for source, stays in (("data", True), ("./data", False), ("/srv/data", False)):
        ledger = deployed("n1", "n2", web=service(volumes=(Volume(source=source, container_path="/data"),)))
        place(ledger)
        name = ledger.state.members[ledger.state.assignments[ReplicaKey(stack="shop", service="web", slot=1)].host].name
        plan = schedule(ledger.state, "shop", change(all_well(ledger.state), ledger, name, liveness="dead", lost=True))
        assert bool(plan.assign) is not stays
        assert reasons(plan) == ({"web.1": f"its volume is on {name} (dead)"} if stays else {})


def test_a_pin_to_a_host_that_left_the_cluster_says_so() -> None:
    ledger = deployed("n1", "n2", web=service(host="n2"))
    gone = replace(ledger.state, members={k: v for k, v in ledger.state.members.items() if v.name != "n2"})
    assert reasons(schedule(gone, "shop", all_well(gone))) == {"web.1": "pinned to n2 (not a member)"}


def test_scaling_down_releases_the_highest_slots() -> None:
    ledger = deployed("n1", "n2", web=service(replicas=4))
    place(ledger)
    ledger.scale(web=2)
    plan = schedule(ledger.state, "shop", all_well(ledger.state))
    assert [key.slot for key in plan.release] == [3, 4]
    assert not plan.assign


def test_a_service_that_is_gone_is_released() -> None:
    ledger = deployed("n1", web=service(), old=service())
    place(ledger)
    ledger.deploy(stack(web=service()))
    assert [key.service for key in schedule(ledger.state, "shop", all_well(ledger.state)).release] == ["old"]


class TestGlobal:
    def test_one_replica_on_every_host_that_fits(self) -> None:
        members = (member("n1", (("role", "edge"),)), member("n2", (("role", "edge"),)), member("n3"))
        ledger = deployed(members=members, agent=service(replicas="global", labels={"role": "edge"}))
        assert hosts(ledger.state, place(ledger)) == {"agent.1": "n1", "agent.2": "n2"}

    def test_a_slot_number_stays_with_its_host(self) -> None:
        ledger = deployed("n2", "n3", agent=service(replicas="global"))
        place(ledger)
        before = dict(ledger.state.assignments)
        new = member("n1")
        with_new = replace(ledger.state, members={**ledger.state.members, new.id: new})
        plan = schedule(with_new, "shop", all_well(with_new))
        assert [(item.slot, item.host) for item in plan.assign] == [(3, new.id)]
        assert not plan.release
        assert ledger.state.assignments == before

    def test_a_lost_host_gives_its_slot_up(self) -> None:
        ledger = deployed("n1", "n2", agent=service(replicas="global"))
        place(ledger)
        plan = schedule(ledger.state, "shop", change(all_well(ledger.state), ledger, "n1", liveness="dead", lost=True))
        assert [key.slot for key in plan.release] == [1]
        assert not plan.assign
        assert not plan.pending

    def test_no_host_at_all_is_pending_with_reasons(self) -> None:
        ledger = deployed("n1", agent=service(replicas="global"))
        plan = schedule(ledger.state, "shop", change(all_well(ledger.state), ledger, "n1", drained=True))
        assert reasons(plan) == {"agent.1": "n1: drained"}


class TestPorts:
    WEB = PortSpec(host_port=8443, container_port=80)

    def test_the_preferred_port_then_the_next(self) -> None:
        ledger = deployed("n1", web=service(replicas=3, ports=(self.WEB,)))
        assert [item.ports[0].host_port for item in place(ledger).assign] == [8443, 8444, 8445]

    def test_two_services_on_one_host_never_share_one(self) -> None:
        ledger = deployed("n1", one=service(ports=(self.WEB,)), two=service(ports=(self.WEB,)))
        assert {item.ports[0].host_port for item in place(ledger).assign} == {8443, 8444}

    def test_the_same_number_for_tcp_and_udp_is_two_ports(self) -> None:
        ledger = deployed("n1", one=service(ports=(self.WEB, replace(self.WEB, protocol="udp"))))
        assert [port.host_port for port in place(ledger).assign[0].ports] == [8443, 8443]

    def test_a_port_that_the_host_reports_busy_is_skipped(self) -> None:
        ledger = deployed("n1", web=service(ports=(self.WEB,)))
        busy = PortConflict(stack="other", service="x", slot=1, host_port=8443)
        facts = all_well(ledger.state, n1=report(ledger.id("n1"), busy=(busy,)))
        assert place(ledger, facts).assign[0].ports[0].host_port == 8444

    def test_the_agents_own_ports_are_never_given(self) -> None:
        ledger = deployed("n1", web=service(ports=(PortSpec(host_port=9998, container_port=80),)))
        assert place(ledger).assign[0].ports[0].host_port == 10000

    def test_an_assigned_port_sticks_when_the_service_changes(self) -> None:
        ledger = deployed("n1", web=service(replicas=2, ports=(self.WEB,)))
        place(ledger)
        before = {key: item.ports for key, item in ledger.state.assignments.items()}
        ledger.deploy(stack(web=service(replicas=2, ports=(self.WEB,), command=("two",))))
        assert {key_of(item): item.ports for item in place(ledger).assign} == before

    def test_a_service_keeps_its_host_port_when_only_its_container_port_changes(self) -> None:
        ledger = deployed("n1", web=service(ports=(self.WEB,)))
        place(ledger)
        ledger.deploy(stack(web=service(ports=(replace(self.WEB, container_port=8080),))))
        assert place(ledger).assign[0].ports == (AssignedPort(container_port=8080, host_port=8443),)

    def test_a_port_that_could_not_be_bound_is_another_one_next(self) -> None:
        ledger = deployed("n1", web=service(ports=(self.WEB,)))
        place(ledger)
        busy = PortConflict(stack="shop", service="web", slot=1, host_port=8443)
        facts = all_well(ledger.state, n1=report(ledger.id("n1"), busy=(busy,)))
        plan = place(ledger, facts)
        assert plan.assign[0].ports[0].host_port == 8444
        assert schedule(ledger.state, "shop", facts) == Schedule()

    def test_a_port_that_others_failed_on_because_we_hold_it_stays_ours(self) -> None:
        ledger = deployed("n1", web=service(ports=(self.WEB,)))
        place(ledger)
        busy = PortConflict(stack="other", service="x", slot=1, host_port=8443)
        ledger.deploy(stack(web=service(ports=(self.WEB,), command=("two",))))
        plan = place(ledger, all_well(ledger.state, n1=report(ledger.id("n1"), busy=(busy,))))
        assert plan.assign[0].ports[0].host_port == 8443

    def test_no_port_left_is_the_reason(self) -> None:
        ledger = deployed("n1", web=service(ports=(PortSpec(host_port=65535, container_port=80),), replicas=2))
        assert reasons(place(ledger)) == {"web.2": "n1: no free port in 65535…65535/tcp"}


def test_same_container_ignores_where_and_how_many() -> None:
    one = service()
    assert same_container(one, replace(one, host="n1", labels={"a": "b"}, replicas=7, role="worker"))
    port = PortSpec(host_port=80, container_port=80)
    assert same_container(replace(one, ports=(port,)), replace(one, ports=(replace(port, validation="host"),)))
    assert not same_container(one, replace(one, command=("x",)))
    assert not same_container(one, replace(one, environment={"A": "1"}))


LABELS = st.sampled_from(["", "a", "b"])
MEMBERS = st.lists(st.tuples(LABELS, LABELS), min_size=1, max_size=5).map(
    lambda places: tuple(
        member(f"n{at}", tuple((k, v) for k, v in (("region", r), ("zone", z)) if v))
        for at, (r, z) in enumerate(places)
    )
)
SERVICES = st.fixed_dictionaries(
    {
        "replicas": st.one_of(st.integers(0, 6), st.just("global")),
        "labels": st.sampled_from([{}, {}, {"region": "a"}]),
        "ports": st.sampled_from(
            [(), (PortSpec(host_port=8443, container_port=80),), (PortSpec(host_port=8444, container_port=80),)]
        ),
        "resources": st.builds(Resources, memory_mib=st.sampled_from([0, 100, 300])),
        "role": st.sampled_from(["service", "main", "worker"]),
    }
).map(lambda fields: service(**fields))
STACKS = st.dictionaries(st.sampled_from(["a", "b", "c"]), SERVICES, min_size=1, max_size=3)
HOST_KINDS = st.lists(st.sampled_from(["fine", "fine", "fine", "dead", "drained", "small"]), min_size=5, max_size=5)


def facts_of(state: ClusterState, kinds: list[str]) -> ClusterFacts:
    made: dict[str, HostFacts] = {}
    for item, kind in zip(state.members.values(), kinds, strict=False):
        told = report(item.id, applied=state.index, memory_mib=250 if kind == "small" else 1000)
        made[item.id] = HostFacts(
            liveness="dead" if kind == "dead" else "alive",
            lost=kind == "dead",
            drained=kind == "drained",
            report=None if kind == "dead" else told,
        )
    return ClusterFacts(hosts=made)


def check_placed(state: ClusterState, facts: ClusterFacts) -> None:
    ports: Counter[tuple[str, str, int]] = Counter()
    memory: Counter[str] = Counter()
    for item in state.assignments.values():
        wanted = service_of(state, item)
        assert wanted is not None
        assert satisfies(state.members[item.host], wanted)
        for at in (item, item.predecessor) if item.predecessor else (item,):
            ports.update((at.host, port.protocol, port.host_port) for port in at.ports)
        memory[item.host] += wanted.resources.memory_mib
    assert all(count == 1 for count in ports.values())
    for host, reserved in memory.items():
        told = facts.of(host).report
        assert told is None or reserved <= told.resources.memory_mib


@settings(max_examples=150, deadline=None)
@given(MEMBERS, STACKS, HOST_KINDS)
def test_constraints_hold_every_slot_has_a_host_or_a_reason_and_nothing_moves_again(
    members: tuple[Member, ...], services: dict[str, Service], kinds: list[str]
) -> None:
    ledger = deployed(members=members, **services)
    facts = facts_of(ledger.state, kinds)
    plan = schedule(ledger.state, "shop", facts)
    assert plan == schedule(ledger.state, "shop", facts)  # deterministic
    for name, item in services.items():
        if item.replicas != "global":
            for slot in range(1, item.replicas + 1):
                key = ReplicaKey(stack="shop", service=name, slot=slot)
                placed = any(key_of(made) == key for made in plan.assign)
                assert placed is not bool(plan.pending.get(key))
    for made in plan.assign:
        host = facts.of(made.host)
        assert not host.lost
        assert not host.drained
    if plan.assign:
        assert not ledger.assign(*plan.assign).ignored
    check_placed(ledger.state, facts)
    again = schedule(ledger.state, "shop", facts)
    assert (again.assign, again.release) == ((), ())  # stable
    assert again.pending.keys() == plan.pending.keys()  # what is free in the reasons may have changed


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 5), st.integers(0, 17))
def test_spread_differs_by_one_at_most_among_equal_hosts(count: int, replicas: int) -> None:
    ledger = deployed(*(f"n{at}" for at in range(count)), web=service(replicas=replicas))
    placed = Counter(hosts(ledger.state, place(ledger)).values())
    counts = [placed[f"n{at}"] for at in range(count)]
    assert max(counts) - min(counts) <= 1


@settings(max_examples=100, deadline=None)
@given(MEMBERS, STACKS, STACKS, HOST_KINDS, HOST_KINDS, st.randoms())
def test_any_part_of_a_plan_can_be_carried_out_without_two_replicas_on_one_port(  # type: ignore[no-untyped-def]  # hypothesis' Random
    members: tuple[Member, ...],
    before: dict[str, Service],
    after: dict[str, Service],
    kinds: list[str],
    later: list[str],
    random,
) -> None:
    ledger = deployed(members=members, **before)
    place(ledger, facts_of(ledger.state, kinds))
    ledger.deploy(stack(**after))
    plan = schedule(ledger.state, "shop", facts_of(ledger.state, later))
    part: list[Assignment] = [item for item in plan.assign if random.random() < 0.5]
    if part:
        assert not ledger.assign(*part).ignored
    held: Counter[tuple[str, str, int]] = Counter()
    for item in ledger.state.assignments.values():
        held.update((item.host, port.protocol, port.host_port) for port in item.ports)
    assert all(count == 1 for count in held.values())
