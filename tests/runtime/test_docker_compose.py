"""docs/seed.md "Health checks": Debian's docker-compose over the file and the containers that a host makes."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from agent.host import HostObservation
from agent.model.ledger import AssignedPort
from agent.model.stack import Image, Volume
from agent.node.driver.hosting import Hosting
from agent.node.effects import Reconcile
from agent.runtime.docker import DockerRuntime
from tests.runtime.conftest import IMAGE, Dockerd
from tests.runtime.test_docker import free_port
from tests.support.replicas import AGENT, CLUSTER, spec, wanted
from tests.support.waiting import wait_for

pytestmark = [
    pytest.mark.docker,
    pytest.mark.skipif(shutil.which("docker-compose") is None, reason="docker-compose isn't installed (Debian has it)"),
]

SAYS_HELLO = ("/bin/sh", "-c", 'echo "hello from $MUSTER_SLOT"; exec sleep 300')


@pytest.fixture
async def hosting(dockerd: Dockerd, tmp_path: Path) -> AsyncIterator[Hosting]:
    runtime = DockerRuntime(
        cluster=CLUSTER, agent=AGENT, data_dir=tmp_path, publish_address="127.0.0.1", base_url=dockerd.url
    )
    told: list[HostObservation] = []
    made = Hosting([runtime], publish_address="127.0.0.1", data_dir=tmp_path, on_observed=told.append)
    await made.open()
    try:
        yield made
        made.set_desired(Reconcile(desired=wanted(delete_volumes_of=frozenset({"shop"})), applied=9))
        await wait_for(lambda: not any(each.container_id for each in made.observation.replicas), 20)
    finally:
        await made.close()


async def compose(dockerd: Dockerd, directory: Path, *arguments: str) -> str:
    done = await asyncio.to_thread(
        subprocess.run,
        ["docker-compose", *arguments],
        cwd=directory,
        env={"PATH": os.environ["PATH"], "HOME": str(directory), "DOCKER_HOST": dockerd.url, "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr.lower(), done.stderr
    return done.stdout


async def test_docker_compose_shows_what_the_host_runs(dockerd: Dockerd, hosting: Hosting, tmp_path: Path) -> None:
    port = free_port()
    fields: dict[str, Any] = {"image": Image(ref=IMAGE), "command": SAYS_HELLO, "stop_grace_ms": 500}
    main = spec(
        "translator-main",
        container_name="translator-main",
        ports=(AssignedPort(container_port=80, host_port=port),),
        networks=("inner",),
        volumes=(Volume(source="./certs", container_path="/certs", read_only=True),),
        environment={"PRICE": "5$"},
        **fields,
    )
    workers = [spec("worker", slot, facts={"MUSTER_SLOT": str(slot)}, **fields) for slot in (1, 2)]
    hosting.set_desired(Reconcile(desired=wanted(main, *workers), applied=1))
    await wait_for(lambda: [each.state for each in hosting.observation.replicas] == ["healthy"] * 3, 30)
    directory = tmp_path / "stacks" / "shop"
    await wait_for((directory / "docker-compose.yml").exists)

    listed = await compose(dockerd, directory, "ps")
    assert {line.split()[0] for line in listed.splitlines()[2:]} == {
        "translator-main",
        "shop-worker-1",
        "shop-worker-2",
    }
    assert f"127.0.0.1:{port}->80/tcp" in listed
    assert listed.count(" Up ") == 3
    assert (await compose(dockerd, directory, "ps", "--services")).split() == ["translator-main", "worker"]
    assert "hello from" in await compose(dockerd, directory, "logs", "translator-main")
    logs = await compose(dockerd, directory, "logs", "--no-color", "worker")
    assert {line.partition("| ")[2] for line in logs.splitlines() if "hello" in line} == {
        "hello from 1",
        "hello from 2",
    }
    assert (await compose(dockerd, directory, "port", "translator-main", "80")).strip() == f"127.0.0.1:{port}"
