"""What anybody may see, from any agent. Nothing here changes the cluster."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

from agent.model.identity import server_name
from tests.loopback.world import EXAMPLE, coordinator_of, others, replicas, request, wait_healthy
from tests.support.agents import AgentHttps, Desk
from tests.support.waiting import wait_for_sync


def test_every_agent_tells_the_same_status(web: Desk) -> None:
    told = [web.cluster.status(name) for name in web.cluster.names]
    for status in told:
        assert status.answered_by == status.coordinator, "one agent knows how all hosts are; the others ask it"
        assert not status.stale
        assert status.coordinator == told[0].coordinator
        assert (status.quorum.voters, status.quorum.reachable, status.quorum.tolerates) == (3, 3, 1)
        assert [(host.name, host.state) for host in status.hosts] == [("n1", "alive"), ("n2", "alive"), ("n3", "alive")]
        assert {slot: replica.state for slot, replica in replicas(status, "web").items()} == dict.fromkeys(
            (1, 2, 3), "healthy"
        )


def test_the_status_command_names_hosts_stacks_and_the_coordinator(web: Desk) -> None:
    shown = web.run("status").stdout
    for name in ("n1", "n2", "n3", "web", "healthy"):
        assert name in shown


def test_the_status_command_and_the_api_are_one_model(web: Desk) -> None:
    with AgentHttps(web.cluster, "n1") as agent:
        told = agent.ask("GET", "/api/v1/deployment/status", token=web.access_token()).json
    assert web.json("status").keys() == told.keys()


def test_replicas_are_spread_and_answer(web: Desk) -> None:
    placed = wait_healthy(web.cluster, "web", 3)
    assert {replica.host for replica in placed.values()} == {"n1", "n2", "n3"}
    for slot, replica in placed.items():
        assert request(web.cluster, replica) == f"hello from {replica.host} slot {slot}"


def test_logs_come_from_every_host_through_any_agent(web: Desk) -> None:
    for replica in wait_healthy(web.cluster, "web", 3).values():
        request(web.cluster, replica)
    for name in web.cluster.names:
        with AgentHttps(web.cluster, name) as agent:
            reply = agent.ask("GET", "/api/v1/stacks/web/logs", token=web.access_token())
        lines = [json.loads(line) for line in reply.body.splitlines() if line.strip()]
        assert {line["host"] for line in lines if "listening on" in line["line"]} == {"n1", "n2", "n3"}


def test_the_logs_command_shows_them_too(web: Desk) -> None:
    shown = web.run("logs", "web").stdout
    for address in ("127.0.0.1", "127.0.0.2", "127.0.0.3"):
        assert f"listening on {address}:" in shown


def test_events_tell_the_deployment(web: Desk) -> None:
    coordinator = coordinator_of(web.cluster)
    told = web.run("events", "--via", coordinator).stdout
    assert "web" in told


def test_an_access_token_reads_with_curl(web: Desk) -> None:
    name = others(web.cluster, coordinator_of(web.cluster))[0]
    member = next(member for member in web.home.cluster.members if member.name == name)
    token = web.run("token").stdout.strip()
    port = web.cluster.layout.api_port
    curl = ["curl", "--silent", "--show-error", "--cacert", str(web.home.path / "cluster.crt")]
    curl += ["--connect-to", f"::{web.cluster.address(name)}:{port}", "--header", f"Authorization: Bearer {token}"]
    url = f"https://{server_name(member.id)}:{port}/api/v1/deployment/status"
    answer = subprocess.run([*curl, url], capture_output=True, check=True, timeout=30).stdout
    assert [host["name"] for host in json.loads(answer)["hosts"]] == ["n1", "n2", "n3"]


def test_health_is_open_and_says_little(web: Desk) -> None:
    with AgentHttps(web.cluster, "n2") as agent:
        reply = agent.ask("GET", "/health")
    assert reply.status == 200
    assert reply.json["ok"] is True
    assert set(reply.json) == {"ok", "name", "coordinator", "applied", "epoch", "expelled", "agent_version"}


def test_the_api_log_is_what_the_guide_shows(web: Desk) -> None:
    with AgentHttps(web.cluster, "n3") as agent:
        agent.ask("GET", "/api/v1/services", token=web.access_token())
    log = web.cluster.agent_directory("n3") / "log" / "workers_api_communication.log"

    def told() -> list[dict[str, object]]:
        records = [json.loads(line) for line in log.read_text().splitlines()]
        return [record for record in records if record["url"] == "/api/v1/services"]

    record = wait_for_sync(told)[-1]
    assert (record["method"], record["status_code"]) == ("GET", 200)
    assert record["target_host"] == web.cluster.address("n3")


def test_the_example_is_the_one_that_the_readme_describes() -> None:
    readme = (EXAMPLE.parent / "README.md").read_text()
    for path in EXAMPLE.parent.iterdir():
        assert f"`{path.name}`" in readme or path == Path(EXAMPLE.parent / "README.md")
