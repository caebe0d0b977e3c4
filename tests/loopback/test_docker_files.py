"""Real agents with a real engine: a plan's files reach every mount, and images every host."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loopback.world import cluster_of, request
from tests.runtime.conftest import IMAGE, Dockerd, _missing, ending_at_once, running_dockerd
from tests.support.agents import Desk
from tests.support.waiting import wait_for_sync

SWEPT_WITHIN_S = 15.0  # the hosting loop's sweep, and a little


@pytest.fixture(scope="module")
def engine() -> Iterator[Dockerd]:
    if why := _missing():
        pytest.skip(why)
    yield from running_dockerd(Path(tempfile.mkdtemp(prefix="muster-dockerd-")))


@pytest.fixture(scope="module")
def docker_desk(engine: Dockerd, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DOCKER_HOST", engine.url)
        with cluster_of(tmp_path_factory.mktemp("docker"), 3, runtimes=("docker",)) as cluster:
            yield Desk(cluster)


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    directory = tmp_path / "plan"
    (directory / "www").mkdir(parents=True)
    (directory / "www/index.html").write_text("one")
    (directory / "www/large").write_bytes(bytes(700_000))
    volume = {"host_path": "./www", "container_path": "/www", "read_only": True}
    web: dict[str, Any] = {
        "docker_image": IMAGE,
        "replicas": 3,
        "command": ending_at_once("httpd -f -p 80 -h /www"),
        "networks": ["inner"],
        "ports": [{"host_port": 9180, "container_port": 80}],
        "volumes": [volume],
        "health": {"http": {"port": 80, "path": "/index.html"}, "interval": "1s"},
    }
    other = {"docker_image": IMAGE, "command": ending_at_once("sleep 300")}
    (directory / "plan.json").write_text(json.dumps({"stack": "site", "services": {"web": web, "other": other}}))
    return directory


def containers(desk: Desk, service: str) -> dict[int, str]:
    (stack,) = [stack for stack in desk.cluster.status("n1").stacks if stack.name == "site"]
    (found,) = [each for each in stack.services if each.name == service]
    return {replica.slot: replica.container_id for replica in found.replicas}


def test_a_plans_files_reach_every_mount_and_a_changed_one_replaces_only_who_mounts_it(
    docker_desk: Desk, plan: Path
) -> None:
    desk = docker_desk

    def served() -> set[str]:
        stack = next(stack for stack in desk.cluster.status("n1").stacks if stack.name == "site")
        web = next(service for service in stack.services if service.name == "web")
        return {request(desk.cluster, replica) for replica in web.replicas}

    desk.run("deploy", str(plan / "plan.json"))
    assert served() == {"one"}
    before = {service: containers(desk, service) for service in ("web", "other")}
    (plan / "www/index.html").write_text("two")
    desk.run("deploy", str(plan / "plan.json"))
    assert served() == {"two"}
    assert containers(desk, "other") == before["other"]
    assert set(containers(desk, "web").values()).isdisjoint(before["web"].values())
    desk.run("remove", "site", "--yes")
    laid = desk.cluster.directory.glob
    wait_for_sync(lambda: not list(laid("n*/data/stacks/site/www/index.html")), SWEPT_WITHIN_S)


def test_an_image_reaches_every_host(docker_desk: Desk, engine: Dockerd) -> None:
    docker = ["docker", "--host", engine.url]
    blobs = docker_desk.cluster.directory.glob
    before = set(blobs("n*/data/blobs/*"))  # a plan's files stay for a while
    subprocess.run([*docker, "tag", IMAGE, "brought:1"], check=True)
    last = docker_desk.json("load", "brought:1")["hosts"]
    assert [(each["host"], each["step"], each["images"]) for each in last] == [
        (name, "loaded", ["brought:1"]) for name in ("n1", "n2", "n3")
    ]
    assert set(blobs("n*/data/blobs/*")) <= before
