"""What SEED.md shows its reader, on real agents: beacons on the wire, the log analysis lines, the API's own objects."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bootstrap.local import LocalCluster
from tests.loopback.world import ASKS_EVERY_S, EXAMPLE, wait_status
from tests.support.agents import AgentHttps, Desk
from tests.support.waiting import wait_for_sync

LOG = "workers_api_communication.log"
COUNT = f"jq -r '.status_code' {LOG} | sort | uniq -c"
AVERAGE = (
    f"""jq -r '.duration | sub("ms"; "") | tonumber' {LOG} | """
    """awk '{sum+=$1; count++} END {print sum/count "ms"}'"""
)
SLOW = f"""jq 'select((.duration | rtrimstr("ms") | tonumber) > 1000)' {LOG}"""
needs_jq = pytest.mark.skipif(shutil.which("jq") is None, reason="jq isn't installed (Debian has it)")
needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl isn't installed (Debian has it)")
BEACON_KEYS = ["service_id", "type", "host", "port", "protocol", "capabilities", "timestamp"]


@pytest.fixture
def air(cluster: LocalCluster) -> Iterator[socket.socket]:
    """Hears what agents broadcast, as anybody on the network does."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        heard.bind(("127.255.255.255", cluster.layout.discovery_port))
        heard.settimeout(0.1)
        yield heard


@pytest.fixture
def translator(desk: Desk, tmp_path: Path) -> Iterator[str]:
    """SEED's shape: a main and a worker, as plain processes."""
    web: dict[str, Any] = json.loads(EXAMPLE.read_text())["services"]["web"]
    web.pop("replicas", None)

    def instance(name: str, port: int) -> dict[str, Any]:
        return web | {"container_name": name, "ports": [web["ports"][0] | {"host_port": port}]}

    plan = {
        "stack": "translator",
        "main": instance("translator-main", 8443),
        "workers": [instance("translator-worker-1", 8444)],
    }
    path = tmp_path / "translator.json"
    path.write_text(json.dumps(plan))
    yield str(path)
    desk.run("remove", "translator", "--yes")


def listen(air: socket.socket, into: dict[str, dict[str, Any]]) -> None:
    """What is in the socket now, the newest beacon by service id; everything must be SEED's JSON."""
    deadline = time.monotonic() + 0.1
    while time.monotonic() < deadline:
        try:
            data = air.recv(65536)
        except TimeoutError:
            return
        beacon = json.loads(data.decode("utf-8"))
        assert list(beacon) == BEACON_KEYS
        into[beacon["service_id"]] = beacon


def test_beacons_are_seeds_json_one_for_each_agent_and_instance(
    desk: Desk, air: socket.socket, translator: str
) -> None:
    heard: dict[str, dict[str, Any]] = {}
    desk.run("deploy", translator)
    instances = {"translator-main": "coordinator", "translator-worker-1": "worker"}

    def told() -> bool:
        listen(air, heard)
        return instances.keys() <= heard.keys() and all(
            heard[name]["capabilities"]["status"] == "healthy" for name in instances
        )

    def complete() -> bool:
        listen(air, heard)
        return {*desk.cluster.names} <= heard.keys()

    # A change is told at once; an agent where nothing changed is heard with its round, every 30 s.
    wait_for_sync(told, 20, what="beacons of all instances")
    wait_for_sync(complete, 40, what="beacons of all agents")
    for name, type_ in instances.items():
        assert heard[name]["type"] == type_
        assert heard[name]["capabilities"].keys() >= {"container_id", "status", "version"}
    status = desk.json("status")
    for name, instance in status["instances"].items():
        if name in instances:
            assert (heard[name]["host"], heard[name]["port"]) == (instance["host"], instance["port"])
    for name in desk.cluster.names:
        assert heard[name]["type"] == "unknown"
        assert heard[name]["port"] == desk.cluster.layout.api_port


def test_network_services_counts_the_services_whose_beacons_are_live(
    desk: Desk, air: socket.socket, translator: str
) -> None:
    desk.run("deploy", translator)
    # Services of tests before this one stay for 90 s; whoever answers has heard the same, and counts its own too.
    for through in desk.cluster.names:
        wait_status(
            desk.cluster,
            through,
            lambda status: status.network_services >= len(desk.cluster.names) + 2,
            "three agents and two instances",
        )


def shell(line: str, directory: Path) -> str:
    """A line of SEED's, as it stands there."""
    done = subprocess.run(["sh", "-c", line], cwd=directory, capture_output=True, text=True, timeout=20, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@needs_jq
def test_seeds_log_analysis_lines_run_as_they_stand(desk: Desk) -> None:
    with AgentHttps(desk.cluster, "n1") as api:
        assert api.ask("GET", "/health").status == 200
        assert api.ask("GET", "/api/v1/members").status == 401
    log = next(desk.cluster.directory.glob(f"n1/**/{LOG}"))
    wait_for_sync(lambda: '"status_code":401' in log.read_text(), what="the line of the request")
    counts = {int(status): int(count) for count, status in map(str.split, shell(COUNT, log.parent).splitlines())}
    assert counts[401] >= 1
    assert counts[200] >= 1
    assert float(shell(AVERAGE, log.parent).removesuffix("ms\n")) > 0


@needs_jq
def test_the_corrected_slow_requests_line_finds_what_took_longer_than_a_second(tmp_path: Path) -> None:
    durations = ["150ms", "999.9ms", "1000.001ms", "12000ms"]
    (tmp_path / LOG).write_text("".join(json.dumps({"duration": text}) + "\n" for text in durations))
    found = shell(f"{SLOW} | jq -r .duration", tmp_path)
    assert found.split() == ["1000.001ms", "12000ms"]


def test_the_log_page_has_these_lines() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api-log.md").read_text()
    assert all(line in page.splitlines() for line in (COUNT, AVERAGE, SLOW))


def test_the_api_answers_seeds_objects(desk: Desk, translator: str) -> None:
    desk.run("deploy", translator)
    token = desk.access_token()
    with AgentHttps(desk.cluster, "n1") as api:
        status = api.ask("GET", "/api/v1/deployment/status", token=token).json
        stats = api.ask("GET", "/api/v1/deployment/api-stats", token=token).json
        added = api.ask(
            "POST",
            "/api/v1/deployment/workers",
            token=token,
            body=b'{"host": "new-worker.example.com", "user": "translator", "ssh_key_path": "/path/to/key"}',
        )
    assert status.keys() >= {"instances", "network_services", "api_requests_total", "health_score"}
    assert status["health_score"] == 100
    assert status["instances"]["translator-main"].keys() >= {"host", "port", "status", "container_id", "last_seen"}
    assert stats.keys() == {"total_requests", "total_responses", "error_count", "avg_duration", "requests_by_endpoint"}
    assert stats["avg_duration"].endswith("ms")
    assert stats["total_requests"] == sum(stats["requests_by_endpoint"].values()) >= stats["total_responses"]
    assert added.status == 403
    assert "agent invite translator@new-worker.example.com --ssh-key-path /path/to/key" in added.json["fix"]


ASKING = (Path(__file__).parents[2] / "docs" / "api.md").read_text().partition("## Asking with curl")[2]
ADD_WORKER = """\
curl -X POST https://main-server:8443/api/v1/deployment/workers \\
  -H "Content-Type: application/json" \\
  -d '{
    "host": "new-worker.example.com",
    "user": "translator",
    "ssh_key_path": "/path/to/key"
  }'"""


@needs_curl
def test_curl_asks_as_the_api_page_says(desk: Desk, translator: str) -> None:
    desk.run("deploy", translator)
    line = next(block for block in ASKING.split("```") if "curl --cacert" in block)
    line = line[line.index("curl") :].replace("$(agent token)", "$TOKEN")
    for path, keys in {
        "deployment/status": {"instances", "network_services", "api_requests_total", "health_score"},
        "deployment/api-stats": {"total_requests", "total_responses", "error_count", "requests_by_endpoint"},
    }.items():
        assert "/api/v1/members" in line
        found = json.loads(curl(desk, line.replace("/api/v1/members", f"/api/v1/{path}")))
        assert found.keys() >= keys


@needs_curl
def test_seeds_requests_by_curl_are_answered(desk: Desk, translator: str) -> None:
    desk.run("deploy", translator)
    assert json.loads(curl(desk, "curl -k https://127.0.0.1:9999/health"))["ok"] is True
    refused = json.loads(curl(desk, "curl -k https://127.0.0.1:9999/api/v1/deployment/status"))
    assert (refused["status"], "agent token" in refused["fix"]) == (401, True)
    # As it stands there, but for where it goes to and a token; what a host's enrolment takes, the answer says.
    line = ADD_WORKER.replace("https://main-server:8443", '-k -H "Authorization: Bearer $TOKEN" https://127.0.0.1:9999')
    refused = json.loads(curl(desk, line))
    assert refused["status"] == 403
    assert "agent invite translator@new-worker.example.com --ssh-key-path /path/to/key" in refused["fix"]


def curl(desk: Desk, line: str) -> str:
    """What a line says that is run as it stands, but for the port."""
    home = desk.home
    variables = {"MUSTER_HOME": str(home.path), "AGENT": home.cluster.members[0].id, "TOKEN": desk.access_token()}
    address = f"{desk.cluster.address(home.cluster.members[0].name)}:{desk.cluster.layout.api_port}"
    done = subprocess.run(
        ["sh", "-c", line.replace("127.0.0.1:9999", address).replace("curl ", "curl -sS ", 1)],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_a_failed_deploy_names_the_replica_and_leaves_what_ran_before(
    desk: Desk, translator: str, tmp_path: Path
) -> None:
    desk.run("deploy", translator)
    before = desk.json("status")["instances"]["translator-main"]
    plan = json.loads(Path(translator).read_text())
    plan["workers"][0] |= {"command": ["python3", "-c", "raise SystemExit('no such table: books')"]}
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(plan))
    assert "translator-worker-1.1" in desk.run("deploy", str(broken), code=3).stderr
    stack = next(stack for stack in desk.json("status", code=None)["stacks"] if stack["name"] == "translator")
    assert stack["phase"] == "failed"

    def healthy() -> bool:
        found = desk.json("status", code=None)["instances"]
        return bool(found["translator-worker-1"]["status"] == "healthy")

    wait_for_sync(healthy, 30, what="the worker of the plan before", interval_s=ASKS_EVERY_S)
    after = desk.json("status", code=None)["instances"]["translator-main"]
    assert after["container_id"] == before["container_id"], "what didn't change is never touched"
    assert "already: revision" in desk.run("rollback", "translator", code=1).stderr
