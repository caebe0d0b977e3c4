"""What goes along with a plan, and `agent load`: from the operator's disk to a member."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest

from agent.cli import shipment
from agent.cli.shipment import pack
from agent.errors import InputError, TooLarge
from agent.model.api import ImageProgress
from agent.model.stack import Image, Service, Stack, Volume
from tests.cli.conftest import Agent
from tests.support.fake_node import FakeCluster


def mounting(*sources: str) -> Stack:
    volumes = tuple(Volume(source=source, container_path=f"/m{n}") for n, source in enumerate(sources))
    return Stack(name="shop", services={"web": Service(image=Image(ref="web:1"), volumes=volumes)})


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "plan"
    (made / "certs/deep").mkdir(parents=True)
    (made / "certs/a.crt").write_text("one")
    (made / "certs/deep/b.key").write_text("two")
    (made / "certs/deep/b.key").chmod(0o600)
    (made / "beside").write_text("not mounted")
    return made


class TestPacking:
    def test_what_is_mounted_goes_along_with_digest_size_and_mode(self, directory: Path) -> None:
        packed = pack(mounting("./certs", "data", "/srv/x"), directory)
        assert packed.stack.files.keys() == {"certs/a.crt", "certs/deep/b.key"}
        key = packed.stack.files["certs/deep/b.key"]
        assert (key.digest, key.size, key.mode) == (hashlib.sha256(b"two").hexdigest(), 3, 0o600)
        assert packed.contents[key.digest].read_text() == "two"
        assert packed.absent == ()

    def test_the_same_content_is_sent_once_and_overlapping_mounts_name_a_file_once(self, directory: Path) -> None:
        (directory / "certs/again").write_text("one")
        packed = pack(mounting("./certs", "./certs/deep", "."), directory)
        assert len(packed.stack.files) == 4
        assert len(packed.contents) == 3

    def test_what_is_not_there_is_told_and_no_error(self, directory: Path) -> None:
        assert pack(mounting("./data", "./certs"), directory).absent == ("data",)

    def test_a_link_inside_the_directory_is_followed(self, directory: Path) -> None:
        (directory / "certs/link").symlink_to("../beside")
        assert "certs/link" in pack(mounting("./certs"), directory).stack.files

    @pytest.mark.parametrize("target", ["/etc/hostname", "../../outside", "/etc"])
    def test_a_link_out_of_the_directory_is_refused(self, directory: Path, target: str) -> None:
        (directory.parent / "outside").write_text("a secret")
        (directory / "certs/link").symlink_to(target)
        with pytest.raises(InputError, match="leads out") as refused:
            pack(mounting("./certs"), directory)
        assert refused.value.where == "./certs/link"

    def test_a_link_in_a_circle_is_refused(self, directory: Path) -> None:
        (directory / "certs/deep/up").symlink_to("..")
        with pytest.raises(InputError, match="leads back"):
            pack(mounting("./certs"), directory)

    def test_what_is_no_file_is_refused(self, directory: Path) -> None:
        os.mkfifo(directory / "certs/pipe")
        with pytest.raises(InputError, match="neither a file nor a directory"):
            pack(mounting("./certs"), directory)

    @pytest.mark.parametrize("bound", ["MAX_FILES", "MAX_FILES_BYTES"])
    def test_count_and_size_are_bounded(self, directory: Path, monkeypatch: pytest.MonkeyPatch, bound: str) -> None:
        monkeypatch.setattr(shipment, bound, 1)
        with pytest.raises(TooLarge):
            pack(mounting("./certs"), directory)


async def test_a_deploy_sends_the_files_before_the_instruction_that_names_them(
    agent: Agent, running: FakeCluster, directory: Path
) -> None:
    volume = {"host_path": "./certs", "container_path": "/certs"}
    absent = {"host_path": "./data", "container_path": "/data"}
    plan = {"stack": "shop", "services": {"web": {"docker_image": "web:1", "volumes": [volume, absent]}}}
    (directory / "plan.json").write_text(json.dumps(plan))
    said = await agent("--via", "n1", "deploy", str(directory / "plan.json"), "--detach")
    assert said.code == 0, said.err
    assert "there is no ./data beside the plan" in said.err
    node = running.nodes["n1"].node
    body = json.loads(node.submitted[0][1])
    assert {each["digest"] for each in body["files"].values()} <= node.blobs.contents.keys()


async def test_a_dry_run_sends_nothing(agent: Agent, running: FakeCluster, directory: Path) -> None:
    volume = {"host_path": "./certs", "container_path": "/certs"}
    plan = {"stack": "shop", "services": {"web": {"docker_image": "web:1", "volumes": [volume]}}}
    (directory / "plan.json").write_text(json.dumps(plan))
    before = {name: set(each.node.blobs.contents) for name, each in running.nodes.items()}
    assert (await agent("deploy", str(directory / "plan.json"), "--dry-run")).code == 0
    assert {name: set(each.node.blobs.contents) for name, each in running.nodes.items()} == before


class TestLoad:
    async def load(
        self, agent: Agent, running: FakeCluster, tmp_path: Path, *told: ImageProgress, options: tuple[str, ...] = ()
    ) -> tuple[int, str, str]:
        (tmp_path / "web.tar").write_bytes(b"archive" * 400_000)
        running.nodes["n1"].node.blobs.progress = list(told)
        said = await agent("--via", "n1", "load", str(tmp_path / "web.tar"), *options)
        return said.code, said.out, said.err

    async def test_each_host_says_what_it_has(self, agent: Agent, running: FakeCluster, tmp_path: Path) -> None:
        told = (
            ImageProgress(host="n1", step="loading"),
            ImageProgress(host="n1", step="loaded", images=("web:1",)),
            ImageProgress(host="n2", step="skipped"),
        )
        code, out, err = await self.load(agent, running, tmp_path, *told)
        assert (code, out.splitlines()) == (0, ["n1: loading", "n1: has web:1", "n2: runs no Docker"])
        assert "sending: 100 % of 2 MB" in err
        blobs = running.nodes["n1"].node.blobs
        assert hashlib.sha256(b"archive" * 400_000).hexdigest() in blobs.contents
        assert len(blobs.loads) == 1

    async def test_a_host_that_could_not_is_named_and_the_exit_code_is_3(
        self, agent: Agent, running: FakeCluster, tmp_path: Path
    ) -> None:
        told = (
            ImageProgress(host="n1", step="loaded", images=("web:1",)),
            ImageProgress(host="n2", step="failed", what="the disk is full", fix="make room"),
        )
        code, out, err = await self.load(agent, running, tmp_path, *told)
        assert code == 3
        assert "n2: the disk is full (make room)" in out
        assert "isn't on n2" in err

    async def test_a_host_that_never_came_to_an_end_failed(
        self, agent: Agent, running: FakeCluster, tmp_path: Path
    ) -> None:
        code, _, err = await self.load(agent, running, tmp_path, ImageProgress(host="n1", step="fetching"))
        assert (code, "isn't on n1" in err) == (3, True)

    async def test_json_has_the_last_word_of_each_host(
        self, agent: Agent, running: FakeCluster, tmp_path: Path
    ) -> None:
        told = ImageProgress(host="n1", step="loaded", images=("web:1",))
        code, out, _ = await self.load(agent, running, tmp_path, told, options=("--json",))
        assert code == 0
        assert json.loads(out)["hosts"] == [{"host": "n1", "step": "loaded", "images": ["web:1"]}]

    @pytest.mark.parametrize("arguments", [("-x",), ("web:1", "--host", "N/1"), ("--", "-v")])
    async def test_bad_input_is_told_before_anything_is_sent(
        self, agent: Agent, running: FakeCluster, arguments: tuple[str, ...]
    ) -> None:
        assert (await agent("load", *arguments)).code == 2

    async def test_an_image_that_is_nowhere_is_said(
        self, agent: Agent, running: FakeCluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        monkeypatch.setenv("PATH", str(tmp_path))
        said = await agent("load", "web:1")
        assert (said.code, "no `docker` on this machine" in said.err) == (1, True)
        docker = tmp_path / "docker"
        docker.write_text("#!/bin/sh\necho 'Cannot connect to the Docker daemon.' >&2\nexit 1\n")
        docker.chmod(0o755)
        said = await agent("load", "web.tar")
        assert "web.tar: there is no such file, and as an image: Cannot connect to the Docker daemon." in said.err
