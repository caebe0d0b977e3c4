"""Images: pulled from a private registry, brought as an archive; and what several agents do to one engine at once."""

from __future__ import annotations

import asyncio
import http.client
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import pytest

from agent import errors
from agent.model.stack import Image
from agent.runtime.docker import DockerRuntime
from tests.runtime.conftest import IMAGE, Dockerd
from tests.runtime.test_docker import cleaned, free_port, quiet, replica
from tests.support.replicas import AGENT, OTHER_AGENT
from tests.support.waiting import wait_for_sync

pytestmark = pytest.mark.docker


@pytest.fixture
async def runtime(dockerd: Dockerd, tmp_path: Path) -> AsyncIterator[DockerRuntime]:
    async with cleaned(dockerd, tmp_path, AGENT) as made:
        yield made


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[str]:
    """Debian's docker-registry on loopback, where dockerd takes plain HTTP."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry isn't installed (Debian: docker-registry)")
    address = f"127.0.0.1:{free_port()}"
    config = tmp_path / "registry.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nhttp: {{addr: '{address}'}}\n"
        f"storage: {{filesystem: {{rootdirectory: '{tmp_path / 'registry'}'}}}}\n"
    )
    log = (tmp_path / "registry.log").open("wb")
    process = subprocess.Popen([program, "serve", str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        wait_for_sync(lambda: answers(address), 10, what="the registry")
        yield address
    finally:
        process.terminate()
        process.wait(timeout=10)
        log.close()


def answers(address: str) -> bool:
    connection = http.client.HTTPConnection(address, timeout=2)
    try:
        connection.request("GET", "/v2/")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture
def pushed(registry: str, engine: docker.APIClient) -> Iterator[str]:
    """An image that only the registry has."""
    reference = f"{registry}/web"
    engine.tag(IMAGE, reference, "1")
    said = engine.push(reference, "1")
    assert "error" not in said, said
    engine.remove_image(f"{reference}:1")
    yield f"{reference}:1"
    if engine.images(f"{reference}:1"):
        engine.remove_image(f"{reference}:1", force=True)


async def test_an_image_is_pulled_with_progress_and_then_run(runtime: DockerRuntime, pushed: str) -> None:
    seen: list[tuple[str, str]] = []
    made = replica(image=Image(ref=pushed))
    workload = await runtime.start(made, lambda step, detail: seen.append((step, detail)))
    assert (workload.state, workload.image_ref) == ("running", pushed)
    assert seen[0] == ("pulling", f"image {pushed}")
    assert any("layers" in detail for step, detail in seen if step == "pulling")
    assert seen[-1] == ("starting", "")


async def test_what_is_there_is_not_pulled_again(runtime: DockerRuntime, pushed: str) -> None:
    seen: list[str] = []
    await runtime.prepare(replica(image=Image(ref=pushed)), quiet)
    await runtime.prepare(replica(image=Image(ref=pushed)), lambda step, detail: seen.append(step))
    assert seen == []


async def test_a_tag_that_the_registry_lacks_is_said_in_its_words(runtime: DockerRuntime, registry: str) -> None:
    with pytest.raises(errors.NotFound, match=r"can't be pulled: .*(not found|unknown)"):
        await runtime.start(replica(image=Image(ref=f"{registry}/nothing:1")), quiet)
    assert await runtime.observe() == ()


async def test_a_pulled_image_can_be_pinned_by_its_digest(
    runtime: DockerRuntime, pushed: str, engine: docker.APIClient
) -> None:
    await runtime.prepare(replica(image=Image(ref=pushed)), quiet)
    found = await asyncio.to_thread(engine.inspect_image, pushed)
    for digest in (found["Id"], found["RepoDigests"][-1].partition("@")[2]):
        await runtime.prepare(replica(image=Image(ref=pushed, digest=digest)), quiet)
    with pytest.raises(errors.NotFound, match="isn't the one that the plan pins"):
        await runtime.prepare(replica(image=Image(ref=pushed, digest="sha256:" + "0" * 64)), quiet)


async def test_an_archive_brings_its_image(runtime: DockerRuntime, engine: docker.APIClient, tmp_path: Path) -> None:
    archive = tmp_path / "image.tar"

    def save() -> None:
        engine.tag(IMAGE, "brought", "1")
        with archive.open("wb") as file:
            file.writelines(engine.get_image("brought:1"))
        engine.remove_image("brought:1")

    await asyncio.to_thread(save)
    assert await runtime.load_image(archive) == ("brought:1",)
    assert (await runtime.start(replica(image=Image(ref="brought:1")), quiet)).state == "running"


@pytest.mark.parametrize("content", [b"", b"no archive at all" * 100, b"\0" * 2048])
async def test_what_is_no_archive_is_refused_in_the_engines_words(
    runtime: DockerRuntime, tmp_path: Path, content: bytes
) -> None:
    archive = tmp_path / "image.tar"
    archive.write_bytes(content)
    with pytest.raises(errors.MusterError):
        await runtime.load_image(archive)


async def test_agents_that_make_one_network_at_once_end_with_one(
    dockerd: Dockerd, runtime: DockerRuntime, engine: docker.APIClient, tmp_path: Path
) -> None:
    """Docker lets two agents create one name at the same moment; then nothing could be started on it by name."""

    def twice() -> None:
        for agent in (AGENT, OTHER_AGENT):
            labels = {"muster.cluster": "abcdefghijklmnop", "muster.agent": agent, "muster.stack": "shop"}
            engine.create_network("shop_inner", driver="bridge", labels=labels, check_duplicate=False)

    await asyncio.to_thread(twice)
    async with cleaned(dockerd, tmp_path / "other", OTHER_AGENT) as other:
        await asyncio.gather(
            runtime.start(replica(networks=("inner",)), quiet),
            other.start(replica("api", agent=OTHER_AGENT, networks=("inner",)), quiet),
        )
        found = await asyncio.to_thread(engine.networks, names=["shop_inner"])
        assert len([each for each in found if each["Name"] == "shop_inner"]) == 1
