"""`agent recover --follow`: a home goes to the epoch that a person says; nobody is asked."""

from __future__ import annotations

import asyncio

from agent.home import open_home
from tests.cli.conftest import Agent
from tests.support.fake_node import FakeCluster


async def test_a_home_goes_to_the_epoch_that_it_is_told(agent: Agent, cluster: FakeCluster) -> None:
    said = await agent("recover", "--follow", "3")
    assert (said.code, said.out) == (0, f"{cluster.home.path}: epoch 3, before 1\n")
    assert (await asyncio.to_thread(open_home, cluster.home.path)).cluster.epoch == 3
    back = await agent("recover", "--follow", "1", "--json")
    assert back.json == {"home": str(cluster.home.path), "epoch": 1, "before": 3}


async def test_what_to_do_is_said_once(agent: Agent) -> None:
    for args in (("recover",), ("recover", "--new-epoch", "--follow", "2"), ("recover", "--follow", "0")):
        said = await agent(*args)
        assert said.code == 2, args
    for args in (("recover",), ("recover", "--new-epoch", "--follow", "2")):
        told = (await agent(*args)).err
        assert "one of --new-epoch and --follow" in told
        assert "`agent recover --new-epoch`" in told
        assert "`agent recover --follow EPOCH`" in told


async def test_following_refuses_what_belongs_to_a_new_epoch(agent: Agent, cluster: FakeCluster) -> None:
    for option in ("--lost", "--recovery-key"):
        said = await agent("recover", "--follow", "3", option, "n1")
        assert said.code == 2
        assert f"{option}: belongs to --new-epoch" in said.err
    assert (await asyncio.to_thread(open_home, cluster.home.path)).cluster.epoch == 1
