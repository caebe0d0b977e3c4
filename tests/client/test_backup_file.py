"""A backup file: written whole or not at all, and believed only when all of it is what its manifest says."""

from __future__ import annotations

import asyncio
import os
import tarfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.client.backup_file import Backup, BackupWriter, open_backup, whole
from agent.errors import Conflict, InputError, MusterError, NotAuthenticated
from agent.formats.backup import Manifest, Part, encode_manifest
from agent.instruction import new_key, public_hex, read_backup, sign_backup
from agent.model.cluster import Operator

KEY = new_key()
CLUSTER = "abcdefghijklmnop"
OPERATORS = {"ann": Operator(name="ann", key=public_hex(KEY), scope="admin")}

CONTENTS = {"state": b"s" * 700, "plans/shop.json": b"{}", "volumes/0000.tar": b"v" * 512, "files/empty": b""}
KINDS = {"state": "state", "plans/shop.json": "plan", "volumes/0000.tar": "volume", "files/empty": "file"}


def part(name: str) -> Part:
    return Part(name=name, kind=KINDS.get(name, "file"), size=0, sha256="0" * 64)  # type: ignore[arg-type]  # KINDS'


def manifest(parts: list[Part]) -> bytes:
    made = Manifest(
        made_at="2024-01-15T10:30:00Z",
        made_by="ann",
        agent_version="0.1.0",
        cluster=CLUSTER,
        cluster_name="lab",
        epoch=1,
        index=7,
        hosts=("n1",),
        parts=tuple(parts),
    )
    return encode_manifest(made)


def write(path: Path) -> None:
    async def run() -> None:
        async with BackupWriter(path) as writer:
            for name, data in CONTENTS.items():
                await writer.add(part(name), whole(data))
            await writer.finish(manifest(writer.parts), "a.signature")

    asyncio.run(run())


def contents(found: Backup) -> dict[str, bytes]:
    return {each.name: found.read(each) for each in found.manifest.parts}


def held(path: Path) -> dict[str, bytes]:
    return contents(open_backup(path))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write(tmp_path / "b.tar")
    return tmp_path / "b.tar"


def test_what_was_written_is_read_again(file: Path, tmp_path: Path) -> None:
    found = open_backup(file)
    assert contents(found) == CONTENTS
    assert found.signature == "a.signature"
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["b.tar"]
    found.extract(found.manifest.parts[0], tmp_path / "state")
    assert (tmp_path / "state").read_bytes() == CONTENTS["state"]


def test_tar_reads_it_too(file: Path) -> None:
    with tarfile.open(file) as tar:
        assert tar.getnames() == [*CONTENTS, "manifest.json", "manifest.jwt"]


async def test_the_event_loop_goes_on_while_the_disk_works(tmp_path: Path) -> None:
    """What blocks it would raise BlockingError here."""
    async with BackupWriter(tmp_path / "b.tar") as writer:
        for name, data in CONTENTS.items():
            await writer.add(part(name), whole(data))
        await writer.finish(manifest(writer.parts), "a.signature")
    assert await asyncio.to_thread(held, tmp_path / "b.tar") == CONTENTS


async def test_a_backup_is_never_overwritten_and_a_failed_one_leaves_nothing(file: Path, tmp_path: Path) -> None:
    with pytest.raises(Conflict):
        async with BackupWriter(file):
            pass

    async def breaks() -> AsyncIterator[bytes]:
        yield b"some"
        raise MusterError("the host is gone")

    async def run() -> None:
        async with BackupWriter(tmp_path / "c.tar") as writer:
            await writer.add(part("state"), whole(CONTENTS["state"]))
            await writer.add(part("files/x"), breaks())

    with pytest.raises(MusterError, match="gone"):
        await run()
    assert os.listdir(tmp_path) == ["b.tar"]


async def test_one_that_is_made_meanwhile_is_not_overwritten_either(tmp_path: Path) -> None:
    async def run() -> None:
        async with BackupWriter(tmp_path / "b.tar") as writer:
            await asyncio.to_thread((tmp_path / "b.tar").write_text, "somebody else's")
            await writer.finish(manifest(writer.parts), "a.signature")

    with pytest.raises(Conflict):
        await run()
    assert os.listdir(tmp_path) == ["b.tar"]


async def test_a_directory_that_is_not_there_says_so(tmp_path: Path) -> None:
    with pytest.raises(MusterError, match="can't be written"):
        async with BackupWriter(tmp_path / "none" / "b.tar"):
            pass


async def test_ctrl_c_is_heard_at_once_and_leaves_nothing(tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def never_ends() -> AsyncIterator[bytes]:
        while True:
            yield b"v" * 65_536
            begun.set()

    async def run() -> None:
        async with BackupWriter(tmp_path / "b.tar") as writer:
            await writer.add(part("volumes/0000.tar"), never_ends())

    task = asyncio.create_task(run())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert os.listdir(tmp_path) == []


async def test_a_part_that_broke_off_is_taken_back_and_others_follow(tmp_path: Path) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield b"half of it" * 100
        raise MusterError("the host is gone")

    async with BackupWriter(tmp_path / "b.tar") as writer:
        await writer.add(part("state"), whole(CONTENTS["state"]))
        with pytest.raises(MusterError):
            await writer.add(part("volumes/0000.tar"), breaks())
        await writer.add(part("files/empty"), whole(b""))
        await writer.finish(manifest(writer.parts), "a.signature")
    assert (await asyncio.to_thread(held, tmp_path / "b.tar")).keys() == {"state", "files/empty"}


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_flipped_bit_is_refused_or_changes_nothing_that_is_read(file: Path, data: st.DataObject) -> None:
    whole_file = file.read_bytes()
    at, bit = data.draw(st.integers(0, len(whole_file) - 1)), data.draw(st.integers(0, 7))
    broken = file.with_name("broken")
    broken.write_bytes(whole_file[:at] + bytes([whole_file[at] ^ (1 << bit)]) + whole_file[at + 1 :])
    before = open_backup(file)
    try:
        found = open_backup(broken)
    except InputError:
        return
    assert contents(found) == CONTENTS
    signed = sign_backup(KEY, manifest=before.manifest_bytes, operator_name="ann", cluster=CLUSTER, epoch=1, now_s=1.0)
    if found.manifest_bytes != before.manifest_bytes:
        with pytest.raises(NotAuthenticated):
            read_backup(signed, found.manifest_bytes, OPERATORS, CLUSTER, 1)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.data())
def test_a_truncated_one_is_refused(file: Path, data: st.DataObject) -> None:
    end = open_backup(file).starts["manifest.jwt"]
    broken = file.with_name("broken")
    broken.write_bytes(file.read_bytes()[: data.draw(st.integers(0, end))])
    with pytest.raises(InputError):
        open_backup(broken)


def test_how_much_is_verified_is_told(file: Path) -> None:
    told: list[int] = []
    open_backup(file, told.append)
    assert told == sorted(told)
    assert 0 < told[-1] <= file.stat().st_size


def test_a_later_version_says_which_version_restores_it(file: Path) -> None:
    later = file.read_bytes().replace(b'"version": 1', b'"version": 2')
    file.write_bytes(later)
    with pytest.raises(InputError, match="format 2") as caught:
        open_backup(file)
    assert "later" in caught.value.fix


def test_no_file_and_no_backup_say_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no such file"):
        open_backup(tmp_path / "none")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(InputError, match="backup"):
        open_backup(tmp_path / "text")
