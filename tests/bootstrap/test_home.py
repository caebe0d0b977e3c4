"""The cluster home: made whole or not at all, never overwritten, its keys private."""

from __future__ import annotations

import fcntl
import os
import stat
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.errors import Conflict, InputError, MusterError, NotFound, TooLarge
from agent.home import (
    ANCHOR_KEY_FILE,
    CLUSTER_FILE,
    MAX_HOME_FILE_BYTES,
    OPERATOR_KEY_FILE,
    Home,
    KnownMember,
    find_home,
    homes_directory,
    open_home,
    read_private_key,
    read_recovery,
    remember,
    write_file,
)
from agent.instruction import new_key, private_pem, public_hex
from bootstrap.home import create_home, locked, put_aside

MEMBER = KnownMember(id="a" * 26, name="n1", address="10.0.0.1")


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return create_home(tmp_path / "prod", name="prod", operator="alice", recovery_file=tmp_path / "recovery.key")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_home_is_read_back_as_it_was_made(home: Home, tmp_path: Path) -> None:
    assert open_home(tmp_path / "prod") == home
    assert (home.cluster.name, home.cluster.epoch, home.cluster.members) == ("prod", 1, ())
    assert len(home.cluster.id) == 16
    assert public_hex(home.operator_key()) == home.operator.key


def test_every_home_is_another_cluster(home: Home, tmp_path: Path) -> None:
    other = create_home(tmp_path / "b", name="prod", operator="alice", recovery_file=tmp_path / "b.key")
    assert other.cluster.id != home.cluster.id
    assert other.operator.key != home.operator.key


def test_keys_are_private_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        create_home(tmp_path / "prod", name="prod", operator="alice", recovery_file=tmp_path / "recovery.key")
    finally:
        os.umask(before)
    assert mode(tmp_path / "prod") == 0o700
    for path in (tmp_path / "prod" / OPERATOR_KEY_FILE, tmp_path / "prod" / ANCHOR_KEY_FILE, tmp_path / "recovery.key"):
        assert mode(path) == 0o600


def test_the_recovery_key_is_in_its_file_alone(home: Home, tmp_path: Path) -> None:
    key = read_private_key(tmp_path / "recovery.key")
    assert isinstance(key, Ed25519PrivateKey)
    assert public_hex(key) == read_recovery(home).key != home.operator.key
    secret = private_pem(key).splitlines()[1]
    assert all(secret not in path.read_bytes() for path in home.path.rglob("*") if path.is_file())


def test_a_home_is_never_overwritten(home: Home, tmp_path: Path) -> None:
    with pytest.raises(Conflict):
        create_home(home.path, name="prod", operator="alice", recovery_file=tmp_path / "other.key")
    assert not (tmp_path / "other.key").exists()
    assert open_home(home.path) == home


def test_a_recovery_key_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "recovery.key").write_text("precious")
    with pytest.raises(Conflict):
        create_home(tmp_path / "prod", name="prod", operator="alice", recovery_file=tmp_path / "recovery.key")
    assert (tmp_path / "recovery.key").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["recovery.key"]


def test_a_home_that_can_not_be_finished_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(MusterError, match="No space left"):
        create_home(tmp_path / "prod", name="prod", operator="alice", recovery_file=tmp_path / "recovery.key")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_directory_may_become_a_home(tmp_path: Path) -> None:
    (tmp_path / "prod").mkdir()
    create_home(tmp_path / "prod", name="prod", operator="alice", recovery_file=tmp_path / "recovery.key")
    assert mode(tmp_path / "prod") == 0o700


@pytest.mark.parametrize(("name", "operator"), [("Prod", "alice"), ("prod", "Alice!"), ("prod", "recovery"), ("", "a")])
def test_bad_names_are_refused(tmp_path: Path, name: str, operator: str) -> None:
    with pytest.raises(InputError):
        create_home(tmp_path / "prod", name=name, operator=operator, recovery_file=tmp_path / "recovery.key")
    assert list(tmp_path.iterdir()) == []


def test_the_recovery_key_is_not_kept_in_the_home(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="inside the home"):
        create_home(tmp_path / "p", name="prod", operator="alice", recovery_file=tmp_path / "p" / "recovery.key")


@pytest.mark.parametrize("bits", [0o640, 0o604, 0o660, 0o610])
def test_a_key_that_others_may_read_is_refused_with_the_fix(home: Home, bits: int) -> None:
    key = home.path / OPERATOR_KEY_FILE
    key.chmod(bits)
    with pytest.raises(InputError) as caught:
        home.operator_key()
    assert f"(mode {bits:04o})" in caught.value.what
    assert f"chmod 600 {key}" in caught.value.fix


def test_another_key_than_the_named_one_is_refused(home: Home) -> None:
    write_file(home.path / OPERATOR_KEY_FILE, private_pem(new_key()), mode=0o600, replace=True)
    with pytest.raises(InputError, match=r"not the key that operator\.json names"):
        home.operator_key()


def test_a_broken_key_file_shows_nothing_of_itself(home: Home) -> None:
    (home.path / OPERATOR_KEY_FILE).write_bytes(b"-----BEGIN PRIVATE KEY-----\nhunter2\n")
    with pytest.raises(InputError) as caught:
        home.operator_key()
    assert "hunter2" not in str(caught.value)


def test_a_broken_file_is_named(home: Home) -> None:
    (home.path / CLUSTER_FILE).write_text('{"id":"a","name":"prod"}')
    with pytest.raises(InputError, match=r"cluster\.json: \$\.id: expected 16 random base32 characters"):
        open_home(home.path)
    (home.path / CLUSTER_FILE).write_bytes(b" " * (MAX_HOME_FILE_BYTES + 1))
    with pytest.raises(TooLarge):
        open_home(home.path)


def test_no_home_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        open_home(tmp_path / "none")
    assert "bootstrap install" in caught.value.fix


def test_what_the_cluster_told_is_remembered(home: Home) -> None:
    remembered = remember(home, epoch=2, members=[MEMBER])
    assert open_home(home.path) == remembered
    assert (remembered.cluster.epoch, remembered.cluster.members) == (2, (MEMBER,))
    assert remember(remembered).cluster == remembered.cluster
    assert mode(home.path / CLUSTER_FILE) == 0o600


def test_a_file_is_replaced_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "x"
    write_file(path, b"one", mode=0o600)
    with pytest.raises(Conflict):
        write_file(path, b"two", mode=0o600)
    assert path.read_bytes() == b"one"
    write_file(path, b"two", mode=0o640, replace=True)
    assert (path.read_bytes(), mode(path)) == (b"two", 0o640)
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


def test_the_umask_takes_nothing_away(tmp_path: Path) -> None:
    before = os.umask(0o277)
    try:
        write_file(tmp_path / "x", b"", mode=0o640)
    finally:
        os.umask(before)
    assert mode(tmp_path / "x") == 0o640


def test_one_writes_in_a_home_at_a_time(home: Home) -> None:
    with locked(home), (home.path / ".lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (home.path / ".lock").open() as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_home_is_found_by_flag_variable_name_or_being_the_only_one(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path), "HOME": "/nowhere"}
    with pytest.raises(NotFound):
        find_home(None, environ)
    create_home(tmp_path / "muster" / "prod", name="prod", operator="a", recovery_file=tmp_path / "p.key")
    assert find_home(None, environ) == tmp_path / "muster" / "prod"
    create_home(tmp_path / "muster" / "test", name="test", operator="a", recovery_file=tmp_path / "t.key")
    with pytest.raises(InputError, match="several clusters: prod, test"):
        find_home(None, environ)
    assert find_home(None, environ, cluster="test") == tmp_path / "muster" / "test"
    assert find_home(None, environ | {"MUSTER_HOME": "/h"}, cluster="test") == Path("/h")
    assert find_home("/flag", environ | {"MUSTER_HOME": "/h"}) == Path("/flag")
    with pytest.raises(InputError):
        find_home(None, environ, cluster="../prod")


def test_a_relative_xdg_directory_is_ignored() -> None:
    """XDG Base Directory: "If an implementation encounters a relative path … it should … ignore it"."""
    assert homes_directory({"XDG_CONFIG_HOME": "here", "HOME": "/root"}) == Path("/root/.config/muster")


def test_a_home_whose_cluster_is_over_makes_way_and_is_kept(home: Home, tmp_path: Path) -> None:
    aside = put_aside(home)
    assert aside == tmp_path / "ended" / f"prod-{home.cluster.id}"
    assert open_home(aside).cluster == home.cluster
    again = create_home(tmp_path / "prod", name="prod", operator="alice", recovery_file=tmp_path / "again.key")
    assert again.cluster.id != home.cluster.id
    assert sorted(path.name for path in tmp_path.glob(f"*/{CLUSTER_FILE}")) == [CLUSTER_FILE], "one is found by name"
