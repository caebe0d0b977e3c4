"""`agent key`: made, shown once, listed, ended."""

from __future__ import annotations

from agent.instruction.api_keys import digest_of_api_key, is_api_key
from tests.cli.conftest import Agent
from tests.support.fake_node import FakeCluster


async def test_a_key_is_printed_once_and_the_ledger_has_its_digest_alone(agent: Agent, running: FakeCluster) -> None:
    said = await agent("key", "create", "grafana", "--stacks", "web-*,shop")
    made = said.out.strip()
    assert said.code == 0
    assert is_api_key(made)
    kept = running.ledger.state.api_keys["grafana"]
    assert (kept.sha256, kept.stacks) == (digest_of_api_key(made), ("web-*", "shop"))
    listed = await agent("key", "list")
    assert "grafana" in listed.out
    assert made not in listed.out
    assert (await agent("key", "revoke", "grafana")).code == 0
    assert (await agent("key", "list", "--json")).json["keys"] == []


async def test_one_that_nobody_made_cannot_be_ended(agent: Agent, running: FakeCluster) -> None:
    said = await agent("key", "revoke", "grafana")
    assert "no API key is called grafana" in said.err
    assert said.code != 0
