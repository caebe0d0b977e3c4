"""The phases of a deploy with a real engine: what is missing is found before anything changes."""

from __future__ import annotations

import json
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loopback.world import cluster_of, followed
from tests.runtime.conftest import IMAGE, Dockerd, _missing, ending_at_once, running_dockerd
from tests.support.agents import Desk
from tests.support.waiting import wait_for_sync

SERVER = "httpd -f -p 80 -h /run/muster"
GONE_WITHIN_S = 20.0  # two sweeps of the hosting loop


@pytest.fixture(scope="module")
def engine() -> Iterator[Dockerd]:
    if why := _missing():
        pytest.skip(why)
    yield from running_dockerd(Path(tempfile.mkdtemp(prefix="muster-dockerd-")))


@pytest.fixture(scope="module")
def desk(engine: Dockerd) -> Iterator[Desk]:
    with tempfile.TemporaryDirectory(prefix="muster-phases-") as directory, pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine.url)
        with cluster_of(Path(directory) / "c", 3, runtimes=("docker", "process")) as cluster:
            yield Desk(cluster)


def web(**changes: Any) -> dict[str, Any]:
    return {
        "docker_image": IMAGE,
        "replicas": 3,
        "command": ending_at_once(SERVER),
        "networks": ["inner"],
        "ports": [{"host_port": 9280, "container_port": 80}],
        "health": {"http": {"port": 80, "path": "/endpoints.json"}, "interval": "1s"},
        **changes,
    }


def deploy(desk: Desk, path: Path, code: int = 0, **services: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    path.write_text(json.dumps({"stack": "site", "services": services}))
    return desk.run("deploy", str(path), code=code)


def containers(engine: Dockerd) -> dict[str, str]:
    """id → name of all, running or not."""
    client = engine.client()
    try:
        return {each["Id"]: each["Names"][0].removeprefix("/") for each in client.containers(all=True)}
    finally:
        client.close()


def endpoints(engine: Dockerd, container: str) -> Any:
    command = ["docker", "--host", engine.url, "exec", container, "cat", "/run/muster/endpoints.json"]
    return json.loads(subprocess.run(command, check=True, capture_output=True).stdout)


def test_the_phases_of_a_deploy(desk: Desk, engine: Dockerd, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"

    # Healthy: every replica is reached from every host; the containers know of each other.
    said = deploy(desk, plan, web=web()).stdout
    assert said.splitlines()[-1] == "site: healthy"
    running = containers(engine)
    assert len(running) == 3
    for container in running:
        replicas = endpoints(engine, container)["services"]["web"]["replicas"]
        assert [replica["slot"] for replica in replicas] == [1, 2, 3]

    # The file in a running container follows, and it is the same container.
    desk.run("scale", "site", "web=2")
    kept = next(each for each, name in containers(engine).items() if name == "site-web-1")
    assert kept in running
    wait_for_sync(lambda: len(endpoints(engine, kept)["services"]["web"]["replicas"]) == 2)
    desk.run("scale", "site", "web=3")
    running = containers(engine)

    # An image that nobody has: found in preparation, nothing that runs is touched.
    failed = deploy(desk, plan, code=3, web=web(docker_image="muster-none.invalid/none:1"))
    assert "preparation: web on n" in failed.stderr
    assert "isn't on this host and can't be pulled" in failed.stderr
    assert "agent load" in failed.stderr
    assert containers(engine) == running

    # A program that ends: the last lines that it wrote are shown, and what ran before runs again.
    broken = deploy(desk, plan, code=3, web=web(command=["/bin/sh", "-c", "echo no such table; exit 7"]))
    assert "; back to revision" in broken.stderr
    assert "  | no such table" in broken.stdout.splitlines()
    wait_for_sync(lambda: len(containers(engine)) == 3)

    # A port that something foreign has: the next one, before anything starts.
    with socket.socket() as foreign:
        foreign.bind((desk.cluster.address("n1"), 9380))
        foreign.listen()
        port = {"host_port": 9380, "container_port": 80}
        deploy(desk, plan, web=web(ports=[port]))
        assert ports(desk)["n1"] == 9381
        assert ports(desk)["n2"] == 9380

    # Removed: no container, network, compose file, endpoint file or stack file is left.
    desk.run("cleanup", "site", "--yes")
    wait_for_sync(lambda: containers(engine) == {}, GONE_WITHIN_S)
    wait_for_sync(lambda: leftovers(desk, engine) == [], GONE_WITHIN_S)


def ports(desk: Desk) -> dict[str, int]:
    (stack,) = [stack for stack in desk.cluster.status("n1").stacks if stack.name == "site"]
    return {replica.host: replica.ports[0].host_port for replica in stack.services[0].replicas}


def leftovers(desk: Desk, engine: Dockerd) -> list[str]:
    client = engine.client()
    try:
        networks = [each["Name"] for each in client.networks() if each["Name"].startswith("site_")]
    finally:
        client.close()
    below = [path for kind in ("stacks", "endpoints", "stack-files") for path in _data(desk).glob(f"*/data/{kind}/*")]
    return [*networks, *map(str, below)]


def _data(desk: Desk) -> Path:
    return desk.cluster.directory


def test_a_program_that_does_not_listen_is_told_and_rolled_back(desk: Desk, tmp_path: Path) -> None:
    deaf = {
        "runtime": "process",
        "host": "n2",
        "command": ["sleep", "300"],
        "ports": [{"host_port": 9480, "container_port": 80}],
    }
    failed = deploy(desk, tmp_path / "plan.json", code=3, deaf=deaf)
    assert "n1 doesn't reach deaf.1 on n2 at port 9480" in failed.stderr
    assert "nor does n2 itself" in failed.stderr
    desk.run("cleanup", "site", "--yes")


def test_a_new_revisions_containers_join_a_running_follow(desk: Desk, engine: Dockerd, tmp_path: Path) -> None:
    # Every run says one line that no other run says: what is shown twice or not at all shows.
    command = ending_at_once(SERVER, first="cat /proc/sys/kernel/random/uuid; ")
    deploy(desk, tmp_path / "plan.json", web=web(command=command))
    with followed(desk, "site", tmp_path / "shown") as shown:
        wait_for_sync(lambda: len(shown()) == 3, what="a line of each container")
        deploy(desk, tmp_path / "plan.json", web=web(command=command, environment={"COLOUR": "blue"}))
        wait_for_sync(lambda: len(shown()) == 6, what="a line of each new container")
        desk.run("restart", "site")
        wait_for_sync(lambda: len(shown()) == 9, what="a line of each container after the restart")
        assert len(set(shown())) == 9
    desk.run("cleanup", "site", "--yes")


def test_what_is_restored_starts_with_its_data(desk: Desk, tmp_path: Path) -> None:
    found = "test -e /data/first && echo found its data || echo began with nothing; touch /data/first; "
    db = {
        "docker_image": IMAGE,
        "host": "n2",
        "command": ending_at_once("sleep 300", first=found),
        "volumes": [{"host_path": "data", "container_path": "/data"}],
    }
    deploy(desk, tmp_path / "plan.json", db=db)
    assert "began with nothing" in desk.run("logs", "site").stdout
    backup = str(tmp_path / "b.tar")
    assert "1 volume" in desk.run("backup", backup, "--volumes").stdout
    desk.run("remove", "site", "--volumes", "--yes")
    order = desk.run("restore", backup, "--yes").stdout.splitlines()
    assert order.index("site: stopped") < order.index("site: healthy"), order
    said = desk.run("logs", "site").stdout
    assert ("found its data" in said, "began with nothing" in said) == (True, False)
    desk.run("cleanup", "site", "--volumes", "--yes")
