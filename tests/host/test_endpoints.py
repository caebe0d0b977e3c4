"""What a stack's programs read about where its replicas are."""

from __future__ import annotations

import json
from typing import Any

from msgspec.structs import replace

from agent.host.desired import HostContext, desired
from agent.host.endpoints import endpoints_of
from agent.model.ledger import AssignedPort, LevelEntry
from agent.model.stack import PortSpec
from agent.state import STATE_LEVEL, predecessor_of
from tests.support.ledger import Ledger, service, stack

PORT = PortSpec(host_port=8443, container_port=80)


def shop() -> Ledger:
    ledger = Ledger("n1", "n2")
    job = service(runtime="process", image=None, command=("job", "${MUSTER_ENDPOINTS}"), role="worker")
    ledger.deploy(stack(web=service(role="main", ports=(PORT,)), job=job))
    web = replace(ledger.assignment("n2"), ports=(AssignedPort(container_port=80, host_port=8444),))
    ledger.assign(web, ledger.assignment("n1", "job"))
    return ledger


def read(ledger: Ledger) -> Any:
    return json.loads(endpoints_of(ledger.state, "shop"))


def test_it_names_every_replica_with_where_it_is_reached() -> None:
    found = read(shop())
    assert (found["version"], found["stack"], found["revision"]) == (1, "shop", 1)
    assert found["services"]["web"] == {
        "role": "main",
        "replicas": [
            {
                "slot": 1,
                "host": "n2",
                "address": "192.0.2.1",
                "ports": [{"container_port": 80, "host_port": 8444}],
            }
        ],
    }


def test_one_that_moves_is_where_it_was_until_its_successor_is_healthy() -> None:
    ledger = shop()
    ledger.propose(LevelEntry(at=ledger.now_ms, level=STATE_LEVEL))
    (web,) = (item for item in ledger.state.assignments.values() if item.service == "web")
    moved = replace(web, host=ledger.id("n1"), predecessor=predecessor_of(web))
    before = read(ledger)
    assert not ledger.assign(moved).ignored
    assert read(ledger) == before
    assert not ledger.assign(replace(moved, predecessor=None)).ignored
    (found,) = read(ledger)["services"]["web"]["replicas"]
    assert found["host"] == "n1"


def test_a_stopped_service_is_not_in_it() -> None:
    ledger = shop()
    ledger.stop("web")
    assert read(ledger)["services"].keys() == {"job"}


def test_a_host_keeps_it_for_the_stacks_that_it_runs_and_names_it_to_their_replicas() -> None:
    ledger = shop()
    context = HostContext(address="192.0.2.1", endpoints="/data/endpoints")
    wanted = desired(ledger.state, ledger.id("n1"), context)
    assert wanted.endpoints == {"shop": endpoints_of(ledger.state, "shop")}
    (job,) = wanted.specs
    assert job.facts["MUSTER_ENDPOINTS"] == "/data/endpoints/shop/endpoints.json"
    (web,) = desired(ledger.state, ledger.id("n2"), context).specs
    assert web.facts["MUSTER_ENDPOINTS"] == "/run/muster/endpoints.json"


def test_another_replica_elsewhere_changes_the_file_and_no_container() -> None:
    ledger = shop()
    context = HostContext(address="192.0.2.1", endpoints="/data/endpoints")
    before = desired(ledger.state, ledger.id("n1"), context)
    ledger.scale(web=2)
    second = replace(ledger.assignment("n2", slot=2), ports=(AssignedPort(container_port=80, host_port=8445),))
    ledger.assign(second)
    after = desired(ledger.state, ledger.id("n1"), context)
    assert after.endpoints != before.endpoints
    assert [spec.hash for spec in after.specs] == [spec.hash for spec in before.specs]
