"""Which files a replica mounts, what that does to its hash, and which paths a stack may name."""

from __future__ import annotations

import msgspec
import pytest

from agent.host.files import mounted_files, newest_files, shipped_path
from agent.model.spec import MountedFile
from agent.model.stack import MAX_FILES_BYTES, Image, Service, Stack, StackFile, Volume
from tests.support.replicas import spec


def volume(source: str) -> Volume:
    return Volume(source=source, container_path="/there")


def service(*sources: str) -> Service:
    return Service(image=Image(ref="web:1"), volumes=tuple(map(volume, sources)))


def stack(*paths: str, size: int = 1) -> Stack:
    files = {path: StackFile(digest="0" * 64, size=size) for path in paths}
    return Stack(name="shop", services={"web": service()}, files=files)


def mounted(path: str, digest: str = "0" * 64) -> MountedFile:
    return MountedFile(path=path, digest=digest, size=1, mode=0o644)


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("./certs", "certs"),
        ("./certs/", "certs"),
        (".", ""),
        ("./", ""),
        ("./a//b", "a/b"),
        ("data", None),
        ("/x", None),
    ],
)
def test_only_relative_volumes_name_files(source: str, path: str | None) -> None:
    assert shipped_path(volume(source)) == path


def test_a_replica_mounts_what_is_below_its_volumes_and_nothing_beside_them() -> None:
    every = stack("certs/a", "certs/b/c", "certs2/a", "conf.yml", "other")
    assert [file.path for file in mounted_files(every, service("./certs", "./conf.yml"))] == [
        "certs/a",
        "certs/b/c",
        "conf.yml",
    ]
    assert len(mounted_files(every, service("."))) == 5
    assert mounted_files(every, service("data", "/certs")) == ()


def test_another_content_or_mode_makes_another_replica() -> None:
    one = spec(files=(mounted("conf"),))
    assert one.hash != spec().hash
    assert one.hash != spec(files=(mounted("conf", "1" * 64),)).hash
    assert one.hash != spec(files=(msgspec.structs.replace(mounted("conf"), mode=0o600),)).hash
    assert one.hash == spec(files=(mounted("conf"),), revision=2).hash


def test_while_two_revisions_are_there_the_newest_content_lies_in_the_directory() -> None:
    old = spec("web", revision=1, files=(mounted("conf"), mounted("gone")))
    new = spec("api", revision=2, files=(mounted("conf", "1" * 64),))
    expected = {"shop": {"conf": mounted("conf", "1" * 64), "gone": mounted("gone")}}
    assert newest_files([old, new]) == newest_files([new, old]) == expected


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "../x",
        "a/../b",
        "a/..",
        "./a",
        "a/./b",
        "a//b",
        "a/",
        ".",
        "..",
        "a\nb",
        "a\n",
        "a:b",
        "a\\b",
    ],
)
def test_a_path_that_could_leave_the_directory_is_no_file_of_a_stack(path: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(msgspec.to_builtins(stack(path)), Stack)


@pytest.mark.parametrize("path", ["a", "..a", "a..", ".hidden", "a/.b/c d", "é"])
def test_any_other_path_is_one(path: str) -> None:
    assert msgspec.convert(msgspec.to_builtins(stack(path)), Stack).files.keys() == {path}


def test_the_files_of_a_stack_have_a_bound_together() -> None:
    body = msgspec.json.encode(
        {
            "name": "shop",
            "services": {"web": {}},
            "files": {str(number): {"digest": "0" * 64, "size": MAX_FILES_BYTES // 2 + 1} for number in range(2)},
        }
    )
    with pytest.raises(msgspec.ValidationError, match="at most 67108864"):
        msgspec.json.decode(body, type=Stack)


def test_a_file_is_no_directory_of_another() -> None:
    with pytest.raises(ValueError, match="'a' is a directory of 'a/b/c'"):
        stack("a/b/c", "a")
