"""The endpoint files: readable for any program, replaced in one step, gone with the stack."""

from __future__ import annotations

import os
from pathlib import Path

from agent.node.driver.endpoint_files import EndpointFiles
from tests.support.replicas import wanted


async def test_a_file_is_replaced_inside_a_directory_that_stays(tmp_path: Path) -> None:
    files = EndpointFiles(tmp_path / "endpoints")
    await files.keep(wanted(endpoints={"shop": b"one"}))
    directory = tmp_path / "endpoints" / "shop"
    mounted, inode = directory.stat().st_ino, (directory / "endpoints.json").stat().st_ino
    assert (directory / "endpoints.json").stat().st_mode & 0o777 == 0o644
    with (directory / "endpoints.json").open("rb") as reader:
        await files.keep(wanted(endpoints={"shop": b"two"}))
        assert reader.read() == b"one"
    assert (directory / "endpoints.json").read_bytes() == b"two"
    assert (directory / "endpoints.json").stat().st_ino != inode
    assert directory.stat().st_ino == mounted
    assert os.listdir(directory) == ["endpoints.json"]


async def test_it_goes_with_its_stack_also_what_the_agent_before_left(tmp_path: Path) -> None:
    await EndpointFiles(tmp_path).keep(wanted(endpoints={"shop": b"one", "blog": b"one"}))
    await EndpointFiles(tmp_path).keep(wanted(endpoints={"blog": b"one"}))
    assert os.listdir(tmp_path) == ["blog"]


async def test_a_disk_that_refuses_is_asked_again(tmp_path: Path) -> None:
    (tmp_path / "endpoints").write_text("in the way")
    files = EndpointFiles(tmp_path / "endpoints")
    await files.keep(wanted(endpoints={"shop": b"one"}))
    (tmp_path / "endpoints").unlink()
    await files.keep(wanted(endpoints={"shop": b"one"}))
    assert (tmp_path / "endpoints" / "shop" / "endpoints.json").read_bytes() == b"one"
