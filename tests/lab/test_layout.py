"""Where machines stand in a lab's network."""

from __future__ import annotations

import pytest

from tests.lab.layout import MAX_HOSTS, check_lab_name, plan
from tests.lab.process import LabError


def test_hosts_are_numbered_from_one_and_addressed_from_eleven() -> None:
    assert [(node.name, node.address) for node in plan(2).nodes] == [
        ("operator", "10.77.0.2"),
        ("n1", "10.77.0.11"),
        ("n2", "10.77.0.12"),
    ]


def test_addresses_macs_and_ports_are_unique_and_interface_names_fit_the_kernel() -> None:
    layout = plan(MAX_HOSTS, behind_bastion={"n1", "n60"})
    nics = [nic for node in layout.nodes for nic in node.nics]
    for values in ([nic.address for nic in nics], [nic.mac for nic in nics], [nic.port for nic in nics]):
        assert len(set(values)) == len(nics)
    assert all(len(nic.port) <= 15 for nic in nics)


def test_every_machine_has_one_way_out_of_its_segment() -> None:
    layout = plan(3, behind_bastion={"n3"})
    assert [[nic.gateway for nic in node.nics] for node in layout.nodes] == [
        ["10.77.0.1"],
        ["10.77.0.1"],
        ["10.77.0.1"],
        ["10.77.1.3"],
        ["10.77.0.1", None],
    ]


def test_only_a_routing_bastion_gives_the_others_a_route_inside() -> None:
    apart, joined = (plan(2, behind_bastion={"n2"}, bastion_routes=routes) for routes in (False, True))
    assert [node.nics[0].routes for node in apart.hosts] == [(), ()]
    assert [node.nics[0].routes for node in joined.hosts] == [(("10.77.1.0/24", "10.77.0.3"),), ()]
    assert joined.operator.nics[0].routes == ()


@pytest.mark.parametrize(
    ("count", "options", "message"),
    [
        (0, {}, "0 hosts asked for"),
        (MAX_HOSTS + 1, {}, "1 to 60"),
        (2, {"without_docker": {"n3"}}, "options name n3, but the hosts are n1 to n2"),
        (2, {"ssh_port": {"n2": 70000}}, "ssh port of n2"),
        (2, {"behind_bastion": "n1"}, "options name 1, n"),
    ],
)
def test_impossible_labs_are_refused(count: int, options: dict[str, object], message: str) -> None:
    with pytest.raises(LabError, match=message):
        plan(count, **options)  # type: ignore[arg-type]  # options of many kinds in one table


@pytest.mark.parametrize("name", ["", "Lab", "a.b", "../x", "a\n", "1st", "a" * 21])
def test_names_that_could_not_be_told_apart_or_left_the_directory_are_refused(name: str) -> None:
    with pytest.raises(LabError, match="lab name"):
        check_lab_name(name)
