"""The Docker runtime against a real, private dockerd."""

from __future__ import annotations

import asyncio
import signal
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import docker
import pytest

from agent import errors
from agent.model.ledger import AssignedPort
from agent.model.spec import ReplicaSpec
from agent.model.stack import HealthCommand, Image, Resources, Volume
from agent.model.workload import Workload
from agent.runtime.docker import DockerRuntime
from agent.runtime.probes import probe_http
from tests.runtime.conftest import IMAGE, Dockerd, running_dockerd
from tests.support.replicas import AGENT, CLUSTER, key, spec
from tests.support.waiting import wait_for

pytestmark = pytest.mark.docker

ENGINE_TIMEOUT_S = 20.0


def quiet(step: str, detail: str) -> None:
    """Nobody watches the progress."""


def replica(service: str = "web", *command: str, **changes: Any) -> ReplicaSpec:
    fields: dict[str, Any] = {
        "image": Image(ref=IMAGE),
        "command": command or ("/bin/sleep", "300"),
        "stop_grace_ms": 1000,
    }
    return spec(service, **(fields | changes))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def opened(dockerd: Dockerd, directory: Path, agent: str = AGENT) -> AsyncIterator[DockerRuntime]:
    made = DockerRuntime(
        cluster=CLUSTER, agent=agent, data_dir=directory, publish_address="127.0.0.1", base_url=dockerd.url
    )
    await made.open()
    try:
        yield made
    finally:
        await made.close()


@asynccontextmanager
async def cleaned(dockerd: Dockerd, directory: Path, agent: str) -> AsyncIterator[DockerRuntime]:
    async with opened(dockerd, directory, agent) as made:
        yield made
        for workload in await made.observe():
            await made.remove(workload.id)
        await made.tidy(frozenset(), frozenset({"shop"}))


@pytest.fixture
async def runtime(dockerd: Dockerd, tmp_path: Path) -> AsyncIterator[DockerRuntime]:
    async with cleaned(dockerd, tmp_path, AGENT) as made:
        yield made


async def names(engine: docker.APIClient) -> list[str]:
    found = await asyncio.to_thread(engine.containers, all=True)
    return sorted(each["Names"][0].removeprefix("/") for each in found)


async def inspected(engine: docker.APIClient, workload: Workload) -> Any:
    return await asyncio.to_thread(engine.inspect_container, workload.id)


async def the_one(runtime: DockerRuntime) -> Workload:
    (found,) = await runtime.observe()
    return found


async def lines_of(runtime: DockerRuntime, workload: Workload, **how: Any) -> list[str]:
    how = {"tail": None, "since": None, "follow": False} | how
    return [line.line async for line in runtime.logs(workload.id, **how)]


async def test_a_container_is_what_its_spec_says(
    runtime: DockerRuntime, engine: docker.APIClient, tmp_path: Path
) -> None:
    (tmp_path / "stacks/shop/certs").mkdir(parents=True)
    made = replica(
        environment={"GREETING": "hello"},
        facts={"MUSTER_SLOT": "1"},
        ports=(AssignedPort(container_port=80, host_port=free_port()),),
        networks=("inner", "outer"),
        volumes=(
            Volume(source="./certs", container_path="/certs", read_only=True),
            Volume(source="data", container_path="/data"),
        ),
        resources=Resources(memory_mib=64, cpu_millis=500),
        revision=7,
        generation=2,
    )
    workload = await runtime.start(made, quiet)
    raw = await inspected(engine, workload)
    config, host = raw["Config"], raw["HostConfig"]
    assert {"GREETING=hello", "MUSTER_SLOT=1"} <= set(config["Env"])
    labels = config["Labels"]
    assert {name: labels[name] for name in sorted(labels) if name.startswith("muster.")} == {
        "muster.agent": AGENT,
        "muster.cluster": CLUSTER,
        "muster.facts": labels["muster.facts"],
        "muster.generation": "2",
        "muster.image": IMAGE,
        "muster.revision": "7",
        "muster.service": "web",
        "muster.slot": "1",
        "muster.spec": made.hash,
        "muster.stack": "shop",
    }
    assert labels["com.docker.compose.project"] == "shop"
    assert labels["com.docker.compose.oneoff"] == "False"
    assert host["Binds"] == [f"{tmp_path}/stacks/shop/certs:/certs:ro", "shop_data:/data:rw"]
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert (host["Memory"], host["NanoCpus"]) == (64 * 2**20, 500_000_000)
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10m", "max-file": "3"}}
    assert config["StopTimeout"] == 1
    assert set(raw["NetworkSettings"]["Networks"]) == {"shop_inner", "shop_outer"}
    assert (workload.state, workload.revision) == ("running", 7)
    assert (workload.image_ref, workload.ports) == (IMAGE, made.ports)


async def test_a_published_port_answers_on_the_publish_address(runtime: DockerRuntime) -> None:
    port = free_port()
    made = replica(
        "web",
        "/bin/httpd",
        "-f",
        "-p",
        "80",
        ports=(AssignedPort(container_port=80, host_port=port),),
        networks=("inner",),
    )
    await runtime.start(made, quiet)

    async def speaks() -> bool:
        answer = await probe_http("127.0.0.1", port, scheme="http", path="/", timeout_s=2)
        return answer.reason.endswith("answered 404")

    await wait_for(speaks)


async def test_what_runs_already_is_not_started_twice(runtime: DockerRuntime) -> None:
    first = await runtime.start(replica(), quiet)
    assert (await runtime.start(replica(), quiet)).id == first.id
    assert len(await runtime.observe()) == 1


async def test_what_has_come_since_the_last_look_is_not_started_twice(
    runtime: DockerRuntime, dockerd: Dockerd, tmp_path: Path
) -> None:
    assert await runtime.observe() == ()
    async with opened(dockerd, tmp_path) as before:
        first = await before.start(replica(), quiet)
    assert (await runtime.start(replica(), quiet)).id == first.id
    assert len(await runtime.observe()) == 1


async def test_an_ended_container_is_started_again_and_its_log_goes_on(runtime: DockerRuntime) -> None:
    made = replica("web", "/bin/sh", "-c", "echo run; exit 4", restart_policy="no")
    first = await runtime.start(made, quiet)
    ended = await wait_for(lambda: exited(runtime))
    assert ended is not None
    assert (ended.exit_code, ended.reason) == (4, "ended with code 4")
    second = await runtime.start(made, quiet)
    assert second.id == first.id
    await wait_for(lambda: exited(runtime))
    assert await lines_of(runtime, second) == ["run", "run"]


async def exited(runtime: DockerRuntime) -> Workload | None:
    found = await the_one(runtime)
    return found if found.state == "exited" else None


async def test_an_ended_container_with_other_facts_is_made_anew(runtime: DockerRuntime) -> None:
    first = await runtime.start(replica(facts={"MAIN_HOST": "10.0.0.1"}), quiet)
    await runtime.stop(first.id)
    second = await runtime.start(replica(facts={"MAIN_HOST": "10.0.0.2"}), quiet)
    assert second.id != first.id
    assert [each.id for each in await runtime.observe()] == [second.id]


class TestPreparedImages:
    async def test_a_start_takes_the_image_that_was_prepared_though_its_tag_moved(
        self, runtime: DockerRuntime, engine: docker.APIClient
    ) -> None:
        made, prepared = await self._tagged(engine), await asyncio.to_thread(engine.inspect_image, IMAGE)
        await runtime.prepare(made, quiet)
        assert made.image is not None
        other = await self._another(engine)
        await asyncio.to_thread(engine.tag, other, made.image.ref)
        try:
            assert (await runtime.start(made, quiet)).image_id == prepared["Id"]
        finally:
            await asyncio.to_thread(engine.remove_image, made.image.ref, force=True)

    async def test_an_image_that_is_gone_since_it_was_prepared_is_looked_for_again(
        self, runtime: DockerRuntime, engine: docker.APIClient
    ) -> None:
        other = await self._another(engine)
        made = await self._tagged(engine, other)
        assert made.image is not None
        await runtime.prepare(made, quiet)
        await asyncio.to_thread(engine.remove_image, other, force=True)
        await asyncio.to_thread(engine.tag, IMAGE, made.image.ref)
        try:
            there = await asyncio.to_thread(engine.inspect_image, IMAGE)
            assert (await runtime.start(made, quiet)).image_id == there["Id"]
        finally:
            await asyncio.to_thread(engine.remove_image, made.image.ref, force=True)

    async def _tagged(self, engine: docker.APIClient, image: str = IMAGE) -> ReplicaSpec:
        """A replica with an image of a name of its own."""
        await asyncio.to_thread(engine.tag, image, "muster-test-moving:1")
        return replica(image=Image(ref="muster-test-moving:1"))

    async def _another(self, engine: docker.APIClient) -> str:
        """The id of another image with the same programs."""
        made = await asyncio.to_thread(engine.create_container, IMAGE, ["/bin/true"])
        committed = await asyncio.to_thread(engine.commit, made["Id"], message=str(time.monotonic_ns()))
        await asyncio.to_thread(engine.remove_container, made["Id"])
        return str(committed["Id"])


class TestFailedStarts:
    async def test_a_missing_image_is_not_found_with_the_engines_words(
        self, runtime: DockerRuntime, engine: docker.APIClient
    ) -> None:
        seen: list[str] = []
        missing = replica(image=Image(ref="127.0.0.1:1/nothing:here"))
        with pytest.raises(errors.NotFound, match=r"isn't on this host and can't be pulled: .*refused"):
            await runtime.start(missing, lambda step, detail: seen.append(f"{step} {detail}"))
        assert seen[0] == "pulling image 127.0.0.1:1/nothing:here"
        assert await runtime.observe() == ()

    async def test_another_image_than_the_pinned_one_is_not_run(self, runtime: DockerRuntime) -> None:
        with pytest.raises(errors.NotFound):
            await runtime.prepare(replica(image=Image(ref=IMAGE, digest="sha256:" + "0" * 64)), quiet)

    async def test_a_taken_port_is_named_and_nothing_is_left(
        self, runtime: DockerRuntime, engine: docker.APIClient
    ) -> None:
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            port = listener.getsockname()[1]
            made = replica(ports=(AssignedPort(container_port=80, host_port=port),), networks=("inner",))
            with pytest.raises(errors.PortTaken) as taken:
                await runtime.start(made, quiet)
        assert taken.value.ports == (port,)
        assert await names(engine) == []

    async def test_a_program_that_is_not_in_the_image_leaves_no_container(
        self, runtime: DockerRuntime, engine: docker.APIClient
    ) -> None:
        with pytest.raises(errors.MusterError, match="no-such-program"):
            await runtime.start(replica("web", "/no-such-program"), quiet)
        assert await names(engine) == []

    async def test_a_foreign_container_of_that_name_is_said_and_left_alone(
        self, runtime: DockerRuntime, engine: docker.APIClient
    ) -> None:
        foreign = await asyncio.to_thread(engine.create_container, IMAGE, ["/bin/sleep", "300"], name="shop-web-1")
        try:
            with pytest.raises(errors.Conflict, match="isn't this replica's"):
                await runtime.start(replica(), quiet)
            assert await runtime.observe() == ()
            with pytest.raises(errors.Conflict, match="isn't this replica's"):
                await runtime.start(replica(), quiet)
            assert await names(engine) == ["shop-web-1"]
        finally:
            await asyncio.to_thread(engine.remove_container, foreign["Id"], force=True)

    async def test_a_link_out_of_the_stacks_directory_is_not_mounted(
        self, runtime: DockerRuntime, tmp_path: Path
    ) -> None:
        (tmp_path / "stacks/shop").mkdir(parents=True)
        (tmp_path / "stacks/shop/data").symlink_to("/etc")
        with pytest.raises(errors.NotAllowed, match="leads out"):
            await runtime.start(replica(volumes=(Volume(source="./data", container_path="/data"),)), quiet)


async def test_stop_ends_it_and_what_is_gone_is_fine(runtime: DockerRuntime) -> None:
    workload = await runtime.start(replica(), quiet)
    for _ in range(2):
        await runtime.stop(workload.id)
    assert (await the_one(runtime)).state == "exited"
    for _ in range(2):
        await runtime.remove(workload.id)
    await runtime.stop(workload.id)
    assert await runtime.observe() == ()


async def test_dockers_own_health_check_shows(runtime: DockerRuntime) -> None:
    check = HealthCommand(
        test=("CMD", "/bin/sh", "-c", "echo broken; false"), interval_ms=100, timeout_ms=1000, retries=2
    )
    await runtime.start(replica(health_check=check), quiet)

    async def unhealthy() -> Workload | None:
        found = await the_one(runtime)
        return found if found.health == "unhealthy" else None

    sick = await wait_for(unhealthy, ENGINE_TIMEOUT_S)
    assert sick is not None
    assert sick.reason == "its health check fails: broken"


async def test_changes_tell_which_replica(runtime: DockerRuntime, engine: docker.APIClient) -> None:
    changes = aiter(runtime.changes())
    assert await asyncio.wait_for(anext(changes), 5) is None  # connected: anything may have changed
    workload = await runtime.start(replica(restart_policy="no"), quiet)
    more = asyncio.ensure_future(anext(changes))
    assert await asyncio.wait((more,), timeout=0.3) == (set(), {more}), "its own start is told by its answer"
    begun = time.monotonic()
    await asyncio.to_thread(engine.kill, workload.id, signal.SIGKILL)

    assert await more == key("web")
    assert (await the_one(runtime)).state == "exited"
    assert time.monotonic() - begun < 2
    await asyncio.to_thread(engine.start, workload.id)
    assert await asyncio.wait_for(anext(changes), 5) == key("web"), "somebody else's"


async def test_logs_have_streams_times_and_can_be_followed(runtime: DockerRuntime) -> None:
    script = "echo one; echo oops >&2; sleep 0.3; echo two; sleep 300"
    workload = await runtime.start(replica("web", "/bin/sh", "-c", script), quiet)
    seen = []
    async for line in runtime.logs(workload.id, tail=None, since=None, follow=True):
        seen.append((line.stream, line.line))
        assert line.at.endswith("Z")
        if line.line == "two":
            break
    assert sorted(seen) == [("stderr", "oops"), ("stdout", "one"), ("stdout", "two")]
    assert await lines_of(runtime, workload, tail=1) == ["two"]


async def test_tidy_removes_networks_of_stacks_that_are_gone_and_volumes_only_when_told(
    runtime: DockerRuntime, engine: docker.APIClient
) -> None:
    made = replica(networks=("inner",), volumes=(Volume(source="data", container_path="/data"),))
    workload = await runtime.start(made, quiet)

    async def there() -> tuple[bool, bool]:
        networks = await asyncio.to_thread(engine.networks)
        volumes = await asyncio.to_thread(engine.volumes)
        has_network = "shop_inner" in {each["Name"] for each in networks}
        return has_network, "shop_data" in {each["Name"] for each in volumes["Volumes"] or []}

    assert not await runtime.tidy(frozenset(), frozenset()), "the network is still used"
    assert not await runtime.tidy(frozenset({"shop"}), frozenset({"shop"})), "the volume is still used"
    assert await there() == (True, True)
    await runtime.remove(workload.id)
    assert await runtime.tidy(frozenset({"shop"}), frozenset())
    assert await there() == (True, True)
    assert await runtime.tidy(frozenset(), frozenset())
    assert await there() == (False, True)
    assert await runtime.tidy(frozenset(), frozenset({"shop"}))
    assert await there() == (False, False)


@pytest.fixture
def own_dockerd(dockerd: Dockerd) -> Iterator[Dockerd]:
    """One that a test may stop and start; where the shared one runs, this one does."""
    directory = Path(tempfile.mkdtemp(prefix="muster-dockerd-"))
    yield from running_dockerd(directory)


async def test_a_restart_of_dockerd_is_survived(own_dockerd: Dockerd, tmp_path: Path) -> None:
    async with opened(own_dockerd, tmp_path) as runtime:
        await restarted(own_dockerd, runtime)
        await runtime.remove((await the_one(runtime)).id)


async def restarted(dockerd: Dockerd, runtime: DockerRuntime) -> None:
    changes = aiter(runtime.changes())
    await anext(changes)
    await runtime.start(replica(), quiet)
    await asyncio.to_thread(dockerd.stop)
    with pytest.raises(errors.RuntimeUnavailable):
        await runtime.observe()
    info = await runtime.info()
    assert (info.available, bool(info.reason)) == (False, True)
    await asyncio.to_thread(dockerd.start)

    async def running() -> bool:
        try:
            return (await the_one(runtime)).state == "running"
        except errors.RuntimeUnavailable:
            return False

    await wait_for(running, ENGINE_TIMEOUT_S)
    assert (await runtime.info()).available

    async def told() -> bool:
        return await asyncio.wait_for(anext(changes), 10) is None

    await wait_for(told, ENGINE_TIMEOUT_S)


async def test_without_an_engine_it_says_so(tmp_path: Path) -> None:
    async with opened(Dockerd(tmp_path), tmp_path) as nowhere:
        info = await nowhere.info()
        assert (info.available, info.reason) == (False, "Docker doesn't answer while connecting")
        with pytest.raises(errors.RuntimeUnavailable):
            await nowhere.start(replica(), quiet)


async def test_an_absolute_path_is_mounted_as_it_is_and_read_only_is_kept(
    runtime: DockerRuntime, engine: docker.APIClient, tmp_path: Path
) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/a").write_text("weights")
    volume = Volume(source=str(tmp_path / "models"), container_path="/models", read_only=True)
    script = "cat /models/a; echo x > /models/b || echo refused"
    workload = await runtime.start(
        replica("web", "/bin/sh", "-c", script, volumes=(volume,), restart_policy="no"), quiet
    )
    await wait_for(lambda: exited(runtime))
    said = " ".join(await lines_of(runtime, workload))
    assert "weights" in said
    assert "refused" in said
    assert [each.name for each in (tmp_path / "models").iterdir()] == ["a"]


async def test_a_single_file_of_the_stacks_directory_is_mounted_as_a_file(
    runtime: DockerRuntime, tmp_path: Path
) -> None:
    (tmp_path / "stacks/shop").mkdir(parents=True)
    (tmp_path / "stacks/shop/app.conf").write_text("port 80")
    volume = Volume(source="./app.conf", container_path="/etc/app.conf")
    made = replica("web", "/bin/cat", "/etc/app.conf", volumes=(volume,), restart_policy="no")
    workload = await runtime.start(made, quiet)
    await wait_for(lambda: exited(runtime))
    assert await lines_of(runtime, workload) == ["port 80"]


async def test_a_named_volume_outlives_its_container(runtime: DockerRuntime) -> None:
    data = (Volume(source="data", container_path="/data"),)
    script = "cat /data/kept 2>&1; echo hello > /data/kept"
    for turn, expected in enumerate(("", "hello")):
        made = replica("web", "/bin/sh", "-c", script, volumes=data, restart_policy="no", generation=turn)
        workload = await runtime.start(made, quiet)
        await wait_for(lambda: exited(runtime))
        assert " ".join(await lines_of(runtime, workload)).endswith(expected)
        await runtime.remove(workload.id)


async def test_replicas_of_a_network_reach_each_other_by_their_services_name(runtime: DockerRuntime) -> None:
    await runtime.start(replica("db", "/bin/httpd", "-f", "-p", "80", networks=("inner",)), quiet)
    script = "wget -q -O - http://db/ 2>&1"
    made = replica(
        "web", "/bin/busybox", "sh", "-c", f"/bin/busybox {script}", networks=("inner",), restart_policy="no"
    )
    workload = await runtime.start(made, quiet)

    async def ended() -> bool:
        return any(each.key == key("web") and each.state == "exited" for each in await runtime.observe())

    await wait_for(ended)
    assert "404" in " ".join(await lines_of(runtime, workload))


@pytest.mark.parametrize("policy", ["no", "on-failure", "always", "unless-stopped"])
async def test_every_restart_policy_is_dockers(runtime: DockerRuntime, engine: docker.APIClient, policy: str) -> None:
    raw = await inspected(engine, await runtime.start(replica(restart_policy=policy), quiet))
    assert raw["HostConfig"]["RestartPolicy"]["Name"] == policy


async def test_a_container_that_ends_badly_is_restarted_by_the_engine(runtime: DockerRuntime) -> None:
    await runtime.start(replica("web", "/bin/sh", "-c", "exit 3", restart_policy="on-failure"), quiet)

    async def restarted_once() -> bool:
        return (await the_one(runtime)).restarts >= 1

    await wait_for(restarted_once, ENGINE_TIMEOUT_S)


async def test_the_stop_grace_is_kept_and_ends(runtime: DockerRuntime) -> None:
    deaf = replica("web", "/bin/sh", "-c", "trap '' TERM; echo ready; while true; do sleep 1; done", stop_grace_ms=2000)
    workload = await runtime.start(deaf, quiet)

    async def ready() -> bool:
        return await lines_of(runtime, workload) == ["ready"]

    await wait_for(ready)
    begun = time.monotonic()
    await runtime.stop(workload.id)
    assert 1.5 < time.monotonic() - begun < ENGINE_TIMEOUT_S
    assert (await the_one(runtime)).exit_code == 137


async def test_more_memory_than_its_limit_ends_it_with_that_reason(runtime: DockerRuntime) -> None:
    script = "x=0123456789abcdef; while true; do x=$x$x; done"
    made = replica("web", "/bin/sh", "-c", script, resources=Resources(memory_mib=16), restart_policy="no")
    await runtime.start(made, quiet)
    ended = await wait_for(lambda: exited(runtime), ENGINE_TIMEOUT_S)
    assert ended is not None
    assert ended.exit_code != 0


async def test_a_healthy_check_shows_and_a_start_period_is_passed_on(
    runtime: DockerRuntime, engine: docker.APIClient
) -> None:
    check = HealthCommand(test=("CMD-SHELL", "true"), interval_ms=100, timeout_ms=1000, retries=2, start_period_ms=500)
    workload = await runtime.start(replica(health_check=check), quiet)

    async def healthy() -> bool:
        return (await the_one(runtime)).health == "healthy"

    await wait_for(healthy, ENGINE_TIMEOUT_S)
    raw = await inspected(engine, workload)
    assert raw["Config"]["Healthcheck"] == {
        "Test": ["CMD-SHELL", "true"],
        "Interval": 100_000_000,
        "Timeout": 1_000_000_000,
        "Retries": 2,
        "StartPeriod": 500_000_000,
    }


async def test_what_a_container_uses_is_counted_with_its_limit(runtime: DockerRuntime) -> None:
    limited = Resources(memory_mib=64)
    busy = await runtime.start(replica("busy", "/bin/sh", "-c", "while :; do :; done", resources=limited), quiet)
    ended = await runtime.start(replica("ended", "/bin/true", restart_policy="no"), quiet)
    before = (await runtime.counters([busy.id]))[busy.id]
    assert 0 < before.memory_bytes < before.memory_limit_bytes == 64 * 1024 * 1024

    async def worked() -> bool:
        after = (await runtime.counters([busy.id]))[busy.id]
        return after.cpu_s - before.cpu_s > 0.2 and after.at_s > before.at_s

    await wait_for(worked)

    async def not_counted() -> bool:
        return ended.id not in await runtime.counters([busy.id, ended.id])

    await wait_for(not_counted)
    await runtime.remove(busy.id)
    assert await runtime.counters([busy.id]) == {}
