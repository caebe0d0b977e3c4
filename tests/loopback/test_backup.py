"""Backup and restore against real agents: one signed file, verified before anything changes.

Plans' files and volumes need Docker: `tests/lab/test_recovery.py`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.client.backup_file import open_backup
from bootstrap.local import LocalCluster
from tests.loopback.world import cluster_of, replicas, wait_healthy
from tests.support.agents import AgentHttps, Desk

EXIT_ERROR, EXIT_USAGE = 1, 2
SECRET = "a-value-that-nobody-prints"

PLAN = {
    "stack": "shop",
    "services": {
        "web": {
            "runtime": "process",
            "command": ["sleep", "100000"],
            "replicas": 2,
            "environment": {"SECRET": SECRET},
        }
    },
}


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    """Of a cluster in whose backups nothing else is."""
    with cluster_of(tmp_path_factory.mktemp("backup"), 2, runtimes=("process",)) as cluster:
        yield Desk(cluster)


@pytest.fixture
def shop(desk: Desk, tmp_path: Path) -> Iterator[Desk]:
    """A stack with an environment value and a scale set since."""
    (tmp_path / "shop.json").write_text(json.dumps(PLAN))
    desk.run("deploy", str(tmp_path / "shop.json"))
    desk.run("scale", "shop", "web=1")
    wait_healthy(desk.cluster, "shop", 1)
    yield desk
    desk.run("remove", "shop", "--yes", code=None)  # a test may have done it


def test_a_stack_that_was_removed_comes_back_as_it_was(shop: Desk, tmp_path: Path) -> None:
    file = tmp_path / "b.tar"
    made = shop.run("backup", str(file), "--api-logs", "--with-home")
    assert "environment values and the home's private keys" in made.stderr
    assert file.stat().st_mode & 0o777 == 0o600
    kinds = [part.kind for part in open_backup(file).manifest.parts]
    assert {"state", "plan", "api-log", "home"} == set(kinds)
    same = shop.run("restore", str(file))
    assert "shop: as it is deployed now" in same.stdout

    shop.run("remove", "shop", "--yes")
    shown = shop.run("restore", str(file), "--dry-run")
    assert "shop: is deployed, web is scaled to 1" in shown.stdout
    assert replicas(shop.cluster.status("n1"), "shop") == {}
    asked = shop.run("restore", str(file), code=EXIT_USAGE)
    assert "--yes" in asked.stderr
    done = shop.run("restore", str(file), "--yes")
    assert "restored 1 of 1 stacks" in done.stdout
    wait_healthy(shop.cluster, "shop", 1)
    assert "(redacted)" in shop.run("plan", "shop").stdout
    assert SECRET not in made.stdout + made.stderr + shown.stdout + done.stdout + done.stderr

    home = tmp_path / "home"
    shop.run("restore", str(file), "--unpack-home", str(home))
    assert (home / "operator.key").read_bytes() == (shop.cluster.home / "operator.key").read_bytes()
    assert (home / "operator.key").stat().st_mode & 0o777 == 0o600
    shop.run("restore", str(file), "--unpack-home", str(home), code=EXIT_ERROR)
    again = shop.run("backup", str(file), code=EXIT_ERROR)
    assert "never overwritten" in again.stderr


def test_a_backup_that_is_damaged_or_anothers_changes_nothing(
    shop: Desk, make_cluster: Callable[..., LocalCluster], tmp_path: Path
) -> None:
    file = tmp_path / "b.tar"
    shop.run("backup", str(file))
    data = file.read_bytes()
    shop.run("remove", "shop", "--yes")
    at = data.index(SECRET.encode())
    for name, broken in {
        "truncated": data[: len(data) // 2],
        "flipped": data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :],
        "newer": data.replace(b'"version": 1,\n  "made_at"', b'"version": 2,\n  "made_at"'),
    }.items():
        (tmp_path / name).write_bytes(broken)
        refused = shop.run("restore", str(tmp_path / name), "--yes", code=EXIT_USAGE)
        assert str(tmp_path / name) in refused.stderr
        assert "  " in refused.stderr, "with what to do"
    assert replicas(shop.cluster.status("n1"), "shop") == {}

    other = make_cluster(1)
    other.up()
    other.wait_ready()
    desk = Desk(other)
    refused = desk.run("restore", str(file), "--yes", code=EXIT_ERROR)
    assert "--other-cluster" in refused.stderr
    desk.run("restore", str(file), "--yes", "--other-cluster")
    wait_healthy(other, "shop", 1)


def test_environment_values_need_an_admins_word_for_this_very_request(shop: Desk) -> None:
    with AgentHttps(shop.cluster, "n1") as https:
        for path in ("state", "api-log", "files/" + "0" * 64, "volumes/shop/data"):
            assert https.ask("GET", f"/api/v1/backup/{path}", token=shop.access_token()).status == 401
            assert https.ask("GET", f"/api/v1/backup/{path}").status == 401
