"""Drained hosts: what may run elsewhere leaves, one replica of a service after another; the rest says why it stays."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.control.progress import HEALTHY_DEADLINE_MS
from agent.model.instruction import Enrol
from agent.model.stack import PortSpec, Resources, Service, Volume
from tests.control.test_scheduler import check_placed
from tests.control.world import World, arrives
from tests.support.ledger import Ledger, member, service, stack

PORT = PortSpec(host_port=8443, container_port=8443)
DATA = (Volume(source="data", container_path="/data"),)
SLOW = ("slow",)


def world(*names: str, **services: Service) -> World:
    ledger = Ledger(*names)
    assert ledger.deploy(stack(**services)).outcome == "applied"
    made = World(ledger)
    made.settle()
    assert made.phase() == "healthy"
    made.history.clear()
    return made


def staying(made: World) -> dict[str, str]:
    return {f"{key.service}.{key.slot}": reason for key, reason in made.plan().staying.items()}


def test_replicas_leave_one_after_another_and_nothing_returns_by_itself() -> None:
    made = world(web=service(replicas=6, ports=(PORT,)))
    made.ledger.drain("n2")
    made.settle()
    assert [len(batch) for batch in made.batches()] == [1, 1]
    assert set(made.hosts_of("web").values()) == {"n1", "n3"}
    check_placed(made.state, made.facts())
    before = made.hosts_of("web")
    made.ledger.undrain("n2")
    made.settle()
    assert made.hosts_of("web") == before
    made.ledger.scale(web=7)
    made.settle()
    assert made.hosts_of("web")[7] == "n2"


def test_a_replica_leaves_a_host_whose_labels_changed() -> None:
    ledger = Ledger("n1", "n2")
    ledger.relabel("n1", disk="ssd")
    assert ledger.deploy(stack(web=service(labels={"disk": "ssd"}))).outcome == "applied"
    made = World(ledger)
    made.settle()
    assert made.hosts_of("web") == {1: "n1"}
    ledger.relabel("n2", disk="ssd")
    ledger.relabel("n1")
    made.settle()
    assert made.hosts_of("web") == {1: "n2"}
    assert made.phase() == "healthy"


def test_services_leave_side_by_side() -> None:
    made = world("n1", "n2", one=service(replicas=2), two=service(replicas=2))
    made.ledger.drain("n1")
    made.step()
    assert [sorted(key.service for key in batch) for batch in made.batches()] == [["one", "two"]]


def test_the_next_one_waits_until_the_last_is_healthy() -> None:
    made = world("n1", "n2", web=service(replicas=4, command=SLOW))
    made.ledger.drain("n1")
    made.sick["web", SLOW] = "starting"
    made.step()
    assert not made.batches()  # as the others aren't healthy themselves
    made.sick.clear()
    made.step()
    made.sick["web", SLOW] = "starting"
    assert not made.step()
    made.later(2 * HEALTHY_DEADLINE_MS / 1000)
    assert not made.step()  # nor ever: who can't start elsewhere had better not leave
    made.sick.clear()
    made.settle()
    assert set(made.hosts_of("web").values()) == {"n2"}


def test_nothing_leaves_for_a_host_that_cannot_run_it() -> None:
    made = world("n1", "n2", web=service(replicas=2))
    made.unfit["n2", "web"] = "there is no image app:1"
    made.ledger.drain("n1")
    made.settle()
    made.later(2 * HEALTHY_DEADLINE_MS / 1000)
    made.settle()
    assert not made.batches()
    assert made.phase() == "healthy"
    made.unfit.clear()
    made.settle()
    assert set(made.hosts_of("web").values()) == {"n2"}


def test_a_replica_runs_until_its_image_is_where_it_goes() -> None:
    made = world("n1", "n2", web=service())
    (host,) = made.hosts_of("web").values()
    other = "n2" if host == "n1" else "n1"
    made.pulling.add((other, "web"))
    made.ledger.drain(host)
    made.settle()
    assert made.hosts_of("web") == {1: host}
    made.pulling.clear()
    made.settle()
    assert made.hosts_of("web") == {1: other}


def test_a_host_that_has_not_reported_yet_is_waited_for_and_no_reason_to_stay() -> None:
    made = world("n1", "n2", web=service())
    (host,) = made.hosts_of("web").values()
    other = "n2" if host == "n1" else "n1"
    made.ledger.drain(host)
    made.silent = {other}
    made.settle()
    assert (made.hosts_of("web"), staying(made)) == ({1: host}, {})
    made.silent = {host}
    made.settle()
    assert (made.hosts_of("web"), staying(made)) == ({1: other}, {})


def test_the_sick_one_leaves_first() -> None:
    made = world("n1", "n2", web=service(replicas=4))
    made.ledger.drain("n1")
    last = max(slot for slot, host in made.hosts_of("web").items() if host == "n1")
    made.sick_slots["web", last] = "unhealthy"
    made.step()
    assert [[key.slot for key in batch] for batch in made.batches()] == [[last]]


def test_stopped_replicas_leave_at_once_and_in_their_order() -> None:
    """The entry is the same whatever order a set of them has: a simulated seed is one history."""
    made = world("n1", "n2", web=service(replicas=16))
    made.ledger.stop()
    made.settle()
    made.history.clear()
    made.ledger.drain("n1")
    made.step()
    (batch,) = made.batches()
    assert len(batch) == 8
    assert batch == sorted(batch)


@pytest.mark.parametrize(
    ("bound", "reason"),
    [(service(host="n2"), "pinned to n2"), (service(volumes=DATA), "its volume is on n2")],
    ids=["pin", "volume"],
)
def test_what_is_bound_to_its_host_stays_and_says_why_and_goes_on_being_updated(bound: Service, reason: str) -> None:
    made = world("n2", db=bound)
    new = member("n1")
    made.ledger.instruct("enrol", f"member:{new.id}", Enrol(member=new))
    made.ledger.drain("n2")
    made.settle()
    assert made.hosts_of("db") == {1: "n2"}
    assert staying(made) == {"db.1": reason}
    assert made.phase() == "healthy"
    made.ledger.restart()
    made.settle()
    assert (made.phase(), made.hosts_of("db"), staying(made)) == ("healthy", {1: "n2"}, {"db.1": reason})


def test_a_replica_that_fits_nowhere_else_stays_and_leaves_once_one_fits() -> None:
    made = world("n1", "n2", web=service(resources=Resources(memory_mib=4096)))
    (host,) = made.hosts_of("web").values()
    other = "n2" if host == "n1" else "n1"
    made.memory[other] = 1000
    made.ledger.drain(host)
    made.settle()
    assert staying(made) == {"web.1": f"{host}: drained; {other}: 4096 MiB wanted, 1000 MiB free"}
    assert made.phase() == "healthy"
    made.ledger.restart()
    made.settle()
    assert (made.phase(), made.hosts_of("web")) == ("healthy", {1: host})
    made.memory.clear()
    made.settle()
    assert (made.hosts_of("web"), staying(made)) == ({1: other}, {})


def test_a_global_service_leaves_too_but_for_its_last_replica() -> None:
    made = world("n1", "n2", "n3", probe=service(replicas="global"))
    made.ledger.drain("n1")
    made.ledger.drain("n2")
    made.settle()
    assert list(made.hosts_of("probe").values()) == ["n3"]
    made.ledger.drain("n3")
    made.settle()
    assert list(made.hosts_of("probe").values()) == ["n3"]
    assert list(staying(made).values()) == ["n1: drained; n2: drained; n3: drained"]
    made.ledger.undrain("n1")
    made.settle()
    assert list(made.hosts_of("probe").values()) == ["n1"]


def test_hosts_drained_together_get_nothing_of_each_other() -> None:
    made = world("n1", "n2", "n3", "n4", web=service(replicas=8))
    made.ledger.drain("n1")
    made.ledger.drain("n2")
    made.settle()
    assert sum(map(len, made.batches())) == 4  # each once
    assert set(made.hosts_of("web").values()) == {"n3", "n4"}


def test_a_deploy_meanwhile_replaces_and_moves_in_one() -> None:
    made = world("n1", "n2", web=service(replicas=4))
    made.ledger.drain("n1")
    made.ledger.deploy(stack(web=service(replicas=4, command=("two",))))
    made.settle()
    assert made.phase() == "healthy"
    assert [len(batch) for batch in made.batches()] == [1] * 4
    assert set(made.hosts_of("web").values()) == {"n2"}


def test_a_drained_host_that_dies_loses_its_replicas_like_any_other() -> None:
    made = world("n1", "n2", web=service(replicas=4), db=service(volumes=DATA))
    made.ledger.drain("n1")
    made.dead["n1"] = "dead"
    made.settle()
    assert set(made.hosts_of("web").values()) == {"n2"}
    assert not staying(made)


SERVICES = st.fixed_dictionaries(
    {
        "replicas": st.one_of(st.integers(1, 5), st.just("global")),
        "ports": st.sampled_from([(), (PORT,)]),
        "volumes": st.sampled_from([(), (), DATA]),
        "host": st.sampled_from([None, None, "n1"]),
        "role": st.sampled_from(["service", "main", "worker"]),
        "resources": st.builds(Resources, memory_mib=st.sampled_from([0, 2000])),
    }
).map(lambda fields: service(**fields))
STACKS = st.dictionaries(st.sampled_from(["a", "b"]), SERVICES, min_size=1, max_size=2)


@settings(max_examples=150, deadline=None)
@given(STACKS, st.sets(st.sampled_from(["n1", "n2", "n3", "n4"]), min_size=1), st.booleans())
def test_whatever_is_drained_at_most_one_replica_of_a_service_is_away_and_who_stays_says_why(
    services: dict[str, Service], drained: set[str], restart: bool
) -> None:
    made = World(Ledger("n1", "n2", "n3", "n4"))
    made.ledger.deploy(stack(**services))
    made.settle()
    for name in drained:
        made.ledger.drain(name)
    if restart:
        made.ledger.restart()
    for _ in range(100):
        before = made.state.assignments
        made.ledger.now_ms += 10
        if not made.step():
            break
        after = made.state.assignments
        for name, item in services.items():
            mine = [key for key in before if key.service == name]
            moved = [
                key
                for key in mine
                if key in after and after[key] != before[key] and not arrives(before[key], after[key])
            ]
            assert item.replicas == "global" or len(moved) <= 1
            assert item.replicas == "global" or all(key in after for key in mine)
        check_placed(made.state, made.facts())
    else:
        raise AssertionError("still moving after 100 steps")
    plan = made.plan()
    for key, placed in made.state.assignments.items():
        assert (made.state.members[placed.host].name in drained) == bool(plan.staying.get(key))
