"""Whose containers, networks and volumes are: agents that share an engine, and a host that gets another identity."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import docker
import pytest

from agent.model.stack import Volume
from agent.runtime.docker import DockerRuntime
from tests.runtime.conftest import Dockerd
from tests.runtime.test_docker import cleaned, exited, lines_of, names, opened, quiet, replica, the_one
from tests.support.replicas import AGENT, OTHER_AGENT, key
from tests.support.waiting import wait_for

pytestmark = pytest.mark.docker


@pytest.fixture
async def runtime(dockerd: Dockerd, tmp_path: Path) -> AsyncIterator[DockerRuntime]:
    async with cleaned(dockerd, tmp_path, AGENT) as made:
        yield made


async def test_agents_on_one_engine_see_their_own_only(
    dockerd: Dockerd, runtime: DockerRuntime, tmp_path: Path
) -> None:
    await runtime.start(replica(), quiet)
    async with opened(dockerd, tmp_path / "other", OTHER_AGENT) as other:
        assert await other.observe() == ()
        theirs = await other.start(replica("api", agent=OTHER_AGENT), quiet)
        assert [each.key for each in await runtime.observe()] == [key("web")]
        await other.remove(theirs.id)


class TestOfAnEarlierIdentity:
    """What a host ran before it got another identity: same data directory, other agent id."""

    async def test_its_containers_are_the_hosts_own(
        self, dockerd: Dockerd, runtime: DockerRuntime, engine: docker.APIClient, tmp_path: Path
    ) -> None:
        async with opened(dockerd, tmp_path, OTHER_AGENT) as former:
            made = await former.start(replica(agent=OTHER_AGENT), quiet)
        assert await the_one(runtime) == made
        assert await runtime.start(replica(), quiet) == made, "what is still wanted goes on"
        changes = aiter(runtime.changes())
        assert await asyncio.wait_for(anext(changes), 5) is None
        await asyncio.to_thread(engine.kill, made.id, signal.SIGKILL)
        assert await asyncio.wait_for(anext(changes), 5) == key("web")
        await runtime.remove(made.id)
        assert await names(engine) == []

    async def test_its_network_is_used_on_and_goes_with_the_stack(
        self, dockerd: Dockerd, runtime: DockerRuntime, engine: docker.APIClient, tmp_path: Path
    ) -> None:
        async with opened(dockerd, tmp_path, OTHER_AGENT) as former:
            made = await former.start(replica(agent=OTHER_AGENT, networks=("inner",)), quiet)
            await former.remove(made.id)
        successor = await runtime.start(replica(networks=("inner",)), quiet)
        await runtime.remove(successor.id)
        assert await runtime.tidy(frozenset(), frozenset())
        assert await asyncio.to_thread(engine.networks, names=["shop_inner"]) == []

    async def test_its_volumes_stay_until_they_are_to_be_deleted(
        self, dockerd: Dockerd, runtime: DockerRuntime, engine: docker.APIClient, tmp_path: Path
    ) -> None:
        data = (Volume(source="data", container_path="/data"),)
        writes = ("/bin/sh", "-c", "echo kept > /data/file")
        async with opened(dockerd, tmp_path, OTHER_AGENT) as former:
            made = await former.start(
                replica("web", *writes, agent=OTHER_AGENT, volumes=data, restart_policy="no"), quiet
            )
            await wait_for(lambda: exited(runtime))
        await runtime.remove(made.id)
        assert await runtime.tidy(frozenset(), frozenset())
        reads = await runtime.start(replica("web", "/bin/cat", "/data/file", volumes=data, restart_policy="no"), quiet)
        await wait_for(lambda: exited(runtime))
        assert await lines_of(runtime, reads) == ["kept"]
        await runtime.remove(reads.id)
        assert await runtime.tidy(frozenset(), frozenset({"shop"}))
        assert (await asyncio.to_thread(engine.volumes))["Volumes"] in (None, [])


async def test_what_another_agent_on_the_engine_uses_is_left_to_it(
    dockerd: Dockerd, runtime: DockerRuntime, engine: docker.APIClient, tmp_path: Path
) -> None:
    """An ended container has its network and its volumes still."""
    async with cleaned(dockerd, tmp_path / "other", OTHER_AGENT) as other:
        data = (Volume(source="data", container_path="/data"),)
        made = replica("api", agent=OTHER_AGENT, networks=("inner",), volumes=data)
        theirs = await other.start(made, quiet)
        await other.stop(theirs.id)
        assert await runtime.tidy(frozenset(), frozenset({"shop"})), "nothing of its own is left"
        assert (await other.start(made, quiet)).id == theirs.id
        assert len(await asyncio.to_thread(engine.networks, names=["shop_inner"])) == 1
        assert [each["Name"] for each in (await asyncio.to_thread(engine.volumes))["Volumes"]] == ["shop_data"]


async def test_a_data_directory_that_was_moved_takes_its_containers_along(
    dockerd: Dockerd, runtime: DockerRuntime, tmp_path: Path
) -> None:
    async with opened(dockerd, tmp_path / "before") as before:
        made = await before.start(replica(), quiet)
    assert await the_one(runtime) == made
