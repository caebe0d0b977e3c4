"""The drill of docs/operations.md: everything is lost but one backup file, and comes back from it.

The tests are one story and run in order.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator

import pytest

from tests.bootstrap.desk import Desk, desk_of
from tests.lab import Lab, images
from tests.support.waiting import wait_for_sync

pytestmark = [pytest.mark.lab, pytest.mark.timeout(400)]

IMAGE = "muster-db:demo"
SERVE = """\
#!/bin/sh
# A database as far as a drill needs one: what was written first stays, and is served.
mkdir -p /data/www
[ -e /data/www/first ] && echo "found its data" || echo "began with nothing"
[ -e /data/www/first ] || cat /proc/sys/kernel/random/uuid > /data/www/first
cat /seed/index.html > /data/www/seed
httpd -f -p 8080 -h /data/www &
trap "kill $!; exit 0" TERM INT
wait $!
"""
PLAN = {
    "stack": "db",
    "services": {
        "db": {
            "docker_image": IMAGE,
            "replicas": 3,
            "container_name": "db",
            "environment": {"PASSWORD": "kept in the backup"},
            "ports": [{"host_port": 8080, "container_port": 8080}],
            "volumes": [
                {"host_path": "data", "container_path": "/data"},
                {"host_path": "./seed", "container_path": "/seed", "read_only": True},
            ],
        }
    },
}
MUCH_MIB = 300  # takes a second or so to go back
HOSTS = ("root@n1", "root@n2", "root@n3")


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    if reason := Lab.unavailable():
        pytest.skip(reason)
    with Lab.up(3, name=f"r{os.getpid()}") as lab, desk_of(lab, tmp_path_factory.mktemp("desk")) as made:
        home = lab.operator.home
        (home / "db.tar").write_bytes(images.archive(lab.base, IMAGE, SERVE))
        (home / "seed").mkdir()
        (home / "seed" / "index.html").write_text("from a file of the plan")
        (home / "plan.json").write_text(json.dumps(PLAN))
        made.write_hosts(*HOSTS)
        yield made


def served(desk: Desk, path: str) -> dict[str, str]:
    """What each host's database says."""

    def ask() -> dict[str, str] | None:
        found = {}
        for host in desk.lab.hosts.values():
            answer = desk.run("curl", "-sf", "-m", "5", f"http://{host.name}:8080/{path}", check=False)
            if not answer.ok or not answer.stdout.strip():
                return None
            found[host.name] = answer.stdout.strip()
        return found

    found = wait_for_sync(ask, 30.0, what=f"/{path} on all hosts")
    assert found is not None
    return found


def volumes(desk: Desk) -> set[str]:
    return {
        name
        for host in desk.lab.hosts.values()
        for name in host.run(["docker", "volume", "ls", "-q", "--filter", "label=muster.cluster"]).stdout.split()
    }


FIRST: dict[str, str] = {}


def test_a_stack_with_data_is_deployed_and_backed_up(desk: Desk) -> None:
    desk.install()
    desk.run("agent", "load", "db.tar")
    desk.run("agent", "deploy", "plan.json")
    FIRST.update(served(desk, "first"))
    assert len(set(FIRST.values())) == 3, "each host has data of its own"
    made = desk.run("agent", "backup", "b.tar", "--volumes", "--api-logs", "--with-home")
    assert "3 volumes" in made.stdout
    assert "1 file" in made.stdout
    assert (desk.lab.operator.home / "b.tar").stat().st_mode & 0o777 == 0o600


def test_everything_is_uninstalled_with_all_volumes(desk: Desk) -> None:
    desk.run("bootstrap", "uninstall", "hosts.txt", "--yes", "--delete-volumes")
    assert volumes(desk) == set()
    (desk.lab.operator.home / ".config/muster/muster").rename(desk.lab.operator.home / "lost")


def test_a_damaged_backup_is_refused_before_anything_changes(desk: Desk) -> None:
    home = desk.lab.operator.home
    data = bytearray((home / "b.tar").read_bytes())
    data[data.index(b"kept in the backup")] ^= 1
    (home / "bad.tar").write_bytes(data)
    desk.install()
    refused = desk.run("agent", "restore", "bad.tar", "--yes", "--other-cluster", check=False)
    assert refused.returncode == 2
    assert "damaged" in refused.stderr
    assert desk.status()["stacks"] == []


def test_on_fresh_hosts_the_stack_comes_back_with_its_data(desk: Desk) -> None:
    desk.run("agent", "load", "db.tar")
    shown = desk.run("agent", "restore", "b.tar", "--other-cluster", "--dry-run")
    assert "db: is deployed, volume data of n1 is put back" in shown.stdout
    done = desk.run("agent", "restore", "b.tar", "--other-cluster", "--yes")
    assert "restored 1 of 1 stacks" in done.stdout
    status = desk.status()
    assert [stack["phase"] for stack in status["stacks"]] == ["healthy"]
    assert served(desk, "first") == FIRST
    assert set(served(desk, "seed").values()) == {"from a file of the plan"}
    said = desk.run("agent", "logs", "db").stdout
    assert (said.count("found its data") >= 3, "began with nothing" in said) == (True, False)


def test_volumes_go_back_over_later_data_only_when_told(desk: Desk) -> None:
    for host in desk.lab.hosts.values():
        host.run(["docker", "run", "--rm", "-v", "db_data:/data", IMAGE, "sh", "-c", "echo later > /data/www/first"])
    unchanged = desk.run("agent", "restore", "b.tar", "--other-cluster", "--yes")
    assert "db: as it is deployed now" in unchanged.stdout
    assert set(served(desk, "first").values()) == {"later"}
    told = desk.run("agent", "restore", "b.tar", "--other-cluster", "--yes", "--volumes", "--via", "n2")
    assert {f"volume db/data to {host}: 100 %" for host in FIRST} <= set(told.stderr.splitlines()), "by one, to all"
    assert served(desk, "first") == FIRST


def shell(desk: Desk, host: str, script: str) -> str:
    """In a container over the volume, whether the stack runs or not."""
    argv = ["docker", "run", "--rm", "-v", "db_data:/data", IMAGE, "sh", "-c", script]
    return desk.lab.host(host).run(argv).stdout.strip()


def test_a_restore_that_was_interrupted_goes_on_with_the_volumes_when_it_is_given_again(desk: Desk) -> None:
    shell(desk, "n2", f"dd if=/dev/zero of=/data/much bs=1M count={MUCH_MIB} 2>/dev/null")
    desk.run("agent", "backup", "much.tar", "--volumes")
    for host in FIRST:
        shell(desk, host, "echo later > /data/www/first")

    with desk.popen("agent", "restore", "much.tar", "--volumes", "--yes") as command:
        assert command.stderr is not None
        read: list[str] = []
        for line in command.stderr:
            read.append(line.decode())
            if "volume db/data to n2: 0 %" in read[-1]:
                os.killpg(command.pid, signal.SIGINT)
        assert command.wait() != 0
    assert "db is stopped, and not all of its volumes are back: the same `agent restore` goes on" in "".join(read)
    found = {host: shell(desk, host, "cat /data/www/first") for host in FIRST}
    assert found == {"n1": FIRST["n1"], "n2": "later", "n3": "later"}, "each volume is the old one or the one before"

    shown = desk.run("agent", "restore", "much.tar", "--dry-run")
    assert "db: a restore of this backup broke off, and goes on" in shown.stderr
    assert "volume data of n3 is put back" in shown.stdout
    desk.run("agent", "restore", "much.tar", "--yes")
    assert served(desk, "first") == FIRST
    assert [stack["phase"] for stack in desk.status()["stacks"]] == ["healthy"]
    again = desk.run("agent", "restore", "much.tar", "--yes")
    assert ("db: as it is deployed now" in again.stdout, "broke off" in again.stderr) == (True, False)


def test_the_lost_home_is_in_the_backup(desk: Desk) -> None:
    desk.run("agent", "restore", "b.tar", "--unpack-home", "again")
    home = desk.lab.operator.home
    assert (home / "again" / "operator.key").read_bytes() == (home / "lost" / "operator.key").read_bytes()
