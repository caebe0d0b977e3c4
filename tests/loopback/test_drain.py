"""A host is emptied before maintenance: with the operator's own commands, on real agents."""

from __future__ import annotations

import json
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.loopback.world import EXAMPLE, coordinator_of, others, replicas, request, wait_healthy, wait_status
from tests.support.agents import Desk

LONE = "lone"
STARTS_S = 2.0  # long enough that nobody overlooks an absence
PAUSE_S = 0.02  # between two requests


def lone(path: Path) -> Path:
    """The plan of one web server that is slow to start; something of the stack runs on every host, and can ask it."""
    (web,) = json.loads(EXAMPLE.read_text())["services"].values()
    slow = f"import time\ntime.sleep({STARTS_S})\n" + web["command"][-1]
    web = {**web, "replicas": 1, "command": [*web["command"][:-1], slow]}
    web["ports"] = [{"host_port": 8090, "container_port": 8080}]
    idle = {"runtime": "process", "replicas": "global", "command": ["sleep", "infinity"]}
    path.write_text(json.dumps({"stack": LONE, "services": {"web": web, "idle": idle}}))
    return path


@contextmanager
def asked(endpoints: Path) -> Iterator[dict[str, int]]:
    """All along, where the endpoints file says the web server is; the answers and failures so far, counted."""
    said: dict[str, int] = {}
    over = threading.Event()

    def ask() -> None:
        while not over.wait(PAUSE_S):
            (web,) = json.loads(endpoints.read_text())["services"]["web"]["replicas"]
            try:
                with urllib.request.urlopen(
                    f"http://{web['address']}:{web['ports'][0]['host_port']}/", timeout=5
                ) as got:
                    answer = got.read().decode().strip()
            except OSError as error:
                answer = f"failed: {error}"
            said[answer] = said.get(answer, 0) + 1

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    try:
        yield said
    finally:
        over.set()
        thread.join(10)


def test_a_service_of_one_replica_answers_all_through_a_drain(desk: Desk, tmp_path: Path) -> None:
    cluster = desk.cluster
    desk.run("deploy", str(lone(tmp_path / "plan.json")))
    web = placed(desk)
    through = others(cluster, web)[0]
    try:
        with asked(cluster.directory / through / "data" / "endpoints" / LONE / "endpoints.json") as said:
            told = desk.run("--via", through, "drain", web).stdout
            moved = placed(desk)
            assert moved != web
            assert f"lone/web.1 on {web}: until it is healthy on {moved}" in told
            assert f"{web}: is empty" in told
            before = dict(said)
            wait_status(cluster, through, lambda _: said.get(f"hello from {moved} slot 1", 0) > 50, "it answers there")
        assert [answer for answer in said if answer.startswith("failed")] == []
        assert before[f"hello from {web} slot 1"] > STARTS_S / 2 / PAUSE_S / 5, "while its successor started"
    finally:
        desk.run("undrain", web)
        desk.run("remove", LONE, "--yes")


def placed(desk: Desk) -> str:
    """Where the web server is to be."""
    (stack,) = (each for each in desk.cluster.status("n1").stacks if each.name == LONE)
    return next(service for service in stack.services if service.name == "web").replicas[0].host


def test_a_drained_host_is_empty_and_takes_part_again_when_it_is_undrained(web: Desk) -> None:
    coordinator = coordinator_of(web.cluster)
    through = others(web.cluster, coordinator)[0]
    said = web.run("--via", through, "drain", coordinator)
    try:
        assert f"{coordinator}: is empty" in said.stdout
        placed = wait_healthy(web.cluster, "web", 3, through)
        assert coordinator not in {replica.host for replica in placed.values()}
        assert all(request(web.cluster, replica) for replica in placed.values())
        status = wait_status(
            web.cluster,
            through,
            lambda status: status.coordinator is not None and status.coordinator.name != coordinator,
            "another one coordinates",
        )
        assert status.quorum.voters == 3, "a drained host goes on voting"
        drained = next(host for host in status.hosts if host.name == coordinator)
        assert (drained.cordoned, drained.fit, drained.reasons) == (True, False, ("drained",))
        web.run("scale", "web", "web=4")
        assert coordinator not in {item.host for item in replicas(web.cluster.status(through), "web").values()}
    finally:
        web.run("undrain", coordinator)
    events = web.run("--via", coordinator_of(web.cluster), "events", "--json").stdout.splitlines()
    assert any(
        json.loads(line)["what"].endswith(f"ended the drain of host {coordinator}, revision 2") for line in events
    )
    web.run("scale", "web", "web=5")
    assert coordinator in {item.host for item in wait_healthy(web.cluster, "web", 5, through).values()}
    web.run("remove", "web", "--yes")
