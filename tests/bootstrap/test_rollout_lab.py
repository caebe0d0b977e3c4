"""Rollouts on booted hosts of which one has no engine, and between which one port is shut.

The tests are one story and run in order: each leaves the cluster as it found it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.bootstrap.desk import Desk, desk_of
from tests.lab import Lab
from tests.support.waiting import wait_for_sync

pytestmark = [pytest.mark.lab, pytest.mark.timeout(300)]

NAMES = ("n1", "n2", "n3")
IMAGE = "muster-web:demo"
PORT = 8443
WITNESS = "n3"
WEB: dict[str, Any] = {
    "docker_image": IMAGE,
    "ports": [{"host_port": PORT, "container_port": 8080}],
    "health": {"http": {"port": 8080, "path": "/health"}, "interval": "1s"},
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    if reason := Lab.unavailable():
        pytest.skip(reason)
    with (
        Lab.up(3, name=f"r{os.getpid()}", without_docker={WITNESS}) as lab,
        desk_of(lab, tmp_path_factory.mktemp("desk")) as made,
    ):
        made.write_hosts(*(f"root@{name}" for name in NAMES))
        made.install("--no-docker")
        for name in set(NAMES) - {WITNESS}:
            lab.host(name).load_image(IMAGE)
        made.wait_all_alive(NAMES)
        yield made


def deploy(desk: Desk, stack: str, service: Mapping[str, Any], *, code: int = 0) -> tuple[str, str]:
    """Deploy a stack of the one service `web`, and watch; what was said on both outputs."""
    (desk.lab.operator.home / f"{stack}.json").write_text(json.dumps({"stack": stack, "services": {"web": service}}))
    result = desk.run("agent", "deploy", f"{stack}.json", check=False)
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout, result.stderr


def replicas(desk: Desk, stack: str) -> list[dict[str, Any]]:
    found: dict[str, Any] = json.loads(desk.run("agent", "ps", stack, "--json").stdout)
    return list(found["replicas"])


# A witness


def test_a_host_without_docker_votes_and_gets_no_container(desk: Desk) -> None:
    found = desk.status()
    roles = {host["name"]: host["role"] for host in found["hosts"]}
    assert roles[WITNESS] in ("voter", "coordinator")
    assert found["quorum"]["voters"] == 3
    deploy(desk, "web", WEB | {"replicas": 4})
    placed = replicas(desk, "web")
    assert sorted(each["host"] for each in placed) == ["n1", "n1", "n2", "n2"]
    assert {each["state"] for each in placed} == {"healthy"}


def test_a_container_that_is_pinned_to_it_waits_and_says_why(desk: Desk) -> None:
    said, complaint = deploy(desk, "pinned", WEB | {"host": WITNESS}, code=3)
    assert "docker" in said + complaint
    assert WITNESS in said + complaint
    desk.run("agent", "remove", "pinned", "--yes")


def test_it_runs_process_services(desk: Desk) -> None:
    deploy(desk, "job", {"runtime": "process", "command": ["sleep", "1000"], "host": WITNESS})
    (job,) = replicas(desk, "job")
    assert (job["host"], job["state"]) == (WITNESS, "healthy")
    assert "sleep 1000" in desk.lab.host(WITNESS).run(["ps", "-eo", "args"]).stdout
    desk.run("agent", "remove", "job", "--yes")


def test_with_its_vote_the_cluster_goes_on_without_one_of_the_other_two(desk: Desk) -> None:
    host = desk.lab.host("n1")
    host.cable_out()
    try:

        def scaled() -> bool:
            return desk.run("agent", "scale", "web", "web=2", "--detach", check=False).returncode == 0

        wait_for_sync(scaled, 30, what="a change accepted by n2 and n3", interval_s=0.5)
    finally:
        host.cable_in()
    desk.wait_all_alive(NAMES)
    desk.run("agent", "remove", "web", "--yes")


# A port that is shut for one peer


def test_a_published_port_that_one_peer_cannot_reach_fails_the_validation_and_names_both(desk: Desk) -> None:
    deploy(desk, "shut", WEB | {"host": "n1"})
    source = desk.lab.host("n2").address
    hook = "type filter hook prerouting priority -300; policy accept;"
    rules = f"table inet shut {{\n chain before {{\n {hook}\n ip saddr {source} tcp dport {PORT} drop\n }}\n}}\n"
    desk.lab.host("n1").run(["nft", "-f", "-"], input=rules)
    try:
        changed = WEB | {"host": "n1", "environment": {"ROUND": "2"}}
        said, complaint = deploy(desk, "shut", changed, code=3)
        told = " ".join((said + complaint).split())
        assert f"n2 doesn't reach web.1 on n1 at port {PORT}" in told
        assert "n1 itself does, so a firewall between them is likely" in told
        assert f"`ufw allow from {source} to any port {PORT} proto tcp`" in told
        assert "n3 doesn't reach" not in told

        def look() -> dict[str, Any] | None:
            result = desk.run("agent", "doctor", "--json", check=False)
            found = json.loads(result.stdout)["findings"]
            return next((each for each in found if each["where"] == "n2 to n1"), None)

        finding = wait_for_sync(look, 30, what="the pair", interval_s=0.5)
        assert finding is not None
        assert (finding["severity"], finding["check"]) == ("error", "network")
        assert f"can't connect to shut/web.1 at port {PORT} (no answer), though n1 itself can" in finding["what"]
    finally:
        desk.lab.host("n1").run(["nft", "delete", "table", "inet", "shut"])
    deploy(desk, "shut", WEB | {"host": "n1", "environment": {"ROUND": "3"}})
    desk.run("agent", "remove", "shut", "--yes")
