"""Many operators at once: every change is accepted or refused by its revision, none is lost, nothing is left over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.client import Client, home_client
from agent.errors import Conflict
from agent.formats.plan import decode_plan
from agent.formats.resolve import resolve
from agent.home import open_home
from agent.model.instruction import Remove
from agent.model.stack import Stack
from agent.model.status import StackStatus, Status
from tests.loopback.world import pids_below, wait_status
from tests.support.agents import Desk
from tests.support.waiting import wait_for_sync

OPERATORS = 5
STACKS = 10
NAMES = tuple(f"s{number}" for number in range(STACKS))
PLAN = """{"stack": "%s", "services": {"idler": {"runtime": "process", "command": ["sleep", "3600"],
           "environment": {"DEPLOYED_BY": "%s"}}}}"""


@dataclass(frozen=True)
class Accepted:
    """The revision that an operator's deploy took, and what it was told each time that somebody was faster."""

    stack: str
    operator: str
    revision: int
    refusals: tuple[str, ...]


@pytest.fixture
def operators(desk: Desk, tmp_path: Path) -> Iterator[list[Path]]:
    """Homes of operators with keys of their own, who may deploy."""
    homes = []
    for number in range(1, OPERATORS + 1):
        name, home = f"op{number}", tmp_path / f"op{number}"
        home.mkdir(mode=0o700)
        public = desk.run("operator", "key", "--name", name, "--output", str(home / "operator.key")).stdout.split()[-1]
        for file in ("cluster.json", "cluster.crt"):
            (home / file).write_bytes((desk.cluster.home / file).read_bytes())
        desk.run("operator", "grant", name, "--key", public, "--scope", "deploy")
        homes.append(home)
    yield homes
    for home in homes:
        desk.run("operator", "revoke", home.name)


def stack_of(name: str, operator: str) -> Stack:
    """One process that does nothing, and says who wanted it."""
    return resolve(decode_plan((PLAN % (name, operator)).encode()), stack_name=name, pin=lambda _: None)


async def deploy_all(home: Path, through: str) -> list[Accepted]:
    """Every stack at once, by one operator with one client, on top of whoever was faster."""

    async def deploy(client: Client, name: str) -> Accepted:
        refusals: list[str] = []
        while True:
            try:
                result = await client.submit("deploy", f"stack:{name}", stack_of(name, home.name))
            except Conflict as error:
                refusals.append(error.what)
            else:
                return Accepted(name, home.name, result.revision, tuple(refusals))

    async with home_client(open_home(home), via=through) as client:
        return await asyncio.gather(*(deploy(client, name) for name in NAMES))


async def deploy_by_everybody(homes: list[Path], agents: Sequence[str]) -> list[Accepted]:
    """Each through another agent."""
    each = (deploy_all(home, agents[number % len(agents)]) for number, home in enumerate(homes))
    return [accepted for some in await asyncio.gather(*each) for accepted in some]


async def remove_all(home: Path) -> None:
    async with home_client(open_home(home)) as client:
        await asyncio.gather(*(client.submit("remove", f"stack:{name}", Remove()) for name in NAMES))


def ours(status: Status) -> dict[str, StackStatus]:
    """This test's stacks."""
    return {stack.name: stack for stack in status.stacks if stack.name in NAMES}


def test_fifty_deploys_of_ten_stacks_by_five_operators_at_once(desk: Desk, operators: list[Path]) -> None:
    cluster, before = desk.cluster, pids_below(desk.cluster.directory)
    deploys = asyncio.run(deploy_by_everybody(operators, cluster.names))

    # Each is accepted exactly once, at a revision of its own; who was slower was told who was faster.
    newest: dict[str, str] = {}
    for name in NAMES:
        by_revision = {deploy.revision: deploy.operator for deploy in deploys if deploy.stack == name}
        assert sorted(by_revision) == list(range(1, OPERATORS + 1))
        assert set(by_revision.values()) == {home.name for home in operators}
        newest[name] = by_revision[OPERATORS]
    refusals = [told for deploy in deploys for told in deploy.refusals]
    assert refusals, "nobody met anybody, so this shows nothing"
    assert all("changed by op" in told for told in refusals)

    # None is lost: the last one of each stack is what every agent tells and what runs, and nothing else does.
    for agent in cluster.names:
        status = wait_status(cluster, agent, lambda status: _all_healthy(ours(status)), "all stacks are healthy")
        assert {name: stack.changed_by for name, stack in ours(status).items()} == newest
        assert {stack.revision for stack in ours(status).values()} == {OPERATORS}
    wait_for_sync(lambda: len(pids_below(cluster.directory) - before) == STACKS, what="one process for each stack")

    asyncio.run(remove_all(operators[0]))
    wait_status(cluster, "n1", lambda status: not ours(status), "all are removed")
    wait_for_sync(lambda: pids_below(cluster.directory) == before, what="nothing is left of them")


def _all_healthy(stacks: dict[str, StackStatus]) -> bool:
    return len(stacks) == STACKS and all(stack.phase == "healthy" for stack in stacks.values())
