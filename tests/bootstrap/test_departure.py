"""`bootstrap uninstall --limit` before it touches a host: what runs there moves away, then it is expelled."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from functools import partial
from pathlib import Path

import pytest

from agent.client.draining import Left
from agent.errors import Conflict, MusterError, NotAllowed
from agent.model.stack import Volume
from bootstrap.departure import Departure
from bootstrap.inventory import InventoryHost
from bootstrap.progress import Silent
from bootstrap.site import Site
from tests.support.coordinator import coordinating, deploy, on, service
from tests.support.fake_node import FakeCluster

DATA = (Volume(source="data", container_path="/data"),)


@pytest.fixture
def cluster(tmp_path: Path) -> FakeCluster:
    return FakeCluster(tmp_path, "n1", "n2", "n3", "n4", "n5")


@pytest.fixture
async def running(cluster: FakeCluster) -> AsyncIterator[FakeCluster]:
    async with cluster.running("n1", "n5"):
        yield cluster


class Leaving:
    """A departure of these hosts, and what it told and asked."""

    def __init__(self, cluster: FakeCluster, *names: str, answer: bool = True, wait_s: float = 20.0) -> None:
        self.told: list[str] = []
        self.asked: list[Left] = []
        self.answer = answer
        self.sites = {
            cluster.hosts[name].id: Site(
                host=InventoryHost(alias=name, where="hosts.txt:1", host=name),
                tell=partial(self._told, name),
            )
            for name in names
        }
        self.departure = Departure(cluster.home, Silent(), failed=self.failed, confirm=self.confirm, wait_s=wait_s)

    def _told(self, name: str, text: str) -> None:
        self.told.append(f"{name}: {text}")

    def failed(self, site: Site, error: MusterError) -> None:
        raise AssertionError(error)

    def confirm(self, left: Sequence[Left]) -> bool:
        self.asked.extend(left)
        return self.answer

    async def go(self) -> None:
        await self.departure.run(self.sites)


def acts(cluster: FakeCluster) -> list[str]:
    """What was signed so far, in order."""
    return [record.act for record in sorted(cluster.ledger.state.targets.values(), key=lambda record: record.at)]


def names(cluster: FakeCluster) -> set[str]:
    return {member.name for member in cluster.ledger.state.members.values()}


async def test_all_are_drained_before_the_first_is_expelled(running: FakeCluster) -> None:
    deploy(running, web=service(replicas=10))
    leaving = Leaving(running, "n2", "n3")
    async with coordinating(running):
        await leaving.go()
    assert names(running) == {"n1", "n4", "n5"}
    assert not running.ledger.state.drained
    assert {str(key) for key in running.ledger.state.assignments} == {f"shop/web.{slot}" for slot in range(1, 11)}
    assert all(len(moved) == 2 for moved in leaving.departure.moved.values())
    assert not any(leaving.departure.lost.values())
    assert not leaving.asked
    assert [line for line in leaving.told if line.endswith("drained")][-1:] != []
    assert leaving.told[-2:] == ["n2: expelling", "n3: expelling"]


async def test_who_cannot_move_is_asked_about_and_a_no_takes_nothing_away(running: FakeCluster) -> None:
    deploy(running, web=service(replicas=5), db=service(host="n2", volumes=DATA))
    leaving = Leaving(running, "n2", answer=False)
    async with coordinating(running):
        with pytest.raises(Conflict, match="stopped before anything was taken away"):
            await leaving.go()
    assert [item.text for item in leaving.asked] == ["shop/db.1 (pinned to n2)"]
    assert names(running) == {"n1", "n2", "n3", "n4", "n5"}
    assert not running.ledger.state.drained


async def test_after_a_yes_what_ends_with_its_host_is_told(running: FakeCluster) -> None:
    deploy(running, web=service(replicas=5), db=service(host="n2"))
    leaving = Leaving(running, "n2")
    host = running.hosts["n2"].id
    (moved,) = (replica for replica in on(running, "n2") if replica != "shop/db.1")
    async with coordinating(running):
        await leaving.go()
    assert "n2" not in names(running)
    assert [item.text for item in leaving.departure.lost[host]] == ["shop/db.1 (pinned to n2)"]
    assert leaving.departure.moved[host] == (moved,)


async def test_it_waits_no_longer_than_told(running: FakeCluster) -> None:
    deploy(running, web=service(replicas=5))
    leaving = Leaving(running, "n2", answer=False, wait_s=0.1)
    with pytest.raises(Conflict):  # nobody coordinates, so nothing moves
        await leaving.go()
    assert [item.replica for item in leaving.asked] == on(running, "n2")


async def test_the_majority_is_looked_at_before_anything_is_drained(running: FakeCluster) -> None:
    deploy(running, web=service(replicas=5))
    leaving = Leaving(running, "n2", "n3", "n4")
    with pytest.raises(NotAllowed, match="of 5 voters 2 would be left"):
        await leaving.go()
    with pytest.raises(NotAllowed):
        await leaving.departure.look(leaving.sites)
    assert not running.ledger.state.drained


async def test_a_look_tells_what_would_move_and_what_would_end(running: FakeCluster) -> None:
    deploy(running, web=service(replicas=5), db=service(host="n2", volumes=DATA))
    leaving = Leaving(running, "n2")
    before = running.ledger.state
    await leaving.departure.look(leaving.sites)
    host = running.hosts["n2"].id
    assert {*leaving.departure.moved[host], "shop/db.1"} == set(on(running, "n2"))
    assert [item.text for item in leaving.departure.lost[host]] == ["shop/db.1 (pinned to n2)"]
    assert running.ledger.state == before


async def test_hosts_that_are_no_members_are_left_alone(running: FakeCluster) -> None:
    leaving = Leaving(running)
    leaving.sites["a" * 26] = Site(
        host=InventoryHost(alias="x", where="hosts.txt:1", host="x"), tell=leaving.told.append
    )
    await leaving.go()
    assert not leaving.told
