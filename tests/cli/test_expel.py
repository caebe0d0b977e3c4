"""`agent expel` and `agent cancel`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.home import open_home
from agent.model.instruction import Expel, Services
from tests.cli.conftest import Agent
from tests.support.fake_node import FakeCluster
from tests.support.shop import instruct, open_shop, signed

JTI = "0123456789abcdef" * 2


@pytest.fixture
def cluster(tmp_path: Path) -> FakeCluster:
    return FakeCluster(tmp_path, "n1", "n2", "n3", "n4")


@pytest.fixture
async def running(cluster: FakeCluster) -> AsyncIterator[FakeCluster]:
    async with cluster.running("n1", "n2"):
        yield cluster


def names(cluster: FakeCluster) -> list[str]:
    return sorted(member.name for member in cluster.ledger.state.members.values())


@pytest.mark.parametrize("by", ["name", "id"])
async def test_a_host_is_expelled_for_ever(by: str, agent: Agent, running: FakeCluster) -> None:
    gone = running.hosts["n2"].id
    said = await agent("expel", "n2" if by == "name" else gone, "--reason", "stolen", "--yes")
    assert said.code == 0, said
    assert said.out == f"n2: expelled (revision 1 of member:{gone})\n"
    assert "ends once its agent hears of it" in said.err
    assert names(running) == ["n1", "n3", "n4"]
    assert gone in running.ledger.state.expelled
    home = await asyncio.to_thread(open_home, running.home.path)
    assert [member.name for member in home.cluster.members] == ["n1"]
    _, body = [sent for node in running.nodes.values() for sent in node.node.submitted][-1]
    assert b"stolen" in body


async def test_it_asks_and_a_no_changes_nothing(
    agent: Agent, running: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    unasked = await agent("expel", "n2")
    assert unasked.code == 2
    assert "--yes" in unasked.err
    asked: list[str] = []

    def answer(question: str, *, what: str, where: str) -> None:
        asked.append(question)
        raise KeyboardInterrupt

    monkeypatch.setattr("agent.cli.expel.ask", answer)
    assert (await agent("expel", "n2")).code == 130
    assert asked == [f"Expel n2 ({running.hosts['n2'].id}) from cluster lab for ever?"]
    assert names(running) == ["n1", "n2", "n3", "n4"]


async def test_the_majority_isnt_broken(agent: Agent, running: FakeCluster) -> None:
    running.ledger.dead = {"n4"}
    said = await agent("expel", "n3", "--yes")
    assert said.code == 5
    assert said.err.startswith("error: lab: of 4 voters 2 would be left, and 3 must agree for the ledger to go on\n")
    assert "Start voters that are away" in said.err
    assert names(running) == ["n1", "n2", "n3", "n4"]
    dead = await agent("expel", "n4", "--yes", "--json")
    assert dead.code == 0, "one that is lost is no part of the majority"
    assert (dead.json["host"], dead.json["result"]["outcome"]) == ("n4", "applied")


async def test_without_a_majority_it_points_to_recovery_and_not_to_waiting(agent: Agent, running: FakeCluster) -> None:
    running.ledger.dead = {"n3", "n4"}
    for host in running.nodes.values():
        host.node.leader = None
    said = await agent("expel", "n4", "--yes")
    assert said.code == 5
    assert "`agent recover --new-epoch`" in said.err
    assert "wait" not in said.err


@pytest.mark.parametrize(
    ("args", "code", "says"),
    [
        (("expel", "n9", "--yes"), 1, "Hosts: n1, n2, n3, n4."),
        (("expel", "n2", "--yes", "--reason", "x" * 513), 2, "--reason"),
        (("expel",), 2, "HOST"),
        (("cancel",), 2, "TARGET"),
        (("cancel", "shop"), 2, "Such as stack:shop"),
        (("cancel", "stack:shop", "--jti", "1"), 2, "--jti"),
    ],
)
async def test_bad_input_is_named_and_nothing_is_signed(
    args: tuple[str, ...], code: int, says: str, agent: Agent, running: FakeCluster
) -> None:
    said = await agent(*args)
    assert said.code == code, said
    assert says in said.err
    assert all(node.node.submitted == [] for node in running.nodes.values())


async def test_a_cancelled_instruction_can_never_apply(agent: Agent, running: FakeCluster) -> None:
    open_shop(running)
    open_one = signed(running, "restart", "stack:shop", Services(), rev=2)
    said = await agent("cancel", "stack:shop")
    assert said.code == 0, said
    assert said.out.startswith("stack:shop: revision 2 is taken")
    result = await running.nodes["n1"].node.submit(*open_one)
    assert (result.outcome, result.by) == ("conflict", "ann")
    assert (await agent("cancel", "operator:bob", "--jti", JTI, "--json")).json["result"]["revision"] == 1


async def test_what_has_its_answer_isnt_open(agent: Agent, running: FakeCluster) -> None:
    open_shop(running)
    done = instruct(running, "restart", "stack:shop", Services())
    said = await agent("cancel", "stack:shop", "--jti", done.jti)
    assert said.code == 1
    assert "applied as revision 2" in said.err
    refused = instruct(running, "expel", "member:" + "a" * 26, Expel())
    assert "it was refused" in (await agent("cancel", "stack:shop", "--jti", refused.jti)).err
    assert running.ledger.state.stacks["shop"].revision == 2
