"""`agent backup` against fake agents: what each host alone has."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from agent.client import home_client
from agent.client.backup import fetch
from agent.errors import Unreachable
from agent.model.stack import Volume
from tests.cli.conftest import Said
from tests.support.coordinator import deploy, service
from tests.support.fake_node import FakeCluster

DATA = (Volume(source="data", container_path="/data"),)


@pytest.fixture
async def kept(running: FakeCluster) -> FakeCluster:
    """A stack whose one volume is on n2."""
    deploy(running, db=service(host="n2", volumes=DATA))
    running.nodes["n2"].node.volumes["shop", "data"] = b"held"
    return running


async def agent(cluster: FakeCluster, *args: str) -> Said:
    """In a process of its own: it writes and reads files as it goes, and nobody else is in its loop."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "agent", *args),
        env={**os.environ, "MUSTER_HOME": str(cluster.home.path)},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode is not None
    return Said(process.returncode, out.decode(), err.decode())


async def test_via_one_host_every_hosts_volumes_and_logs_are_in_it(kept: FakeCluster, tmp_path: Path) -> None:
    said = await agent(kept, "backup", str(tmp_path / "b.tar"), "--via", "n1", "--volumes", "--api-logs", "--json")
    assert (said.code, said.json["missing"]) == (0, []), said
    assert [part["host"] for part in said.json["parts"] if part["kind"] == "volume"] == ["n2"]
    assert [part["host"] for part in said.json["parts"] if part["kind"] == "api-log"] == ["n1", "n2"]


async def test_a_host_that_the_home_does_not_know_is_not_one_that_has_nothing(kept: FakeCluster) -> None:
    client = await asyncio.to_thread(home_client, kept.home)
    async with client:
        with pytest.raises(Unreachable, match="the home doesn't know this host"):
            await anext(fetch(client, "n9", "/api/v1/backup/state"))
