"""`agent drain` and `agent undrain`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from agent.cli.drain import _Screen
from agent.cli.options import Options
from agent.client.draining import Left, Look
from agent.model.stack import Service, Volume
from agent.model.status import HostStatus
from tests.cli.conftest import Agent
from tests.support.coordinator import coordinate, coordinating, deploy, on, service
from tests.support.fake_node import FakeCluster


def process(**fields: object) -> Service:
    return Service(runtime="process", command=("serve",), **fields)  # type: ignore[arg-type]  # Service's


@pytest.fixture
def cluster(tmp_path: Path) -> FakeCluster:
    return FakeCluster(tmp_path, "n1", "n2", "n3")


@pytest.fixture
async def running(cluster: FakeCluster) -> AsyncIterator[FakeCluster]:
    async with cluster.running("n1", "n2"):
        yield cluster


async def test_what_may_leave_does_and_it_is_told_while_it_happens(agent: Agent, running: FakeCluster) -> None:
    deploy(running, web=service(replicas=6))
    async with coordinating(running):
        said = await agent("drain", "n2", "--wait", "20s")
    assert said.code == 0, said
    lines = said.out.splitlines()
    assert lines[0] == "n2: drained (revision 1 of host n2)"
    assert lines[-1] == "n2: is empty"
    assert on(running, "n2") == []
    assert running.ledger.state.drained == {running.hosts["n2"].id}
    status = (await agent("status", "--json")).json
    assert next(host for host in status["hosts"] if host["name"] == "n2")["cordoned"] is True
    assert "drained" in (await agent("status")).out


def test_of_many_that_leave_one_after_another_one_speaks(capsys: pytest.CaptureFixture[str]) -> None:
    n2 = HostStatus(id="a" * 26, name="n2", address="192.0.2.2", role="voter", state="alive", fit=False)
    screen = _Screen(Options(), [n2])
    for moving in range(1, 10):
        waits = f"waits for shop/web.{moving} on n3 (starting)"
        behind = [Left(replica=f"shop/web.{slot}", host="n2", stays=False, why=waits) for slot in range(moving + 1, 11)]
        screen.tell(Look(over=False, left=(*behind,)))
        gone = Left(replica=f"shop/web.{moving}", host="n3", stays=False, why="starting")
        screen.tell(Look(over=False, left=(gone, *behind)))
    screen.tell(Look(over=True))
    said = capsys.readouterr().out.splitlines()
    assert [line for line in said if "on n3: starting" in line] == [
        f"  shop/web.{slot} on n3: starting" for slot in range(1, 10)
    ]
    assert len(said) < 10 + 4 * 10, "not each time for each that waits"


async def test_several_hosts_by_name_or_id_are_drained_together(agent: Agent, running: FakeCluster) -> None:
    deploy(running, web=service(replicas=6))
    async with coordinating(running):
        said = await agent("drain", "n2", running.hosts["n3"].id, "n2", "--json")
    assert (said.code, said.json["over"], said.json["left"]) == (0, True, [])
    assert [host["host"] for host in said.json["hosts"]] == ["n2", "n3"]
    assert len(on(running, "n1")) == 6


async def test_what_has_to_stay_is_named_with_exit_code_3(agent: Agent, running: FakeCluster) -> None:
    data = (Volume(source="data", container_path="/data"),)
    deploy(running, web=service(replicas=3), db=service(volumes=data), pinned=service(host="n2"))
    (db,) = (it for key, it in running.ledger.state.assignments.items() if key.service == "db")
    host = running.ledger.state.members[db.host].name
    async with coordinating(running):
        said = await agent("drain", host, "n2")
        assert said.code == 3
        assert f"  shop/db.1: stays: its volume is on {host}" in said.out.splitlines()
        assert "  shop/pinned.1: stays: pinned to n2" in said.out.splitlines()
        assert "agent undrain" in said.err
        again = await agent("drain", "n2", "--json")
        assert again.code == 3
        told = {item["replica"]: (item["stays"], item["why"]) for item in again.json["hosts"][0]["left"]}
        assert told["shop/pinned.1"] == (True, "pinned to n2")


async def test_after_the_wait_it_says_what_is_still_there_and_goes_on(agent: Agent, running: FakeCluster) -> None:
    deploy(running, web=process(replicas=2))
    began = time.monotonic()
    said = await agent("drain", "n1", "--wait", "100ms")  # nobody coordinates here
    assert time.monotonic() - began < 10
    assert said.code == 3
    assert said.out.splitlines()[-2:] == ["n1: 1 replica left there", "  shop/web.1: on its way"]
    assert "goes on without this command" in said.err


async def test_it_is_told_that_a_replica_runs_until_its_successor_is_healthy(
    agent: Agent, running: FakeCluster
) -> None:
    deploy(running, web=process())
    await agent("drain", "n1", "--detach")
    while on(running, "n1"):
        coordinate(running)
    coordinate(running, "starting")
    (moved,) = running.ledger.state.assignments.values()
    assert moved.predecessor is not None
    said = await agent("drain", "n1", "--wait", "100ms")
    there = running.ledger.state.members[moved.host].name
    assert said.code == 3
    assert f"  shop/web.1 on n1: until it is healthy on {there}" in said.out.splitlines()
    assert said.out.splitlines()[-2:] == ["n1: 1 replica left there", f"  shop/web.1: until it is healthy on {there}"]
    async with coordinating(running):
        assert (await agent("drain", "n1")).out.splitlines()[-1] == "n1: is empty"


def test_what_runs_in_one_place_at_a_time_is_not_said_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    n2 = HostStatus(id="a" * 26, name="n2", address="192.0.2.2", role="voter", state="alive", fit=False)
    alone = "it writes to /srv/data, which hosts may share"
    left = Left(replica="shop/db.1", host="n2", stays=False, why="pending", next="n3", alone=alone)
    _Screen(Options(), [n2]).tell(Look(over=False, left=(left,)))
    assert capsys.readouterr().out == f"  shop/db.1 on n2: stops, and starts on n3: {alone}\n"


async def test_a_dry_run_says_what_would_move_and_how_and_what_would_stay(agent: Agent, running: FakeCluster) -> None:
    shared = (Volume(source="/srv/data", container_path="/data"),)
    deploy(running, web=process(), db=process(volumes=shared), pinned=process(host="n1"))
    where = {str(key): item.host for key, item in running.ledger.state.assignments.items()}
    said = await agent("drain", "n1", "n2", "n3", "--dry-run")
    assert said.code == 3
    assert "  shop/web.1: starts elsewhere before it stops here" in said.out.splitlines()
    alone = "it writes to /srv/data, which hosts may share"
    assert f"  shop/db.1: stops before it starts elsewhere: {alone}" in said.out.splitlines()
    assert "  shop/pinned.1: stays: pinned to n1" in said.out.splitlines()
    told = (await agent("drain", "n1", "--dry-run", "--json")).json["hosts"]
    assert [host["host"] for host in told] == ["n1"]
    assert not running.ledger.state.drained
    assert {str(key): item.host for key, item in running.ledger.state.assignments.items()} == where


async def test_detached_it_returns_at_once(agent: Agent, running: FakeCluster) -> None:
    deploy(running, web=service(replicas=3))
    said = await agent("drain", "n2", "--detach")
    assert (said.code, said.out) == (0, "n2: drained (revision 1 of host n2)\n")
    assert on(running, "n2") == ["shop/web.2"]


async def test_an_undrained_host_is_used_again(agent: Agent, running: FakeCluster) -> None:
    deploy(running, web=service(replicas=2))
    await agent("drain", "n3", "n2", "--detach")
    said = await agent("undrain", "n3")
    assert (said.code, said.out) == (0, "n3: may be used again (revision 2 of host n3)\n")
    told = (await agent("undrain", "n2", "--json")).json
    assert (told["hosts"][0]["host"], told["hosts"][0]["result"]["outcome"]) == ("n2", "applied")
    assert not running.ledger.state.drained


@pytest.mark.parametrize(
    ("args", "code", "said"),
    [
        (("drain", "n9"), 1, "Hosts: n1, n2, n3."),
        (("undrain", "n9"), 1, "Hosts: n1, n2, n3."),
        (("drain", "n1", "n9"), 1, "n9"),
        (("drain",), 2, "HOST"),
        (("drain", "n1", "--wait", "soon"), 2, "--wait"),
    ],
)
async def test_a_mistake_drains_nothing(
    agent: Agent, running: FakeCluster, args: tuple[str, ...], code: int, said: str
) -> None:
    answer = await agent(*args)
    assert answer.code == code
    assert said in answer.err
    assert not running.ledger.state.drained


async def test_an_operator_of_some_stacks_is_told_who_can(agent: Agent, running: FakeCluster) -> None:
    state = running.ledger.state
    ann = replace(state.operators["ann"], scope="operate", stacks=("shop",))
    running.ledger.state = replace(state, operators={**state.operators, "ann": ann})
    said = await agent("drain", "n1")
    assert said.code == 5
    assert "a host's replicas are of any stack" in said.err
