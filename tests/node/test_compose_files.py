"""The compose files beside what runs: there while it is wanted, gone with it, never in anybody else's hands."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from agent.errors import StorageError
from agent.host import Desired
from agent.node.driver import compose_files
from agent.node.driver.compose_files import ComposeFiles
from tests.node.test_hosting import hosting
from tests.support.fake_runtime import FakeRuntime
from tests.support.replicas import key, spec, wanted
from tests.support.waiting import wait_for


@pytest.fixture
def files(tmp_path: Path) -> ComposeFiles:
    return ComposeFiles(tmp_path, publish_address="127.0.0.1")


def path(directory: Path, stack: str = "shop") -> Path:
    return directory / "stacks" / stack / "docker-compose.yml"


async def test_the_host_writes_what_it_runs_and_removes_it_with_the_stack(tmp_path: Path) -> None:
    async with hosting(FakeRuntime(), tmp_path) as host:
        host.want(wanted(spec()))
        await wait_for(path(tmp_path).exists)
        assert path(tmp_path).stat().st_mode & 0o777 == 0o600
        host.want(wanted(spec(image=None), spec("api")))
        await wait_for(lambda: "api:" in path(tmp_path).read_text())
        host.want(wanted())
        await wait_for(lambda: not path(tmp_path).parent.exists())


async def test_one_start_after_another_does_not_put_the_file_off_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.node.driver.hosting.COMPOSE_AFTER_S", 0.3)
    async with hosting(FakeRuntime(), tmp_path) as host:
        for count in range(1, 101):
            host.want(wanted(*(spec(f"web-{number}") for number in range(count))))
            await asyncio.sleep(0.05)
            if path(tmp_path).exists():
                return
    raise AssertionError("no file while one start followed another")


async def test_a_stopped_replica_stays_in_its_file(files: ComposeFiles, tmp_path: Path) -> None:
    await files.keep(wanted(stopped=(spec(),), stacks=frozenset({"shop"})))
    assert "web:" in path(tmp_path).read_text()


async def test_what_moves_away_stays_in_its_file_until_its_successor_is_healthy(
    files: ComposeFiles, tmp_path: Path
) -> None:
    shop = frozenset({"shop"})
    await files.keep(wanted(spec("api")))
    for beside in (spec("web"), spec("job")):  # while it goes on, others come and go
        await files.keep(wanted(beside, kept=frozenset({key("api")}), stacks=shop))
        shown = path(tmp_path).read_text()
        assert "container_name: shop-api-1" in shown
    await files.keep(wanted(spec("job")))
    assert "api:" not in path(tmp_path).read_text()
    await files.keep(wanted(spec("job"), kept=frozenset({key("api")}), stacks=shop))
    assert "api:" not in path(tmp_path).read_text(), "what it was is forgotten with it"


async def test_what_didnt_change_isnt_written_again(files: ComposeFiles, tmp_path: Path) -> None:
    await files.keep(wanted(spec()))
    before = path(tmp_path).stat()
    await files.keep(wanted(spec(facts={"MAIN_HOST": "n2"}), spec(key=key(stack="blog"))))
    assert path(tmp_path).stat().st_ino == before.st_ino
    assert path(tmp_path, "blog").exists()


async def test_an_agent_removes_what_the_one_before_it_left(files: ComposeFiles, tmp_path: Path) -> None:
    await files.keep(wanted(spec()))
    (path(tmp_path).parent / "certs").mkdir()
    await ComposeFiles(tmp_path, publish_address="").keep(wanted())
    assert not path(tmp_path).exists()
    assert (path(tmp_path).parent / "certs").exists(), "the stack's own files are not ours"


async def test_a_link_in_its_place_is_replaced_not_followed(files: ComposeFiles, tmp_path: Path) -> None:
    """A container that mounts the stack's directory may put anything there."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path(tmp_path).parent.mkdir(parents=True)
    path(tmp_path).symlink_to(victim)
    await files.keep(wanted(spec()))
    assert victim.read_text() == "mine"
    assert not path(tmp_path).is_symlink()


async def test_a_disk_that_refuses_is_asked_again(
    files: ComposeFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StorageError("no space left")

    desired: Desired = wanted(spec())
    with monkeypatch.context() as patch:
        patch.setattr(compose_files, "write_private", full)
        await files.keep(desired)
    assert not path(tmp_path).exists()
    await files.keep(desired)
    assert path(tmp_path).exists()
