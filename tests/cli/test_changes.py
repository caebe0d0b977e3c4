"""Commands that change: what is signed, watched, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from agent.cli import progress
from agent.client.client import LAST_FILE
from agent.errors import EXIT_DEGRADED
from agent.model.errand import ErrandFinding
from agent.model.instruction import InstructionResult, Remove, Scale
from agent.model.ledger import AssignEntry, Assignment, Phase, Slot
from agent.model.stack import Volume
from agent.model.status import MemberView
from tests.cli.conftest import Agent, Said
from tests.support.fake_node import FakeCluster, RunningNode, event
from tests.support.shop import instruct, open_shop, phase, place, seen, shop
from tests.support.waiting import wait_for


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK_EVERY_S", 0.02)
    monkeypatch.setattr(progress, "LOOK_AGAIN_S", 0.02)
    monkeypatch.setattr(progress, "EVENTS_WITHIN_S", 0.02)  # most of these tests tell none


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    """SEED's shape."""
    written = {
        "main": {
            "host": "n1.example.org",
            "user": "translator",
            "ssh_key_path": "/path/to/ssh/key",
            "docker_image": "web:1",
            "container_name": "web",
            "ports": [{"host_port": 8443, "container_port": 8443, "protocol": "tcp"}],
            "environment": {"JWT_SECRET": "main-server-secret"},
        },
        "workers": [{"docker_image": "job:1", "container_name": "job"}],
    }
    path = tmp_path / "Shop.json"
    path.write_text(json.dumps(written))
    return path


def give(plan: Path, *, host_port: int) -> None:
    written = json.loads(plan.read_text())
    written["main"]["ports"][0]["host_port"] = host_port
    plan.write_text(json.dumps(written))


def name_no_host(plan: Path) -> None:
    plan.write_text(json.dumps({"main": {"docker_image": "translator:3"}}))


async def during(command: Any, *steps: tuple[Callable[[], Any], Callable[[], object]]) -> Said:
    """Run the command; each step waits for its condition, then acts."""
    task = asyncio.ensure_future(command)
    try:
        for condition, act in steps:
            await wait_for(lambda condition=condition: task.done() or condition())  # type: ignore[misc]  # bound now
            act()
        return await asyncio.wait_for(task, 20)
    finally:
        task.cancel()


def statuses(node: RunningNode) -> int:
    """How often it was asked for the whole status."""
    return sum(record.url == "/api/v1/deployment/status" for record in node.records)


def revision(cluster: FakeCluster, stack: str = "shop") -> int:
    held = cluster.ledger.state.stacks.get(stack)
    return held.revision if held is not None else 0


async def test_a_deploy_is_watched_until_it_is_healthy(agent: Agent, running: FakeCluster, plan: Path) -> None:
    def rolled_out() -> None:
        place(running, ("web", "n1"), ("job", "n2"))
        running.ledger.report("n1", seen(running, "web"))
        running.ledger.report("n2", seen(running, "job"))
        phase(running, "healthy")

    said = await during(agent("deploy", str(plan)), (lambda: revision(running) == 1, rolled_out))
    assert said.code == 0, said
    lines = said.out.splitlines()
    assert lines[0] == "shop: accepted as revision 1"
    assert lines[-1] == "shop: healthy"
    assert lines.index("  web 1/1") < lines.index("shop: healthy")
    held = running.ledger.state.signed[running.ledger.state.stacks["shop"].deployed.digest]
    assert held.stack.services["web"].host == "n1"
    assert b"ssh_key" not in held.body
    assert b"translator" not in held.body


async def test_another_port_than_the_plans_is_told_at_the_end(agent: Agent, running: FakeCluster, plan: Path) -> None:
    give(plan, host_port=8440)

    def healthy() -> None:
        place(running, ("web", "n1"), ("job", "n2"))  # which gives 8443
        running.ledger.report("n1", seen(running, "web"))
        running.ledger.report("n2", seen(running, "job"))
        phase(running, "healthy")

    said = await during(agent("deploy", str(plan)), (lambda: revision(running) == 1, healthy))
    assert said.code == 0, said
    assert "note: web has port 8443 of n1: 8440 was taken" in said.err


async def test_a_failed_deploy_exits_3_with_its_reason(agent: Agent, running: FakeCluster, plan: Path) -> None:
    said = await during(
        agent("deploy", str(plan), "--json"),
        (lambda: revision(running) == 1, lambda: phase(running, "failed", "web.1 on n1: exit code 1")),
    )
    assert said.code == 3
    assert "exit code 1" in said.problem["detail"]
    assert "agent logs shop" in said.problem["fix"]


async def test_a_failed_deploy_shows_the_last_lines_of_what_failed(
    agent: Agent, running: FakeCluster, plan: Path
) -> None:
    reason = "web.1 on n1: ended with code 1; back to revision 1 | no such table: books | giving up"
    said = await during(
        agent("deploy", str(plan)), (lambda: revision(running) == 1, lambda: phase(running, "failed", reason))
    )
    assert said.code == 3
    assert said.out.splitlines()[-3:] == ["its last output:", "  | no such table: books", "  | giving up"]
    assert "failed: web.1 on n1: ended with code 1; back to revision 1\n" in said.err


async def test_each_phase_and_what_hosts_do_in_it_is_told(agent: Agent, running: FakeCluster, plan: Path) -> None:
    def preparing() -> None:
        looks[0] = len(running.nodes["n1"].records)
        pull = ErrandFinding(
            errand="1", kind="prepare", stack="shop", service="web", state="working", detail="3 of 7 layers"
        )
        running.ledger.report("n1", findings=(pull,))

    looks = [0]

    def looked() -> bool:
        return len(running.nodes["n1"].records) > looks[0] + 2

    def enter(name: Phase) -> Callable[[], None]:
        def act() -> None:
            looks[0] = len(running.nodes["n1"].records)
            phase(running, name)

        return act

    order: tuple[Phase, ...] = ("main", "workers", "validating", "healthy")
    said = await during(
        agent("deploy", str(plan)),
        (lambda: revision(running) == 1, preparing),
        *((looked, enter(name)) for name in order),
    )
    assert said.code == 0
    assert "  n1: prepares web: 3 of 7 layers" in said.out.splitlines()
    phases = [line for line in said.out.splitlines() if line.startswith("shop: ")]
    assert phases == ["shop: accepted as revision 1", "shop: preparing", *(f"shop: {name}" for name in order)]


async def test_json_is_the_answer_and_the_stack_at_its_end(agent: Agent, running: FakeCluster, plan: Path) -> None:
    said = await during(
        agent("deploy", str(plan), "--json"), (lambda: revision(running) == 1, lambda: phase(running, "healthy"))
    )
    assert said.code == 0
    assert said.json["result"]["outcome"] == "applied"
    assert said.json["stack"]["phase"] == "healthy"


async def test_detached_it_returns_once_it_is_accepted(agent: Agent, running: FakeCluster, plan: Path) -> None:
    said = await agent("deploy", str(plan), "--detach", "--stack", "blog")
    assert (said.code, said.out) == (0, "blog: accepted as revision 1\n")
    assert running.ledger.state.stacks["blog"].phase == "preparing"


async def test_members_are_asked_for_behind_the_change_where_a_plan_names_no_host(
    agent: Agent, running: FakeCluster, plan: Path
) -> None:
    name_no_host(plan)
    assert (await agent("deploy", str(plan), "--detach", "--via", "n1")).code == 0
    asked = [record.url for record in running.nodes["n1"].records]
    assert asked.index("/api/v1/instructions") < asked.index("/api/v1/members"), asked


async def test_a_deploy_without_a_start_ends_when_all_of_it_is_stopped(
    agent: Agent, running: FakeCluster, plan: Path
) -> None:
    said = await during(
        agent("deploy", str(plan), "--no-start"), (lambda: revision(running) == 1, lambda: phase(running, "stopped"))
    )
    assert said.code == 0, said
    assert "shop: stopped" in said.out.splitlines()
    assert running.ledger.state.stacks["shop"].stopped == {"web", "job"}


async def test_a_change_by_somebody_else_ends_the_watch(agent: Agent, running: FakeCluster, plan: Path) -> None:
    said = await during(
        agent("deploy", str(plan)),
        (
            lambda: revision(running) == 1,
            lambda: instruct(running, "scale", "stack:shop", Scale(services={"web": 2})),
        ),
    )
    assert said.code == 3
    assert "ann changed it meanwhile: it is at revision 2" in said.err


async def test_what_is_waited_for_is_told(agent: Agent, running: FakeCluster, plan: Path) -> None:
    def begun() -> None:
        place(running, ("web", "n1"), ("job", "n2"))
        running.ledger.report("n1", seen(running, "web", "pulling", "40 %"))
        running.nodes["n1"].node.tell(event(1, "shop/web.1 pulls", stack="shop"))

    said = await during(
        agent("deploy", str(plan)),
        (lambda: revision(running) == 1, begun),
        (lambda: running.nodes["n1"].server.connections, lambda: None),
        (lambda: len(running.nodes["n1"].records) > 8, lambda: phase(running, "healthy")),
    )
    assert said.code == 0
    assert "  web 0/1: 1 on n1 pulling (40 %)" in said.out.splitlines()


def change(plan: Path, labels: dict[str, str] | None = None) -> None:
    written = json.loads(plan.read_text())
    written["main"]["labels"] = labels or {}
    written["main"]["docker_image"] = "web:2"
    written["main"]["environment"]["MORE"] = "secret-too"
    written["workers"] = []
    plan.write_text(json.dumps(written))


async def test_that_workers_are_registered_is_told_though_a_status_says_healthy_sooner(
    agent: Agent, running: FakeCluster, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVENTS_WITHIN_S", 20.0)
    node = running.nodes["n1"]
    fields: dict[str, Any] = {"stack": "shop", "revision": 1}

    def healthy() -> None:
        phase(running, "healthy")
        looks[0] = statuses(node)

    def registered() -> None:
        what = "shop/job is registered with web on n1"
        node.node.tell(event(1, what, kind="replica", service="job", state="registered", **fields))
        node.node.tell(event(2, "shop is healthy", kind="phase", state="healthy", **fields))

    looks = [0]
    said = await during(
        agent("deploy", str(plan), "--via", "n1"),
        (lambda: bool(node.node.listeners) and statuses(node) > 0, healthy),
        (lambda: statuses(node) > looks[0], registered),
    )
    assert said.code == 0, said
    assert said.out.splitlines()[-2:] == ["  job is registered with web on n1", "shop: healthy"]


async def test_what_is_over_before_anybody_listens_is_not_waited_for(
    agent: Agent, running: FakeCluster, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVENTS_WITHIN_S", 60.0)
    node = running.nodes["n1"].node
    submit = node.submit

    async def over_at_once(token: str, body: bytes) -> InstructionResult:
        result = await submit(token, body)
        phase(running, "healthy")
        return result

    monkeypatch.setattr(node, "submit", over_at_once)
    said = await during(agent("deploy", str(plan), "--via", "n1"))
    assert said.code == 0, said
    lines = said.out.splitlines()
    assert lines[:2] == ["shop: accepted as revision 1", "shop: preparing"], "it was that, however short"
    assert lines[-1] == "shop: healthy"


async def test_many_events_are_one_look_and_the_end_is_looked_at_at_once(
    agent: Agent, running: FakeCluster, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOOK_AGAIN_S", 60.0)
    node = running.nodes["n1"]
    fields: dict[str, Any] = {"stack": "shop", "revision": 1}

    def happens() -> None:
        for number in range(1, 20):
            node.node.tell(event(number, "shop/web.1 starts", kind="replica", service="web", **fields))
        looks.append(statuses(node))
        phase(running, "healthy")
        node.node.tell(event(20, "shop is healthy", kind="phase", state="healthy", **fields))

    looks: list[int] = []
    said = await during(
        agent("deploy", str(plan), "--via", "n1"), (lambda: bool(node.node.listeners) and statuses(node) == 1, happens)
    )
    assert said.code == 0, said
    assert (looks, statuses(node)) == ([1], 2)


async def test_of_many_replicas_it_is_told_how_many_are_where_and_one_of_each(
    agent: Agent, running: FakeCluster
) -> None:
    def begun() -> None:
        ledger = running.ledger
        held = ledger.state.stacks["shop"]
        n2 = next(member.id for member in ledger.state.members.values() if member.name == "n2")
        made = [
            Assignment(stack="shop", service="job", slot=slot, host=n2, instruction=held.deployed)
            for slot in range(1, 51)
        ]
        ledger.propose(AssignEntry(at=ledger.now_ms(), stack="shop", revision=held.revision, assign=tuple(made)))
        job = replace(seen(running, "job", "starting"), revision=held.deployed.revision)
        bad = "ended with code 1 | no such table | giving up"
        states = [replace(job, slot=slot, state="healthy") for slot in range(1, 11)]
        states += [replace(job, slot=slot) for slot in range(11, 45)]
        states += [replace(job, slot=slot, state="backoff", reason=bad) for slot in range(45, 51)]
        ledger.report("n2", *states)

    open_shop(running)
    said = await during(
        agent("scale", "shop", "job=50"),
        (lambda: revision(running) == 2, begun),
        (lambda: len(running.nodes["n1"].records) > 12, lambda: phase(running, "healthy")),
    )
    assert said.code == 0, said
    told = "  job 10/50: 6 backoff, such as 45 on n2 (ended with code 1); 34 starting, such as 11 on n2"
    assert told in said.out.splitlines()
    assert max(map(len, said.out.splitlines())) < 120


async def test_a_dry_run_of_what_no_host_may_run_says_so_and_exits_3(
    agent: Agent, running: FakeCluster, plan: Path
) -> None:
    await asyncio.to_thread(change, plan, labels={"gpu": "yes"})
    said = await agent("deploy", str(plan), "--dry-run")
    assert said.code == 3
    assert "! web: no host may run it, so the deploy would fail: n1: label gpu=yes wanted, none there; n2: " in said.out
    assert revision(running) == 0


async def test_a_dry_run_shows_what_would_change_and_changes_nothing(
    agent: Agent, running: FakeCluster, plan: Path
) -> None:
    said = await agent("deploy", str(plan), "--dry-run")
    assert said.out.splitlines() == ["shop: revision 1", "+ job", "+ web"]
    await agent("deploy", str(plan), "--detach")
    assert (await agent("deploy", str(plan), "--dry-run")).out == "shop: exactly what is deployed\n"
    await asyncio.to_thread(change, plan)
    said = await agent("deploy", str(plan), "--dry-run")
    assert said.out.splitlines() == [
        "shop: revision 2",
        "- job",
        "~ web",
        '    image: {"ref":"web:1"} → {"ref":"web:2"}',
        '    environment: ["JWT_SECRET"] → ["JWT_SECRET","MORE"]',
    ]
    assert "secret" not in said.out.lower().replace("jwt_secret", "")
    as_json = (await agent("deploy", str(plan), "--dry-run", "--json")).json
    assert {each["service"]: each["change"] for each in as_json["services"]} == {"web": "changed", "job": "removed"}
    assert revision(running) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not valid JSON"),
        ("{}", "missing field `main`"),
        ('{"main": {}}', "docker_image"),
        ('{"main": {"docker_image": "a", "docker_image": "b"}}', "stands twice"),
        ('{"main": {"docker_image": "a", "host": "n9"}}', "n9: not members, and nobody is there"),
        ('{"main": {"host": "n9"}}', "docker_image"),
        ('{"main": {"docker_image": "a", "colour": 1}}', "colour"),
        ('{"stack": "blog", "main": {"docker_image": "a"}}', "names its stack itself: blog"),
        ("[" * 100, "deep"),
        ("x" * 1_048_577, "more than 1048576 bytes"),
    ],
)
async def test_a_bad_plan_names_the_place_and_nothing_is_signed(
    text: str, says: str, agent: Agent, running: FakeCluster, plan: Path
) -> None:
    await asyncio.to_thread(plan.write_text, text)
    said = await agent("deploy", str(plan), "--stack", "shop")
    assert said.code == 2
    assert says in said.err
    assert str(plan) in said.err or "--stack" in said.err
    assert all(node.node.submitted == [] for node in running.nodes.values())


async def test_scale_start_stop_and_restart_are_instructions(agent: Agent, running: FakeCluster) -> None:
    open_shop(running)
    assert (await agent("scale", "shop", "web=3", "job=0", "--detach")).code == 0
    assert running.ledger.state.stacks["shop"].scale == {"web": 3, "job": 0}
    assert (await agent("stop", "shop", "web", "--detach")).code == 0
    assert running.ledger.state.stacks["shop"].stopped == {"web"}
    assert (await agent("start", "shop", "--detach")).code == 0
    assert running.ledger.state.stacks["shop"].stopped == frozenset()
    assert (await agent("restart", "shop", "job", "--detach")).code == 0
    assert running.ledger.state.stacks["shop"].generations == {"job": 5}


async def test_stopping_is_done_when_the_stack_is_stopped(agent: Agent, running: FakeCluster) -> None:
    open_shop(running)
    said = await during(agent("stop", "shop"), (lambda: revision(running) == 2, lambda: phase(running, "stopped")))
    assert said.code == 0
    assert "shop: stopped" in said.out


def let_go(cluster: FakeCluster, *services: str) -> None:
    release = tuple(Slot(service=service, slot=1) for service in services)
    cluster.ledger.propose(AssignEntry(at=cluster.ledger.now_ms(), stack="shop", revision=2, release=release))


async def test_removing_is_done_when_the_stack_is_gone(agent: Agent, running: FakeCluster) -> None:
    open_shop(running)
    said = await during(
        agent("remove", "shop", "--yes"), (lambda: revision(running) == 2, lambda: let_go(running, "web", "job"))
    )
    assert said.code == 0, said
    assert "shop" not in running.ledger.state.stacks
    assert (said.out.splitlines()[-1], said.err) == ("shop: removed", "")


async def test_removing_tells_where_replicas_are_left(
    agent: Agent, running: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "REMOVAL_PATIENCE_S", 0.3)
    open_shop(running)

    def half() -> None:
        running.ledger.report("n2", seen(running, "job", "stopping", "device or resource busy"))
        let_go(running, "web")

    said = await during(agent("remove", "shop", "--yes"), (lambda: revision(running) == 2, half))
    assert said.code == EXIT_DEGRADED, said
    assert "  job: 1 left, on n2 (device or resource busy)" in said.out.splitlines()
    assert "shop: not all of it is gone yet: job: 1 left, on n2 (device or resource busy)" in said.err
    assert "removed" not in said.out


async def test_a_removal_of_which_hosts_tell_nothing_more_says_once_what_to_do(
    agent: Agent, running: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SILENCE_S", 0.0)
    open_shop(running)
    node = running.nodes["n1"]

    looks: list[int] = []

    def one_is_gone() -> None:
        running.ledger.report("n1")
        let_go(running, "web")
        looks.append(statuses(node))

    said = await during(
        agent("remove", "shop", "--volumes", "--yes", "--via", "n1"),
        (lambda: revision(running) == 2 and statuses(node) > 3, one_is_gone),
        (lambda: statuses(node) > looks[0] + 2, lambda: let_go(running, "job")),
    )
    assert (said.code, said.out.splitlines()[-1]) == (0, "shop: removed")
    advice = [line for line in said.err.splitlines() if "Ctrl-C ends this command, and not the removal." in line]
    assert [line.partition(";")[0] for line in advice] == [
        "note: n1, n2 told nothing new for 0 s",
        "note: n2 told nothing new for 0 s",
    ]
    assert "`agent doctor n1 n2`" in advice[0]


async def test_a_removal_that_only_waits_to_hear_from_hosts_names_them(
    agent: Agent, running: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where replicas that were given up before may have left volumes on them."""
    monkeypatch.setattr(progress, "REMOVAL_PATIENCE_S", 0.3)
    with_data(running, web="n1")
    running.ledger.dead.clear()
    running.ledger.report("n2")
    behind = running.ledger.reports["n2"]

    def ended() -> None:
        running.ledger.report("n1")
        running.ledger.reports["n2"] = behind

    said = await during(
        agent("remove", "shop", "--volumes", "--yes", "--via", "n1"), (lambda: revision(running) == 2, ended)
    )
    assert said.code == EXIT_DEGRADED, said
    assert "  waiting to hear from n2" in said.out.splitlines()
    assert "shop: not all of it is gone yet: waiting to hear from n2" in said.err


async def test_removing_tells_where_one_ran_that_was_moving(
    agent: Agent, running: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "REMOVAL_PATIENCE_S", 0.3)
    open_shop(running)

    def half() -> None:
        running.ledger.report("n1", seen(running, "job", "stopping"))
        let_go(running, "web")

    said = await during(agent("remove", "shop", "--yes"), (lambda: revision(running) == 2, half))
    assert "shop: not all of it is gone yet: job: 1 left, on n1" in said.err


async def test_a_removal_names_the_host_that_could_not_confirm_it(agent: Agent, running: FakeCluster) -> None:
    """Also when others take longer, and nothing of it is listed any more on that host."""
    open_shop(running)
    running.ledger.report("n1", seen(running, "web", "stopping"))
    running.ledger.dead.add("n2")

    def listed() -> bool:
        return revision(running) == 2 and statuses(running.nodes["n1"]) > 3

    command = agent("remove", "shop", "--yes", "--via", "n1")
    said = await during(command, (listed, lambda: let_go(running, "web", "job")))
    assert said.code == 0, said
    assert said.out.splitlines()[-1] == "shop: removed"
    assert said.err == "note: n2 couldn't confirm it: what runs there of shop goes once it is back\n"


DATA = (Volume(source="data", container_path="/data"),)


def with_data(cluster: FakeCluster, web: str) -> None:
    """web, which has a volume, on the host; job on n1."""
    instruct(cluster, "deploy", "stack:shop", shop(volumes=DATA))
    place(cluster, ("web", web), ("job", "n1"))
    cluster.ledger.report("n1", seen(cluster, "job", "stopping"))
    cluster.ledger.dead.add("n2")


async def test_a_removal_with_volumes_says_what_a_dead_host_still_has(agent: Agent, running: FakeCluster) -> None:
    with_data(running, web="n2")
    command = agent("remove", "shop", "--volumes", "--yes", "--via", "n1")

    def ended() -> None:
        running.ledger.report("n1")
        let_go(running, "job")

    said = await during(command, (lambda: revision(running) == 2, ended))
    assert said.code == 0, said
    assert said.out.splitlines()[-1] == "shop: removed, but for what n2 has of it"
    assert said.err.startswith("note: n2 couldn't delete its volumes: that is done once it is back")
    assert "`agent expel` it" in said.err
    assert said.err.count("note:") == 1


async def test_a_deploy_of_what_is_still_being_removed_with_its_volumes_says_what_becomes_of_them(
    agent: Agent, running: FakeCluster, plan: Path
) -> None:
    with_data(running, web="n2")
    before = await agent("deploy", str(plan), "--detach", "--via", "n1")
    assert (before.code, before.err) == (0, "")
    instruct(running, "remove", "stack:shop", Remove(delete_volumes=True))
    said = await agent("deploy", str(plan), "--detach", "--via", "n1")
    assert said.code == 0, said
    assert said.err.startswith("note: shop is still being removed, and n1, n2 may have volumes of it: this keeps them")
    assert "remove shop with --volumes again" in said.err


async def test_a_removal_with_volumes_names_dead_hosts_that_may_have_some_from_before(
    agent: Agent, running: FakeCluster
) -> None:
    with_data(running, web="n1")
    command = agent("remove", "shop", "--volumes", "--yes", "--via", "n1")
    said = await during(command, (lambda: revision(running) == 2, lambda: let_go(running, "web", "job")))
    assert said.out.splitlines()[-1] == "shop: removed"
    assert said.err.startswith("note: n2 couldn't be asked: volumes that shop has there from before stay.")


async def test_a_removal_with_volumes_waits_for_hosts_that_are_there(
    agent: Agent, running: FakeCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "REMOVAL_PATIENCE_S", 0.3)
    with_data(running, web="n2")
    said = await agent("remove", "shop", "--volumes", "--yes", "--via", "n1")
    assert said.code == EXIT_DEGRADED, said
    assert "not all of it is gone yet: job: 1 left, on n1" in said.err
    assert "web: 1 left, on n2 (its host is dead; its volumes there go once it is back)" in said.err


async def test_what_the_ledger_refuses_exits_with_its_reason(agent: Agent, running: FakeCluster) -> None:
    said = await agent("restart", "nothing", "--detach")
    assert said.code != 0
    assert said.err.startswith("error: stack:nothing: ")


async def test_an_agent_that_is_lost_while_watching_is_replaced(agent: Agent, running: FakeCluster, plan: Path) -> None:
    def lost() -> None:
        closing.append(asyncio.ensure_future(running.nodes.pop("n1").server.close()))

    closing: list[asyncio.Future[None]] = []
    (running.home.path / LAST_FILE).write_text("n1")
    said = await during(
        agent("deploy", str(plan)),
        (lambda: len(running.nodes["n1"].records) > 4, lost),
        (lambda: closing[0].done(), lambda: phase(running, "healthy")),
    )
    assert said.code == 0, said


async def given(cluster: FakeCluster, *arguments: str) -> asyncio.subprocess.Process:
    """The command as a process of its own, which signals can be sent to."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "agent",
        *arguments,
        env={**os.environ, "MUSTER_HOME": str(cluster.home.path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


async def test_ctrl_c_leaves_the_deployment_running_and_says_so(running: FakeCluster, plan: Path) -> None:
    process = await given(running, "deploy", str(plan))
    await wait_for(lambda: revision(running) == 1, 15)
    await wait_for(lambda: sum(len(node.records) for node in running.nodes.values()) > 4, 15)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 130, err
    assert b"accepted as revision 1" in out
    assert b"shop goes on without this command" in err
    assert b"Traceback" not in err
    assert running.ledger.state.stacks["shop"].phase == "preparing"


async def test_ctrl_c_lets_a_removal_go_on_and_says_so(running: FakeCluster) -> None:
    open_shop(running)
    process = await given(running, "remove", "shop", "--volumes", "--yes", "--via", "n1")
    await wait_for(lambda: revision(running) == 2 and statuses(running.nodes["n1"]) > 2, 15)
    process.send_signal(signal.SIGINT)
    out, err = await asyncio.wait_for(process.communicate(), 15)
    assert process.returncode == 130, err
    assert b"  web: 1 left, on n1" in out
    goes_on = "note: the removal of shop goes on without this command; `agent status` shows how far it is"
    assert err.decode().split("\n") == [goes_on, "", "stopped", ""], "behind the ^C that a terminal shows"


async def test_ctrl_c_when_all_is_said_already_takes_nothing_back(
    running: FakeCluster, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Members are asked for behind a change only so that the home keeps their addresses."""
    name_no_host(plan)
    node = running.nodes["n1"].node
    members = node.members

    def meanwhile() -> tuple[MemberView, ...]:
        process.send_signal(signal.SIGINT)
        return members()

    monkeypatch.setattr(node, "members", meanwhile)
    process = await given(running, "deploy", str(plan), "--detach", "--via", "n1")
    out, err = await asyncio.wait_for(process.communicate(), 15)
    assert (process.returncode, out, err) == (0, b"shop: accepted as revision 1\n", b"")
