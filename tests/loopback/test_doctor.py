"""`agent doctor` with real agents: all is well, one is dead, nobody has a majority, nobody is there."""

from __future__ import annotations

import os
import signal
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bootstrap.local import LocalCluster
from tests.loopback.world import ASKS_EVERY_S, READY_TIMEOUT_S
from tests.support.agents import AgentHttps, Desk
from tests.support.waiting import wait_for_sync

MOST_S = 10.0  # nobody waits longer, with dead hosts too; a busy machine starts the command slowly


def look(desk: Desk, *arguments: str) -> dict[str, Any]:
    document: dict[str, Any] = desk.json("doctor", *arguments, code=None)
    return document


def network(document: dict[str, Any]) -> list[str]:
    return [f["where"] for f in document["findings"] if f["check"] in ("network", "ports", "ledger")]


def test_a_cluster_that_is_well_reaches_itself_both_ways(desk: Desk) -> None:
    document = look(desk)
    assert network(document) == [], document["findings"]
    assert [host["host"] for host in document["hosts"]] == ["n1", "n2", "n3"]
    for host in document["hosts"]:
        exam = host["examination"]
        assert {use["held_by"] for use in exam["ports"]} == {"agent"}
        assert len(exam["ports"]) == 4
        assert all(peer["connects"] == "yes" and peer["heard_udp"] for peer in exam["peers"])
        assert len(exam["syncs_ms"]) == 5
        assert abs(host.get("offset_ms", 0)) < 2000, "all have the same clock"
        assert "log" not in exam


def test_beacons_and_mdns_of_all_are_heard(desk: Desk) -> None:
    def heard() -> bool:
        peers = [peer for host in look(desk)["hosts"] for peer in host["examination"]["peers"]]
        return all(peer.get("heard_beacon") and peer.get("heard_mdns") for peer in peers)

    wait_for_sync(heard, 60, what="a round of beacons, and mDNS", interval_s=2.0)


def test_a_host_that_does_not_answer_is_named_in_time(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(3)
    cluster.up()
    cluster.wait_ready(timeout_s=READY_TIMEOUT_S)
    desk, pid = Desk(cluster), cluster.pid("n3")
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    try:
        began = time.monotonic()
        document = look(desk, "--via", "n1")
        assert time.monotonic() - began < MOST_S
        (host,) = [host for host in document["hosts"] if host["host"] == "n3"]
        assert "examination" not in host
        assert any(f["where"] == "n3" and f["severity"] == "error" for f in document["findings"])
    finally:
        os.kill(pid, signal.SIGCONT)
    cluster.kill("n3")
    cluster.kill("n2")
    wait_for_sync(lambda: "cluster" in network(look(desk)), 20, what="no coordinator any more", interval_s=ASKS_EVERY_S)
    places = network(look(desk))
    assert {"n2", "n3"} <= set(places), "each is reached by nobody, and there is no pair to name"
    assert desk.run("doctor", code=3).stdout.count("nobody reaches it") == 2
    assert desk.run("doctor", "--socket", str(cluster.socket_path("n1")), code=3).stdout.startswith("n1: agent ")


def test_a_bundle_of_real_agents_holds_their_logs_and_no_keys(desk: Desk, web: Desk, tmp_path: Path) -> None:
    file = tmp_path / "bundle.tar.gz"
    desk.run("doctor", "--bundle", str(file), code=None)
    with tarfile.open(file) as archive:
        texts = {
            entry.name: reader.read().decode()
            for entry in archive.getmembers()
            if (reader := archive.extractfile(entry)) is not None
        }
    assert "of cluster" in texts["muster-doctor/logs/n1.log"]
    keys = [path.read_text() for path in desk.cluster.directory.glob("*/data/identity/*.pem")]
    lines = {line for text in keys for line in text.splitlines() if len(line) > 30 and not line.startswith("---")}
    assert len(lines) > 3
    assert not any(line in text for line in lines for text in texts.values())


def test_asking_needs_a_token_and_names_must_be_members(desk: Desk) -> None:
    token = desk.access_token()
    with AgentHttps(desk.cluster, "n1") as api:
        assert api.ask("GET", "/api/v1/doctor").status == 401
        assert api.ask("GET", "/api/v1/doctor?hosts=n9", token=token).status == 404
        assert api.ask("GET", "/api/v1/doctor?hosts=n1,,n2", token=token).status == 400
        assert api.ask("GET", "/api/v1/doctor?hosts=n2", token=token).body.count(b"\n") >= 1
