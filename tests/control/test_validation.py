"""A rollout is healthy once hosts reach each other's replicas (docs/seed.md "Phase 4: validation")."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from agent.control.validation import MAX_PROBES, MIN_PROBERS, VALIDATION_DEADLINE_MS, who_asks
from agent.model.errand import Reach
from agent.model.stack import PortSpec, Service
from tests.control.test_preparation import prepared_services
from tests.control.world import World
from tests.support.ledger import Ledger, service, stack

PORT = PortSpec(host_port=8443, container_port=80)


def world(*names: str, **services: Service) -> World:
    made = World(Ledger(*names))
    made.ledger.deploy(stack(**services))
    return made


def validating(*names: str, mute: str, **services: Service) -> World:
    """At the point where the host `mute` doesn't say what it reaches."""
    made = world(*names, **services)
    while made.phase() != "validating":
        made.ledger.now_ms += 10
        assert made.step()
    made.mute.add(mute)
    made.errands = {}
    made.settle()
    assert made.phase() == "validating"
    return made


def asked(made: World) -> dict[str, set[str]]:
    """By host: the replicas that it is asked to reach."""
    return {
        made.state.members[host].name: {
            f"{slot.service}.{slot.slot}" for errand in errands if isinstance(errand, Reach) for slot in errand.slots
        }
        for host, errands in made.errands.items()
    }


def test_every_host_asks_every_published_replica() -> None:
    made = validating("n1", "n2", "n3", mute="n1", web=service(replicas=2, ports=(PORT,)), quiet=service())
    assert asked(made) == {name: {"web.1", "web.2"} for name in ("n1", "n2", "n3")}


def test_nothing_published_needs_no_validation() -> None:
    made = world("n1", web=service(ports=(PortSpec(host_port=53, container_port=53, protocol="udp"),)))
    made.mute.add("n1")
    made.unfit.clear()
    made.mute.clear()
    made.settle()
    assert made.phase() == "healthy"
    assert not prepared_services(made)


def test_a_blocked_pair_fails_it_and_is_named_with_the_rule_that_would_open_it() -> None:
    made = world("n1", "n2", "n3", web=service(host="n2", ports=(PORT,)))
    made.blocked.add(("n3", "n2"))
    made.settle()
    assert made.phase() == "failed"
    reason = made.state.stacks["shop"].reason
    assert reason.startswith("n3 doesn't reach web.1 on n2 at port 8443: no answer; n2 itself does")
    assert "`ufw allow from 192.0.2.1 to any port 8443 proto tcp`" in reason


def test_a_failed_validation_goes_back_to_what_ran() -> None:
    made = world("n1", "n2", web=service(host="n2", ports=(PORT,)))
    made.settle()
    made.blocked.add(("n1", "n2"))
    made.ledger.deploy(stack(web=service(host="n2", command=("two",), ports=(PORT,))))
    made.settle()
    assert made.phase() == "failed"
    assert made.state.stacks["shop"].reason.endswith("; back to revision 1")
    (only,) = made.state.assignments.values()
    assert only.instruction.revision == 1


def test_a_program_that_does_not_listen_is_told_from_a_firewall() -> None:
    made = world("n1", "n2", web=service(host="n2", ports=(PORT,)))
    made.blocked |= {("n1", "n2"), ("n2", "n2")}
    made.settle()
    assert "nor does n2 itself: does the program listen there" in made.state.stacks["shop"].reason


def test_its_own_host_alone_says_nothing_unless_there_is_no_other() -> None:
    made = world("n1", "n2", web=service(host="n2", ports=(PORT,)))
    made.blocked.add(("n2", "n2"))
    made.settle()
    assert made.phase() == "healthy"
    alone = world("n1", web=service(ports=(PORT,)))
    alone.blocked.add(("n1", "n1"))
    alone.settle()
    assert alone.phase() == "failed"


def closed(validation: str) -> PortSpec:
    return replace(PORT, validation=validation)


def test_a_port_that_is_closed_to_others_on_purpose_is_asked_by_its_own_host_alone() -> None:
    services = {
        "main": service(role="main", host="n1", ports=(PORT,)),
        "db": service(host="n2", ports=(closed("host"),)),
        "job": service(role="worker", host="n3", ports=(closed("host"),)),
        "probe": service(host="n3", ports=(closed("none"),)),
    }
    made = validating("n1", "n2", "n3", mute="n1", **services)
    assert asked(made) == {"n1": {"main.1"}, "n2": {"main.1", "db.1"}, "n3": {"main.1", "job.1"}}
    made.blocked |= {("n1", "n2"), ("n3", "n2"), ("n1", "n3"), ("n2", "n3")}
    made.mute.clear()
    made.settle()
    assert made.phase() == "healthy"


def test_a_closed_port_that_its_own_host_does_not_reach_fails_it() -> None:
    made = world("n1", "n2", db=service(host="n2", ports=(closed("host"),)))
    made.blocked.add(("n2", "n2"))
    made.settle()
    assert made.phase() == "failed"
    told = "n2 itself doesn't reach db.1 at port 8443: no answer; does the program listen there, on all addresses?"
    assert made.state.stacks["shop"].reason == told


def test_nothing_to_ask_about_needs_no_validation() -> None:
    made = world("n1", "n2", db=service(host="n2", ports=(closed("none"),)))
    made.blocked |= {("n1", "n2"), ("n2", "n2")}
    made.settle()
    assert made.phase() == "healthy"


def test_a_host_that_dies_meanwhile_is_not_waited_for() -> None:
    made = validating("n1", "n2", mute="n1", web=service(host="n2", ports=(PORT,)))
    made.dead["n1"] = "dead"
    made.settle()
    assert made.phase() == "healthy"


def test_a_host_that_never_answers_fails_it() -> None:
    made = validating("n1", "n2", mute="n1", web=service(host="n2", ports=(PORT,)))
    made.later(VALIDATION_DEADLINE_MS / 1000)
    made.settle()
    assert made.phase() == "failed"
    assert "n1 didn't say within" in made.state.stacks["shop"].reason


def test_the_next_coordinator_goes_on_validating() -> None:
    made = validating("n1", "n2", mute="n1", web=service(host="n2", ports=(PORT,)))
    before, made.errands = made.errands, {}
    made.settle()
    assert made.errands == before
    made.mute.clear()
    made.settle()
    assert made.phase() == "healthy"


def test_what_ended_well_is_not_asked() -> None:
    made = world("n1", job=service(ports=(PORT,), restart_policy="no", command=("job",)))
    made.sick["job", ("job",)] = "stopped"
    made.blocked.add(("n1", "n1"))
    made.settle()
    assert made.phase() == "healthy"


def test_mains_host_reaches_every_worker_also_in_a_large_cluster() -> None:
    names = [f"n{number}" for number in range(60)]
    main, worker = service(role="main", host="n7"), service(role="worker", replicas=120, ports=(PORT,))
    made = validating(*names, mute="n7", main=main, worker=worker)
    assert asked(made)["n7"] == {f"worker.{slot}" for slot in range(1, 121)}
    assert sum(map(len, asked(made).values())) <= MAX_PROBES + 2 * 120


hosts_of = st.integers(1, 40).map(lambda count: [f"h{number}" for number in range(count)])


@given(hosts_of, st.lists(st.integers(0, 45), max_size=300))
def test_who_asks_whom(hosts: list[str], numbers: list[int]) -> None:
    """Each target by its own host and by enough others, all others where there are few; nobody asks far more."""
    targets = [f"h{number}" for number in numbers]
    asks = who_asks(targets, hosts)
    assert asks.keys() == set(hosts)
    enough = max(MIN_PROBERS, MAX_PROBES // max(len(targets), 1))
    for number, own in enumerate(targets):
        asking = {host for host, some in asks.items() if number in some}
        assert (own in asking) == (own in hosts)
        others = len([host for host in hosts if host != own])
        assert len(asking - {own}) == min(others, enough)
    foreign = [sum(targets[number] != host for number in some) for host, some in asks.items()]
    spread = max(foreign, default=0) - min(foreign, default=0)
    assert spread <= 1 + max(Counter(targets).values(), default=0)


@pytest.mark.parametrize(("hosts", "replicas", "at_most"), [(1000, 1000, 3), (1000, 10_000, 30), (40, 40, 39)])
def test_what_it_costs_a_host(hosts: int, replicas: int, at_most: int) -> None:
    names = [f"h{number}" for number in range(hosts)]
    asks = who_asks([names[number % hosts] for number in range(replicas)], names)
    own = replicas // hosts
    assert max(map(len, asks.values())) <= at_most + own + 1
