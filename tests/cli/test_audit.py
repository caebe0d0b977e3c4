"""`agent audit`: who changed what, and whether the voters have the same past."""

from __future__ import annotations

from msgspec.structs import replace

from agent.api.parameters import MAX_AUDIT_LINES
from agent.model.audit import AuditGap, AuditLine
from tests.cli.conftest import Agent
from tests.support.fake_node import FakeCluster


def line(index: int, target: str = "stack:shop", **fields: object) -> AuditLine:
    known = {
        "index": index,
        "at": "2024-01-15T10:30:00Z",
        "act": "deploy",
        "target": target,
        "revision": index - 1,
        "by": "ann",
        "via": "n1",
        "outcome": "applied",
        "what": "",
        "digest": "0" * 64,
        "jti": "0" * 32,
    }
    return AuditLine(**(known | fields))  # type: ignore[arg-type]  # AuditLine's


async def test_the_log_names_when_who_and_what(agent: Agent, running: FakeCluster) -> None:
    past = running.nodes["n1"].node.past
    past.lines = [line(2), line(3, "operator:ci", act="grant", outcome="refused", what="no such key")]
    said = await agent("audit", "log")
    assert said.out.splitlines() == [
        "2024-01-15T10:30:00Z  ann deploy stack:shop revision 1",
        "2024-01-15T10:30:00Z  ann grant operator:ci revision 2: refused, no such key",
    ]
    assert past.asked == [("ann", None)]


async def test_what_the_host_does_not_keep_is_told_in_its_place(agent: Agent, running: FakeCluster) -> None:
    past = running.nodes["n1"].node.past
    past.lines, past.gaps = [line(2), line(9)], (AuditGap(after=2, through=8), AuditGap(after=9, through=11))
    said = await agent("audit", "log")
    assert said.code == 0
    assert len(said.out.splitlines()) == 2
    assert [text.partition(",")[0] for text in said.err.splitlines()] == [
        "note: n1 doesn't keep entries 3 to 8",
        "note: n1 doesn't keep entries 10 to 11",
    ]


async def test_it_is_read_page_after_page(agent: Agent, running: FakeCluster) -> None:
    running.nodes["n1"].node.past.lines = [line(index) for index in range(2, 2 * MAX_AUDIT_LINES + 5)]
    said = await agent("audit", "log", "--json")
    assert len(said.out.splitlines()) == 2 * MAX_AUDIT_LINES + 3


async def test_one_target_alone(agent: Agent, running: FakeCluster) -> None:
    running.nodes["n1"].node.past.lines = [line(2), line(3, "stack:blog")]
    assert len((await agent("audit", "log", "--target", "stack:blog")).out.splitlines()) == 1
    assert (await agent("audit", "log", "--target", "blog")).code == 2


async def test_voters_with_the_same_past_verify(agent: Agent, running: FakeCluster) -> None:
    node = running.nodes["n2"].node
    node.past.proof = replace(node.past.proof, name="n2", last=9, gaps=(AuditGap(after=3, through=5),))
    said = await agent("audit", "verify")
    assert said.code == 0
    assert "n1: entries 2 to 2 in 1 segments: whole" in said.out
    assert "  not kept here: entries 4 to 5" in said.out
    assert "2 of 2 voters have the same past up to entry 2" in said.out


async def test_one_that_differs_is_named(agent: Agent, running: FakeCluster) -> None:
    node = running.nodes["n2"].node
    node.past.proof = replace(node.past.proof, name="n2", broken="x.audit is damaged behind entry 4")
    said = await agent("audit", "verify")
    assert said.code == 3
    assert "n2: entries 2 to 2 in 1 segments: x.audit is damaged behind entry 4" in said.out
    node.past.proof = replace(node.past.proof, chain="cd" * 32, broken="")
    said = await agent("audit", "verify", "--json")
    assert said.code == 3
    assert said.json["ok"] is False


async def test_who_keeps_nothing_says_nothing(agent: Agent, running: FakeCluster) -> None:
    for name in ("n1", "n2"):
        node = running.nodes[name].node
        node.past.proof = replace(node.past.proof, entries=0)
    said = await agent("audit", "verify")
    assert said.code == 4
