"""Ports of replicas that only some hosts reach."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from agent.doctor import diagnose
from agent.model.doctor import Connects, PublishedPort
from agent.model.ledger import AssignedPort
from agent.model.stack import PortSpec, Validation
from agent.node.driver.checkup import MAX_TRIED_PORTS, published_ports
from tests.doctor.hosts import answers, cluster, id_of, sees
from tests.support.ledger import Ledger, service, stack


def closed(connects: Connects = "silent") -> tuple[PublishedPort, ...]:
    return (PublishedPort(replica="web/web.1", host=id_of("n1"), port=8443, connects=connects),)


def test_a_port_that_is_closed_to_one_host_names_the_pair_the_replica_and_the_port() -> None:
    exams = cluster("n1", "n2", "n3")
    exams["n2"] = replace(exams["n2"], closed=closed())
    (finding,) = diagnose(answers(*exams.values()))
    assert (finding.severity, finding.check, finding.where) == ("error", "network", "n2 to n1")
    assert finding.what == "can't connect to web/web.1 at port 8443 (no answer), though n1 itself can"
    assert "On n1: `nft list ruleset`" in finding.fix
    assert "`ufw allow from 10.0.0.2 to any port 8443 proto tcp`" in finding.fix


@pytest.mark.parametrize("connects", ["refused", "silent", "no-route"])
def test_a_program_that_does_not_listen_is_no_matter_of_the_network(connects: Connects) -> None:
    exams = {name: replace(exam, closed=closed(connects)) for name, exam in cluster("n1", "n2", "n3").items()}
    assert diagnose(answers(*exams.values())) == ()


def test_a_pair_that_cannot_speak_at_all_is_one_finding() -> None:
    exams = cluster("n1", "n2", "n3")
    sees(exams, "n2", "n1", connects="silent", linked=False)
    sees(exams, "n1", "n2", connects="silent", linked=False)
    exams["n2"] = replace(exams["n2"], closed=closed())
    assert [finding.where for finding in diagnose(answers(*exams.values()))] == ["n1 and n2"]


def test_nothing_is_said_of_a_host_that_did_not_look() -> None:
    exams = cluster("n1", "n2")
    exams["n2"] = replace(exams["n2"], closed=closed())
    exams["n1"] = replace(exams["n1"], unchecked={"published ports": "took longer than 3 s"})
    assert [finding for finding in diagnose(answers(*exams.values())) if finding.check == "network"] == []


@pytest.mark.parametrize(("validation", "tried_by"), [("all", ["n1", "n2"]), ("host", ["n1"]), ("none", [])])
def test_a_port_is_tried_by_the_hosts_that_the_plan_lets_ask_it(validation: Validation, tried_by: list[str]) -> None:
    """Another one may be closed to them on purpose."""
    ledger = Ledger()
    port = PortSpec(host_port=8000, container_port=80, validation=validation)
    ledger.deploy(stack(web=service(ports=(port,))))
    given = AssignedPort(container_port=80, host_port=8000)
    ledger.assign(replace(ledger.assignment("n1"), ports=(given,)))
    tries = {name: published_ports(ledger.state, ledger.id(name)) for name in ("n1", "n2")}
    assert [name for name, ports in tries.items() if ports] == tried_by


def test_a_host_tries_its_own_replicas_first_and_no_more_than_it_has_time_for() -> None:
    ledger = Ledger()
    count = MAX_TRIED_PORTS
    ledger.deploy(stack(web=service(replicas=2 * count, ports=(PortSpec(host_port=8000, container_port=80),))))
    for host, first in (("n1", 1), ("n2", count + 1)):
        slots = (ledger.assignment(host, slot=first + number) for number in range(count))
        ports = (AssignedPort(container_port=80, host_port=8000),)
        ledger.assign(*(replace(each, ports=ports) for each in slots))
    for host in ("n1", "n2"):
        tried = published_ports(ledger.state, ledger.id(host))
        assert {each.host for each in tried} == {ledger.id(host)}
        assert len(tried) == count
