"""A volume's content as an archive and back: the same again, whole or not at all, and nothing beside it."""

from __future__ import annotations

import io
import os
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import InputError
from agent.runtime.volumes import _Exactly, pack, unpack


def archive_of(directory: Path, tmp_path: Path) -> Path:
    archive = tmp_path / "archive.tar"
    with archive.open("wb") as target:
        pack(directory, target)
    return archive


def shown(directory: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in [directory, *directory.rglob("*")]:
        name, mode = path.relative_to(directory).as_posix(), path.lstat().st_mode
        found[name] = (mode, os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None)
    return found


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    made = tmp_path / "v" / "_data"
    made.mkdir(parents=True, mode=0o750)
    (made / "base").mkdir(mode=0o777)
    (made / "base" / "1").write_bytes(b"rows")
    (made / "base" / "1").chmod(0o664)
    (made / "current").symlink_to("base/1")
    (made / "away").symlink_to("/etc/passwd")
    os.link(made / "base" / "1", made / "twin")
    (made / "none").touch()
    return made


def test_what_is_packed_is_unpacked_as_it_was(volume: Path, tmp_path: Path) -> None:
    before, archive = shown(volume), archive_of(volume, tmp_path)
    (volume / "base" / "1").write_bytes(b"later")
    (volume / "new").mkdir()
    unpack(archive, volume)
    assert shown(volume) == before
    assert (volume / "twin").stat().st_ino == (volume / "base" / "1").stat().st_ino
    assert [path.name for path in volume.parent.iterdir()] == ["_data"], "nothing is left beside it"


def test_owners_come_back_by_number(volume: Path, tmp_path: Path) -> None:
    if os.geteuid():
        pytest.skip("only root gives files away")
    os.chown(volume / "base" / "1", 70, 71)
    os.chown(volume, 70, 70)
    archive = archive_of(volume, tmp_path)
    os.chown(volume / "base" / "1", 0, 0)
    unpack(archive, volume)
    found = (volume / "base" / "1").stat()
    assert (found.st_uid, found.st_gid, volume.stat().st_uid) == (70, 71, 70)


def test_sockets_and_pipes_stay_out(volume: Path, tmp_path: Path) -> None:
    os.mkfifo(volume / "pipe")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(volume / "sock"))
        with tarfile.open(archive_of(volume, tmp_path)) as tar:
            assert not {"pipe", "sock"} & set(tar.getnames())


def linked_out(tar: tarfile.TarFile) -> None:
    link = tarfile.TarInfo("link")
    link.type, link.linkname = tarfile.SYMTYPE, "/tmp"
    tar.addfile(link)
    add(tar, "link/through")


def add(tar: tarfile.TarFile, name: str, kind: bytes = tarfile.REGTYPE) -> None:
    info = tarfile.TarInfo(name)
    info.size, info.type = 4 if kind == tarfile.REGTYPE else 0, kind
    tar.addfile(info, io.BytesIO(b"evil"))


@pytest.mark.parametrize(
    "write",
    [
        lambda tar: add(tar, "../beside"),
        lambda tar: add(tar, "a/../../beside"),
        linked_out,
        lambda tar: add(tar, "disk", tarfile.BLKTYPE),
        lambda tar: add(tar, "tty", tarfile.CHRTYPE),
    ],
)
def test_an_archive_that_leads_out_changes_nothing(
    write: Callable[[tarfile.TarFile], None], volume: Path, tmp_path: Path
) -> None:
    before = shown(volume)
    with tarfile.open(tmp_path / "evil.tar", "w") as tar:
        write(tar)
    with pytest.raises(InputError):
        unpack(tmp_path / "evil.tar", volume)
    assert shown(volume) == before
    assert [path.name for path in volume.parent.iterdir()] == ["_data"]


def test_no_archive_at_all_changes_nothing(volume: Path, tmp_path: Path) -> None:
    before = shown(volume)
    (tmp_path / "no.tar").write_bytes(b"no archive" * 200)
    with pytest.raises(InputError, match="archive"):
        unpack(tmp_path / "no.tar", volume)
    assert shown(volume) == before


@settings(max_examples=50)
@given(st.binary(max_size=300), st.integers(0, 400), st.integers(1, 64))
def test_a_file_is_read_as_long_as_it_was_announced(data: bytes, size: int, step: int) -> None:
    reader = _Exactly(io.BytesIO(data), size)
    parts = []
    while part := reader.read(step):
        parts.append(part)
    assert b"".join(parts) == (data + bytes(size))[:size]
