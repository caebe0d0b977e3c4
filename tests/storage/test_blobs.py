"""Contents by their digest, and a plan's files laid from them: whole or not at all, and never through a link."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from agent.errors import InputError, NotAllowed, NotFound, Unprocessable
from agent.model.spec import MountedFile
from agent.storage import blobs
from agent.storage.blobs import DISK_RESERVE_BYTES, BlobStore
from agent.storage.stack_files import StackFiles


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    made = BlobStore(tmp_path / "blobs")
    made.open()
    return made


@pytest.fixture
def files(store: BlobStore, tmp_path: Path) -> StackFiles:
    return StackFiles(tmp_path, store)


def put(store: BlobStore, content: bytes) -> str:
    digest = hashlib.sha256(content).hexdigest()
    writer = store.begin(digest, len(content))
    writer.write(content)
    writer.commit()
    return digest


def file(store: BlobStore, path: str, content: bytes = b"hello", mode: int = 0o640) -> MountedFile:
    return MountedFile(path=path, digest=put(store, content), size=len(content), mode=mode)


def names(store: BlobStore, tmp_path: Path) -> set[str]:
    return {entry.name for entry in (tmp_path / "blobs").iterdir()}


def test_a_content_is_there_once_it_is_whole(store: BlobStore, tmp_path: Path) -> None:
    digest = hashlib.sha256(b"hello").hexdigest()
    writer = store.begin(digest, 5)
    writer.write(b"hel")
    assert store.size(digest) is None
    writer.write(b"lo")
    writer.commit()
    writer.abort()
    assert (store.size(digest), store.read(digest, 1, 3), store.read(digest, 9, 3)) == (5, b"ell", b"")
    assert store.path(digest).stat().st_mode & 0o777 == 0o600
    assert store.digests() == {digest}


@pytest.mark.parametrize("content", [b"hellO", b"hell", b""])
def test_another_content_leaves_nothing(store: BlobStore, tmp_path: Path, content: bytes) -> None:
    writer = store.begin(hashlib.sha256(b"hello").hexdigest(), 5)
    writer.write(content)
    with pytest.raises(InputError, match="isn't the one"):
        writer.commit()
    assert names(store, tmp_path) == set()


def test_more_than_was_announced_is_refused_at_once(store: BlobStore, tmp_path: Path) -> None:
    writer = store.begin("0" * 64, 5)
    with pytest.raises(InputError, match="more than the 5 bytes"):
        writer.write(b"hello!")
    writer.abort()
    assert names(store, tmp_path) == set()


def test_what_a_crash_left_half_written_goes_at_the_next_start(store: BlobStore, tmp_path: Path) -> None:
    kept = put(store, b"whole")
    writer = store.begin("0" * 64, 5)
    writer.write(b"hal")
    store.open()
    assert names(store, tmp_path) == {kept}
    writer.abort()


def test_a_disk_without_room_is_said_before_anything_is_written(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(blobs, "DISK_RESERVE_BYTES", 2**62)
    with pytest.raises(Unprocessable, match="0 can be used"):
        store.begin("0" * 64, 5)


def test_contents_on_their_way_in_count_as_if_they_were_there(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several uploads that each fit alone must not fill the ledger's disk together."""
    free = DISK_RESERVE_BYTES + 1000
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    first = store.begin("a" * 64, 600)
    with pytest.raises(Unprocessable, match="400 can be used"):
        store.begin("b" * 64, 600)
    first.write(b"x" * 500)
    free -= 500
    store.begin("b" * 64, 400).abort()
    first.abort()
    free += 500
    store.begin("b" * 64, 1000).abort()


@pytest.mark.parametrize("name", ["../x", "A" * 64, "0" * 63, ""])
def test_nothing_but_a_digest_names_a_file(store: BlobStore, name: str) -> None:
    with pytest.raises(ValueError, match="not a digest"):
        store.path(name)


def test_a_file_is_laid_with_its_mode_and_only_once(store: BlobStore, files: StackFiles, tmp_path: Path) -> None:
    wanted = file(store, "certs/deep/tls.key")
    assert files.lacking("shop", [wanted]) == (wanted,)
    files.lay("shop", wanted)
    laid = tmp_path / "stacks/shop/certs/deep/tls.key"
    assert (laid.read_bytes(), laid.stat().st_mode & 0o777) == (b"hello", 0o640)
    assert [each.name for each in laid.parent.iterdir()] == ["tls.key"]
    assert files.lacking("shop", [wanted]) == ()


def test_what_a_replica_wrote_stays_until_another_content_is_deployed(
    store: BlobStore, files: StackFiles, tmp_path: Path
) -> None:
    first = file(store, "data/state")
    files.lay("shop", first)
    laid = tmp_path / "stacks/shop/data/state"
    laid.write_bytes(b"changed by the replica")
    assert files.lacking("shop", [first]) == ()
    second = file(store, "data/state", b"next")
    assert files.lacking("shop", [second]) == (second,)
    files.lay("shop", second)
    assert laid.read_bytes() == b"next"


def test_a_file_that_went_away_is_laid_again(store: BlobStore, files: StackFiles, tmp_path: Path) -> None:
    wanted = file(store, "conf")
    files.lay("shop", wanted)
    (tmp_path / "stacks/shop/conf").unlink()
    assert files.lacking("shop", [wanted]) == (wanted,)


def test_an_open_file_keeps_its_content_when_another_is_laid(
    store: BlobStore, files: StackFiles, tmp_path: Path
) -> None:
    files.lay("shop", file(store, "conf", b"one"))
    with (tmp_path / "stacks/shop/conf").open("rb") as opened:
        files.lay("shop", file(store, "conf", b"two"))
        assert opened.read() == b"one"


@pytest.mark.parametrize("path", ["link/x", "link/deeper/x"])
def test_no_link_of_a_replica_leads_out_of_the_stacks_directory(
    store: BlobStore, files: StackFiles, tmp_path: Path, path: str
) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "stacks/shop").mkdir(parents=True)
    (tmp_path / "stacks/shop/link").symlink_to(outside)
    with pytest.raises(NotAllowed, match="link isn't a directory"):
        files.lay("shop", file(store, path))
    assert list(outside.iterdir()) == []


def test_a_link_in_a_files_place_is_replaced_and_not_followed(
    store: BlobStore, files: StackFiles, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_bytes(b"precious")
    (tmp_path / "stacks/shop").mkdir(parents=True)
    (tmp_path / "stacks/shop/conf").symlink_to(outside)
    files.lay("shop", file(store, "conf"))
    assert (outside.read_bytes(), (tmp_path / "stacks/shop/conf").read_bytes()) == (b"precious", b"hello")


def test_a_directory_in_a_files_place_is_named(store: BlobStore, files: StackFiles, tmp_path: Path) -> None:
    (tmp_path / "stacks/shop/conf").mkdir(parents=True)
    with pytest.raises(NotAllowed, match=r"\./conf can't be put .* a directory of that name"):
        files.lay("shop", file(store, "conf"))
    assert [each.name for each in (tmp_path / "stacks/shop").iterdir()] == ["conf"]


def test_a_content_that_is_not_here_lays_nothing(files: StackFiles, tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        files.lay("shop", MountedFile(path="conf", digest="0" * 64, size=1, mode=0o644))
    assert list((tmp_path / "stacks/shop").iterdir()) == []


def test_files_of_stacks_that_are_gone_are_removed_and_others_stay(
    store: BlobStore, files: StackFiles, tmp_path: Path
) -> None:
    files.lay("shop", file(store, "certs/key"))
    files.lay("blog", file(store, "conf"))
    (tmp_path / "stacks/shop/certs/own").write_text("a replica's")
    files.sweep({}, {"blog"})
    left = {str(each.relative_to(tmp_path)) for each in (tmp_path / "stacks").rglob("*") if each.is_file()}
    assert left == {"stacks/shop/certs/own", "stacks/blog/conf"}
    files.sweep({}, ())
    assert not (tmp_path / "stacks/blog/conf").exists()


def test_directories_of_a_stack_that_is_gone_go_with_its_files_unless_something_else_is_in_them(
    store: BlobStore, files: StackFiles, tmp_path: Path
) -> None:
    files.lay("shop", file(store, "certs/old/key"))
    files.lay("shop", file(store, "conf/a"))
    files.lay("blog", file(store, "certs/old/key"))
    (tmp_path / "stacks/shop/certs/own").write_text("a replica's")
    files.sweep({}, ())
    left = {str(each.relative_to(tmp_path / "stacks")) for each in (tmp_path / "stacks").rglob("*")}
    assert left == {"shop", "shop/certs", "shop/certs/own"}
