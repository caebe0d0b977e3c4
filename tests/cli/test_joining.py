"""An agent that waits for its identity, as bootstrap's helper speaks to it on a host."""

from __future__ import annotations

import json
import os
import socket
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from agent.cli import joining, room, run
from agent.cli.joining import SOCKET, wait_for_identity
from agent.config import Config
from agent.errors import DiskFull
from agent.model.cluster import IdentityRequest
from agent.model.decode import decode_json
from tests.support.trust import Trust
from tests.support.waiting import wait_for_sync

TIMEOUT_S = 30.0


class Waiting:
    """The agent, in a thread. `signs`: how often it said that it waits still."""

    def __init__(self, directory: Path) -> None:
        self.identity = directory / "data/identity"
        self.place = directory / "run" / SOCKET
        self.signs = 0
        self._config = Config(data_dir=str(directory / "data"), run_dir=str(directory / "run"))
        self.thread = threading.Thread(target=wait_for_identity, args=(self._config, self._sign), daemon=True)
        self.thread.start()
        wait_for_sync(self.place.exists, TIMEOUT_S, what="its socket")

    def _sign(self) -> None:
        self.signs += 1

    def connect(self) -> socket.socket:
        link = socket.socket(socket.AF_UNIX)
        link.settimeout(TIMEOUT_S)
        link.connect(str(self.place))
        return link

    def ended(self) -> bool:
        self.thread.join(TIMEOUT_S)
        return not self.thread.is_alive()


@pytest.fixture
def waiting() -> Iterator[Waiting]:
    with tempfile.TemporaryDirectory(prefix="join") as directory:
        agent = Waiting(Path(directory))
        yield agent
        if agent.thread.is_alive():
            granted(agent)
            assert agent.ended()


def line(link: socket.socket) -> bytes:
    with link.makefile("rb") as stream:
        return stream.readline()


def introduce(link: socket.socket) -> IdentityRequest:
    link.sendall(b'{"name":"n1","address":"192.0.2.7"}\n')
    request: IdentityRequest = decode_json(line(link), IdentityRequest, max_bytes=65_536)
    return request


def hand_over(link: socket.socket, data: bytes) -> Any:
    link.sendall(data)
    link.shutdown(socket.SHUT_WR)
    return json.loads(line(link))


def grant_for(request: IdentityRequest) -> bytes:
    trust = Trust()
    certificate = trust.certify_request(request)
    return msgspec.json.encode(trust.grant(certificate, trust.genesis([(request, certificate)])))


def granted(agent: Waiting) -> Any:
    with agent.connect() as link:
        return hand_over(link, grant_for(introduce(link)))


def test_it_waits_for_a_grant_and_then_goes_on(waiting: Waiting) -> None:
    assert stat.S_IMODE(waiting.place.stat().st_mode) == 0o600, "root's alone"
    with waiting.connect() as link:
        request = introduce(link)
        assert (request.name, request.address) == ("n1", "192.0.2.7")
        assert not (waiting.identity / "grant.json").exists()
        assert hand_over(link, grant_for(request)) == {"accepted": True}
    assert waiting.ended()
    assert (waiting.identity / "grant.json").exists()
    assert not waiting.place.exists()


def test_who_ends_without_a_grant_leaves_it_waiting_with_the_same_keys(waiting: Waiting) -> None:
    with waiting.connect() as link:
        first = introduce(link)
    with waiting.connect() as link:
        assert introduce(link).signing_key == first.signing_key
    assert not (waiting.identity / "grant.json").exists()


@pytest.mark.parametrize("said", [b"{}\n", b'{"name":"N 1","address":"192.0.2.7"}\n', b"x" * 10_000, b"\n"])
def test_an_introduction_that_is_none_makes_no_keys(waiting: Waiting, said: bytes) -> None:
    with waiting.connect() as link:
        link.sendall(said)
        assert "detail" in json.loads(line(link))
    assert not waiting.identity.exists()


def test_a_grant_that_does_not_fit_is_refused_and_the_right_one_taken(waiting: Waiting) -> None:
    with waiting.connect() as link:
        introduce(link)
        assert "detail" in hand_over(link, b"{}")
    assert not (waiting.identity / "grant.json").exists()
    assert granted(waiting) == {"accepted": True}
    assert waiting.ended()


def test_an_identity_that_comes_another_way_is_noticed(waiting: Waiting) -> None:
    with waiting.connect() as link:
        introduce(link)
    (waiting.identity / "grant.json").write_bytes(b"{}")
    assert waiting.ended()


def test_where_nobody_comes_it_ends_so_that_a_boot_does_not_wait_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "PATIENCE_S", 0.1)
    monkeypatch.setattr(joining, "ROUND_S", 0.05)
    monkeypatch.chdir(tmp_path)  # a socket's path has 108 bytes at most
    signs: list[None] = []
    wait_for_identity(Config(data_dir="data", run_dir="run"), lambda: signs.append(None))
    assert signs
    assert list(Path("run").iterdir()) == []


def test_systemd_is_told_that_it_waits_still(waiting: Waiting) -> None:
    before = waiting.signs
    wait_for_sync(lambda: waiting.signs > before + 1, TIMEOUT_S, what="two more signs")


def test_a_full_disk_below_its_socket_is_one_that_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As for everything else of an agent: nobody has to log in once there is room."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    monkeypatch.chdir(tmp_path)
    Path("run").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=1", "tmpfs", tmp_path / "run"], check=True)
    try:
        with pytest.raises(DiskFull, match="nobody can hand over an identity: No space left on device"):
            wait_for_identity(Config(data_dir="data", run_dir="run"), lambda: None)
    finally:
        subprocess.run(["umount", tmp_path / "run"], check=True)


def test_room_is_waited_for_and_then_the_identity_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[Config] = []

    def full_once(config: Config, _waiting: Callable[[], None]) -> None:
        tries.append(config)
        if len(tries) == 1:
            raise DiskFull("full", where=str(tmp_path))

    monkeypatch.setattr(joining, "wait_for_identity", full_once)
    monkeypatch.setattr(room, "PAUSE_S", 0.0)
    run._join(Config(), run.Systemd(), room.Room(tmp_path, lambda: None))
    assert len(tries) == 2
