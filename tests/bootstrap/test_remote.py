"""The helper program: its frames, its files, and what it makes of firewalls; without a host."""

from __future__ import annotations

import fcntl
import gzip
import hashlib
import io
import json
import os
import random
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bootstrap.bundle import pack
from bootstrap.probe import OPEN, PORTS
from bootstrap.program import HELLO, LOADER, LOADING, TOO_OLD, program
from bootstrap.remote import firewall, install, layout, main, probe, removal, system, tree
from bootstrap.remote.archive import extract
from bootstrap.remote.wire import BLOCK_BYTES, Failure, Wire
from tests.support.waiting import wait_for_sync

TIMEOUT_S = 30.0


def frame(message: object) -> bytes:
    data = json.dumps(message).encode()
    return struct.pack(">I", len(data)) + data


def frames(data: bytes) -> list[Any]:
    found = []
    while data:
        (length,) = struct.unpack(">I", data[:4])
        found.append(json.loads(data[4 : 4 + length]))
        data = data[4 + length :]
    return found


def served(*parts: bytes) -> list[Any]:
    """What the helper answers to these bytes."""
    sink = io.BytesIO()
    main.serve(Wire(io.BytesIO(b"".join(parts)), sink), "")
    greeting, _, rest = sink.getvalue().partition(HELLO)
    assert greeting == b""
    return frames(rest)


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The helper's paths, below a directory."""
    for name in ("ROOT", "VERSIONS", "CURRENT", "COMMAND", "LOCK"):
        monkeypatch.setattr(layout, name, str(tmp_path) + getattr(layout, name))
    (tmp_path / "opt/muster/versions").mkdir(parents=True)
    (tmp_path / "run").mkdir()
    return tmp_path / "opt/muster"


# The program


def test_the_whole_program_runs_from_stdin_and_tells_facts() -> None:
    ask = frame({"do": "probe", "ports": PORTS, "open": OPEN, "python": None})
    argv = [sys.executable, "-I", "-c", LOADER]
    done = subprocess.run(argv, input=program() + ask, capture_output=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.decode() == f"{LOADING}\n"
    _, _, rest = done.stdout.partition(HELLO)
    [answer] = frames(rest)
    assert answer["done"]["system"] == "Linux"
    assert all(Path(path).is_dir() for path in answer["done"]["disks"])


def test_a_python_that_is_too_old_says_so_before_anything_of_ours_is_read() -> None:
    text = program().partition(b"\n")[2].decode()
    head = text[: text.index("import types")]
    assert "f'" not in head
    assert TOO_OLD in head
    old = "import sys\nsys.version_info = (3, 6, 1)\n" + head.replace("import sys\n", "", 1)
    done = subprocess.run([sys.executable, "-c", old], capture_output=True, text=True, check=False)
    assert done.stderr == f"{TOO_OLD} 3.6\n"


# Frames


def test_an_unknown_error_of_one_question_leaves_the_next_one_answered(places: Path) -> None:
    blob = b"x" * (BLOCK_BYTES + 17)
    ask = {"do": "unpack", "version": "v", "sha256": "0", "size": len(blob)}
    answers = served(frame(ask), blob, frame({"do": "look", "version": "none", "manifest": ""}))
    assert "failed" in answers[0]
    assert answers[1] == {"done": {"present": False, "damaged": []}}


def test_bytes_of_a_file_are_never_taken_for_a_question(places: Path) -> None:
    """Also when the question fails before it reads them."""
    (places / "versions").rmdir()
    (places / "versions").write_text("in the way")
    question = frame({"do": "look", "version": "none", "manifest": ""})
    ask = {"do": "unpack", "version": "v", "sha256": "0", "size": len(question)}
    answers = served(frame(ask), question, question)
    assert len(answers) == 2


@given(st.binary(max_size=64))
def test_a_frame_that_is_cut_or_none_ends_in_a_failure_or_the_end(data: bytes) -> None:
    wire = Wire(io.BytesIO(data), io.BytesIO())
    try:
        message = wire.receive()
    except (Failure, ValueError):
        return
    assert message is None or isinstance(message, dict)


# Files


def sent(packed: bytes, version: str = "v1", sha256: str | None = None) -> bytes:
    """The question that brings a tarball."""
    wanted = sha256 or hashlib.sha256(packed).hexdigest()
    return frame({"do": "unpack", "version": version, "sha256": wanted, "size": len(packed)}) + packed


def unpacked(files: dict[str, bytes], version: str = "v1") -> str:
    """It came, and was put in its place; the manifest's digest."""
    packed, manifest = pack(files)
    staging = brought(packed, version)
    assert version not in [path.name for path in Path(layout.VERSIONS).iterdir()], "not before it is asked to"
    staging.place(version)
    return hashlib.sha256(manifest).hexdigest()


def brought(packed: bytes, version: str = "v1") -> tree.Staging:
    """It came, and lies beside its place."""
    staging = tree.Staging()
    wire = Wire(io.BytesIO(sent(packed, version)), io.BytesIO())
    ask = wire.receive()
    assert ask is not None
    wire.expect(ask["size"])
    staging.unpack(wire, ask)
    return staging


LONG = "/".join(["lib", "long" * 30, "longer" * 30, "x.py"])


def test_a_tarball_is_unpacked_whole_and_each_changed_file_is_seen(places: Path) -> None:
    files = {"lib/a.py": b"a", "lib/sub/b.py": b"b", "lib/empty": b"", "lib/big": bytes(3_000_000), LONG: b"x" * 512}
    manifest = unpacked(files)
    assert {name: (places / "versions/v1" / name).read_bytes() for name in files} == files
    assert tree.look("v1", manifest) == {"present": True, "damaged": []}
    assert [path.name for path in (places / "versions").iterdir()] == ["v1"]
    (places / "versions/v1/lib/a.py").write_text("A")
    (places / "versions/v1/lib/sub/b.py").unlink()
    assert tree.look("v1", manifest)["damaged"] == ["lib/a.py", "lib/sub/b.py"]
    assert tree.look("v1", "0" * 64)["damaged"] == ["MANIFEST"]
    assert tree.look("v2", manifest) == {"present": False, "damaged": []}


def test_other_bytes_than_those_sent_are_refused_and_leave_nothing(places: Path) -> None:
    packed, _ = pack({"lib/a.py": b"a"})
    [answer] = served(sent(packed, sha256="0" * 64))
    assert "aren't those that were sent" in answer["failed"]["what"]
    assert list((places / "versions").iterdir()) == []


def test_what_came_and_was_never_wanted_in_its_place_goes_with_the_connection(places: Path) -> None:
    packed, _ = pack({"lib/a.py": b"a"})
    assert served(sent(packed)) == [{"done": None}]
    assert list((places / "versions").iterdir()) == []


def test_a_connection_that_breaks_within_a_file_leaves_nothing(places: Path) -> None:
    packed, _ = pack({"lib/a.py": random.Random(1).randbytes(200_000)})
    [answer] = served(sent(packed)[: -len(packed) // 2])
    assert "the connection ended within a file" in answer["failed"]["what"]
    assert list((places / "versions").iterdir()) == []


def test_a_directory_that_is_a_disk_of_its_own_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "data/blobs").mkdir(parents=True)
    (tmp_path / "data/ledger.db").touch()
    assert not removal.away(str(tmp_path / "data"), {str(tmp_path / "data")})
    assert list(tmp_path.rglob("*")) == [tmp_path / "data"]


def test_an_agent_that_was_expelled_leaves_the_place_to_the_next_and_what_it_ran_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it was stopped in the middle, after the ledger was moved away."""
    said: list[str] = []

    def run(argv: list[str], **_: object) -> system.Output:
        said.append(" ".join(argv))
        return system.Output(0, "c1 c \nc2 another /var/lib/muster/stacks/shop\nc3 another /srv/n2/stacks/shop\n", "")

    monkeypatch.setattr(layout, "DATA", str(tmp_path))
    monkeypatch.setattr(layout, "RETIRED", str(tmp_path / "retired"))
    monkeypatch.setattr(removal, "must", lambda argv: said.append(" ".join(argv)))
    monkeypatch.setattr(removal, "run", run)
    monkeypatch.setattr(removal, "engine_answers", lambda: True)
    monkeypatch.setattr(removal, "end_processes", lambda: said.append("processes end"))
    for name in ("stacks/shop/data", "identity", "retired"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("ledger.db", "ledger.db-wal", "identity/grant.json", "retired/of one before"):
        (tmp_path / name).touch()
    removal.retire({"cluster": "c"}, said.append)
    removed = "docker rm --force c1 c2"
    assert said.index("systemctl stop muster-agent.service") < said.index("processes end") < said.index(removed)
    assert not any("volume rm" in each for each in said)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()) == [
        "retired/identity/grant.json",
        "retired/ledger.db",
        "retired/ledger.db-wal",
    ]
    assert (tmp_path / "stacks/shop/data").is_dir()
    (tmp_path / "identity").mkdir()
    removal.retire({"cluster": "c"}, said.append)
    assert not (tmp_path / "identity").exists()


def test_a_disk_below_a_directory_stays_with_what_is_on_it_and_the_rest_goes(tmp_path: Path) -> None:
    for name in ("data/blobs", "data/stacks/shop/photos", "data/stacks/other"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "data/stacks/shop/photos/1").touch()
    (tmp_path / "data/stacks/shop/beside").touch()
    (tmp_path / "data/link").symlink_to(tmp_path)
    assert not removal.away(str(tmp_path / "data"), {str(tmp_path / "data/stacks/shop/photos"), "/proc"})
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")}
    assert left == {"data", "data/stacks", "data/stacks/shop", "data/stacks/shop/photos", "data/stacks/shop/photos/1"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount")
def test_what_is_mounted_is_known_also_where_it_is_the_same_disk(tmp_path: Path) -> None:
    beside, below = tmp_path / "beside", tmp_path / "data/a b"
    beside.mkdir()
    below.mkdir(parents=True)
    (beside / "photo").touch()
    subprocess.run(["mount", "--bind", beside, below], check=True)
    try:
        removal.away(str(tmp_path / "data"), removal.mount_points(Path("/proc/self/mountinfo").read_text()))
    finally:
        subprocess.run(["umount", below], check=True)
    assert (beside / "photo").exists()
    assert below.exists()


def test_what_is_left_is_told_with_its_reason() -> None:
    mounts = {"/", "/var/lib/muster", "/var/lib/muster/blobs", "/var/lib/muster/stacks/shop", "/var/lib/musterother"}
    emptied = "/var/lib/muster: emptied, as a disk is mounted there"
    blobs, shop = (
        f"/var/lib/muster/{each}: a disk is mounted there, and what is on it stays" for each in ("blobs", "stacks/shop")
    )
    assert removal.left(mounts, keep_stacks=False) == [emptied, blobs, shop]
    assert removal.left(mounts, keep_stacks=True) == [emptied, blobs]


# Two programs on one host: the first one's operator left while it installed Docker, say, and came again


def test_what_another_program_brings_is_left_alone_and_what_one_that_died_had_brought_goes(places: Path) -> None:
    packed, manifest = pack({"lib/a.py": b"a"})
    other = brought(packed)
    (places / "versions/.v1.0a1b2c3d4e5f/lib").mkdir(parents=True)
    unpacked({"lib/a.py": b"a"})
    tree.activate("v1", "#!launcher", dry=False)
    other.place("v1")
    assert tree.look("v1", hashlib.sha256(manifest).hexdigest()) == {"present": True, "damaged": []}
    assert [path.name for path in (places / "versions").iterdir()] == ["v1"]


def applying(*, dry: bool) -> bytes:
    return frame({"do": "apply", "docker": False, "firewall": [], "version": None, "files": [], "dry": dry})


@contextmanager
def somebody_at_work() -> Iterator[None]:
    with Path(layout.LOCK).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def test_changes_wait_until_another_program_is_done_and_say_so(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "GROUP", "root")
    sink = Told()
    with somebody_at_work():
        serving = threading.Thread(target=main.serve, args=(Wire(io.BytesIO(applying(dry=False)), sink), ""))
        serving.start()
        wait_for_sync(lambda: b"waiting: another `bootstrap` is at work there" in sink.getvalue(), TIMEOUT_S, what="it")
        assert b'"done"' not in sink.getvalue()
    serving.join(TIMEOUT_S)
    assert sink.getvalue().endswith(b'{"done": {"changed": [], "notes": []}}')


def test_what_only_looks_waits_for_nobody(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layout, "GROUP", "root")
    with somebody_at_work():
        assert served(applying(dry=True)) == [{"done": {"changed": [], "notes": []}}]


def test_nothing_is_changed_for_an_operator_who_left_meanwhile(places: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = places / "agent.toml"
    file = {"path": str(wanted), "text": "x", "mode": 0o644}
    ask = {"do": "apply", "docker": True, "firewall": [], "version": None, "files": [file], "dry": False}
    left = Told()

    def install_docker() -> list[str]:
        left.gone = True
        return []

    monkeypatch.setattr(install, "install_docker", install_docker)
    with pytest.raises(BrokenPipeError):
        main.serve(Wire(io.BytesIO(frame(ask)), left), "")
    assert not wanted.exists()


class Told(io.BytesIO):
    """What the operator's side heard, until it is gone."""

    gone = False

    def write(self, data: Any) -> int:
        """As a pipe that nobody reads any more."""
        if self.gone:
            raise BrokenPipeError
        return super().write(data)


NAMES = st.from_regex(r"[a-z]{1,60}(/[a-z]{1,60}){0,3}", fullmatch=True)


@given(st.dictionaries(NAMES, st.binary(max_size=2000)), st.integers(1, 700))
def test_any_tree_comes_as_it_was_packed_however_it_is_cut_into_blocks(files: dict[str, bytes], block: int) -> None:
    assume(not any(f"{other}/".startswith(f"{name}/") for name in files for other in files if other != name))
    packed, manifest = pack(files)
    with tempfile.TemporaryDirectory() as directory:
        blocks = (packed[at : at + block] for at in range(0, len(packed), block))
        assert extract(blocks, directory) == hashlib.sha256(packed).hexdigest()
        there = [path for path in Path(directory).rglob("*") if path.is_file()]
        found = {path.relative_to(directory).as_posix(): path.read_bytes() for path in there}
    assert found == {**files, "MANIFEST": manifest}


def archive(name: str, kind: bytes = tarfile.REGTYPE, size: int = 1) -> bytes:
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    content = info.tobuf(tarfile.GNU_FORMAT) + b"x".ljust(tarfile.BLOCKSIZE, b"\0") + bytes(1024)
    return gzip.compress(content, mtime=0)


@pytest.mark.parametrize(
    "hostile",
    [
        archive("../x"),
        archive("/x"),
        archive("lib/../../x"),
        archive("x", tarfile.SYMTYPE, 0),
        archive("x", tarfile.DIRTYPE, 0),
        archive("x", size=2**40),
        archive("x", size=5000),
        gzip.compress(b"x" * 700, mtime=0),
        b"no gzip",
    ],
)
def test_what_is_no_tarball_of_ours_writes_nothing_elsewhere(places: Path, hostile: bytes) -> None:
    [answer] = served(sent(hostile))
    assert answer["failed"]["what"].startswith("what came is no tarball of ours: ")
    assert [path.name for path in places.iterdir()] == ["versions"]
    assert list((places / "versions").iterdir()) == []


def test_current_and_the_command_lead_to_the_version_and_only_the_one_before_stays(places: Path) -> None:
    for version in ("v1", "v2", "v3"):
        unpacked({"lib/a.py": version.encode()}, version)
        assert tree.activate(version, "#!launcher\n", dry=False)
        assert tree.activate(version, "#!launcher\n", dry=False) == []
    assert (places / "current/lib/a.py").read_bytes() == b"v3"
    assert sorted(path.name for path in (places / "versions").iterdir()) == ["v2", "v3"]
    assert Path(layout.COMMAND).readlink() == Path(layout.CURRENT) / layout.LAUNCHER


def test_somebody_elses_command_of_that_name_stays_theirs(places: Path) -> None:
    Path(layout.COMMAND).parent.mkdir(parents=True)
    Path(layout.COMMAND).write_text("theirs")
    unpacked({"lib/a.py": b""})
    tree.activate("v1", "#!launcher\n", dry=False)
    assert Path(layout.COMMAND).read_text() == "theirs"
    assert "another program" in tree.foreign_command()[0]


def test_a_dry_run_names_what_would_change_and_changes_nothing(places: Path) -> None:
    changed = tree.activate("v1", "#!launcher\n", dry=True)
    assert len(changed) == 3
    assert not (places / "current").is_symlink()
    assert list((places / "versions").iterdir()) == []


def test_a_file_is_written_once_and_again_when_content_or_mode_differ(tmp_path: Path) -> None:
    path = tmp_path / "etc/x"
    assert system.put(str(path), b"1", 0o644)
    assert not system.put(str(path), b"1", 0o644)
    path.chmod(0o600)
    assert system.put(str(path), b"1", 0o644)
    path.write_bytes(b"12")
    assert system.put(str(path), b"1", 0o644, dry=True)
    assert path.read_bytes() == b"12"
    assert system.put(str(path), b"1", 0o644)
    assert [each.name for each in path.parent.iterdir()] == ["x"]


def test_what_the_disk_refuses_is_told_with_what_to_do() -> None:
    failure = system.disk_failure(OSError(28, "No space left on device", "/opt/x"), "/opt")
    assert (failure.what, failure.where) == ("no space left on the disk", "/opt/x")
    assert "df -h" in failure.fix


# Firewalls

Commands = dict[str, tuple[int, str]]


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[[Commands], None]:
    """Commands that are there, by their beginnings, with exit code and output."""

    def install(known: Commands) -> None:
        def run(argv: list[str]) -> system.Output:
            line = " ".join(argv)
            for beginning, (code, out) in known.items():
                if line.startswith(beginning):
                    return system.Output(code, out, "")
            return system.Output(1, "", "")

        programs = {line.split()[0] for line in known}
        monkeypatch.setattr(firewall, "run", run)
        monkeypatch.setattr(firewall, "which", lambda name: f"/sbin/{name}" if name in programs else None)

    return install


WANTED: list[list[Any]] = [[9999, "tcp"], [9998, "tcp"], [9998, "udp"]]


def commands() -> list[str]:
    return [" ".join(command) for found in firewall.firewalls(WANTED) for command in found["commands"]]


def test_no_firewall_no_commands(answers: Callable[[Commands], None]) -> None:
    answers({"ufw": (0, "Status: inactive\n"), "nft": (0, '{"nftables": []}')})
    assert commands() == []


def test_ufw(answers: Callable[[Commands], None]) -> None:
    answers({"ufw": (0, "Status: active\n\n22/tcp   ALLOW   Anywhere\n9998   ALLOW   Anywhere\n")})
    assert commands() == ["ufw allow 9999/tcp"]
    answers({"ufw": (0, "Status: active\n\n9998:9999/tcp  ALLOW IN  Anywhere\n9998/udp  ALLOW  Anywhere\n")})
    assert commands() == []
    answers({"ufw": (0, "Status: active\n\n9999/tcp  ALLOW  10.0.0.0/8\n9998 ALLOW Anywhere\n")})
    assert commands() == ["ufw allow 9999/tcp"], "a rule for some addresses may not be for these"


def test_firewalld(answers: Callable[[Commands], None]) -> None:
    answers({"firewall-cmd --state": (0, "running"), "firewall-cmd --query-port=9998/udp": (0, "yes")})
    assert commands() == [
        "firewall-cmd --permanent --add-port=9999/tcp --add-port=9998/tcp",
        "firewall-cmd --reload",
    ]


def chain(policy: str = "accept") -> dict[str, Any]:
    named = {"family": "inet", "table": "filter", "name": "input", "type": "filter", "hook": "input", "policy": policy}
    return {"chain": named}


def rule(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": "filter", "chain": "input", "expr": list(parts)}}


def port(kind: str, right: object) -> dict[str, Any]:
    return {"match": {"op": "==", "left": {"payload": {"protocol": kind, "field": "dport"}}, "right": right}}


ACCEPT: dict[str, Any] = {"accept": None}
DROP: dict[str, Any] = {"drop": None}
ALL = [
    "nft insert rule inet filter input tcp dport { 9999, 9998 } accept",
    "nft insert rule inet filter input udp dport 9998 accept",
]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        ([chain()], []),
        ([chain("drop")], ALL),
        ([chain(), rule({"counter": None}, DROP)], ALL),
        ([chain(), rule(port("tcp", 25), DROP)], []),
        ([chain("drop"), rule(ACCEPT)], []),
        ([chain("drop"), rule({"xt": None}, ACCEPT)], ALL),
        ([chain("drop"), rule(port("tcp", {"range": [9990, 9999]}), ACCEPT)], ALL[1:]),
        ([chain("drop"), rule(port("tcp", {"set": [22, 9998]}), ACCEPT), rule(port("udp", 9998), ACCEPT)],
         ["nft insert rule inet filter input tcp dport 9999 accept"]),
        ([chain("drop"), rule({"match": {"left": {"meta": {"key": "iifname"}}, "right": "lo"}}, ACCEPT)], ALL),
        ([chain("drop"), rule(port("tcp", 9999), port("tcp", 9998), ACCEPT)], ALL),
    ],
)  # fmt: skip  # one rule a line reads as a table
def test_nftables(answers: Callable[[Commands], None], rules: list[dict[str, Any]], expected: list[str]) -> None:
    answers({"nft": (0, json.dumps({"nftables": [{"metainfo": {}}, *rules]}))})
    assert commands() == expected


def test_iptables_without_nft(answers: Callable[[Commands], None]) -> None:
    rules = "-P INPUT DROP\n-A INPUT -p tcp -m multiport --dports 22,9999 -j ACCEPT\n"
    answers({"iptables": (0, rules)})
    assert commands() == [
        "iptables -I INPUT -p tcp -m multiport --dports 9998 -j ACCEPT",
        "iptables -I INPUT -p udp -m multiport --dports 9998 -j ACCEPT",
    ]
    answers({"iptables": (0, "-P INPUT ACCEPT\n")})
    assert commands() == []


# The agent's unit


def say(monkeypatch: pytest.MonkeyPatch, output: system.Output) -> None:
    """What systemctl answers, on a host with systemd."""
    monkeypatch.setattr(probe, "under_systemd", lambda: True)
    monkeypatch.setattr(probe, "run", lambda _argv: output)


def test_a_unit_is_as_systemd_says(monkeypatch: pytest.MonkeyPatch) -> None:
    say(monkeypatch, system.Output(0, "UnitFileState=enabled\nActiveState=activating\n", ""))
    assert probe.unit_state() == {"active": "activating", "enabled": "enabled", "stale": False, "restarts": 0}


@pytest.mark.parametrize("code", [1, -1, -2, 0])
def test_a_systemd_that_says_nothing_is_not_an_agent_that_does_not_run(
    monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    say(monkeypatch, system.Output(code, "", "Connection timed out"))
    with pytest.raises(Failure, match="systemd doesn't say how the agent is: Connection timed out"):
        probe.unit_state()


def test_without_systemd_there_is_no_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "under_systemd", lambda: False)
    assert probe.unit_state() == {"active": "", "enabled": "", "stale": False, "restarts": 0}


def test_an_agent_that_was_expelled_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    told = {"/health": {"coordinator": None, "expelled": True}, "/api/v1/members": {"members": [], "answered_by": "n1"}}
    monkeypatch.setattr(install, "ask_socket", lambda path, _accepted: told[path])
    seen = install.wait({"timeout_s": 1e6, "members": []})
    assert seen["expelled"]
    assert seen["reason"] == "other members say that it was expelled"


def test_an_agent_that_systemd_does_not_start_again_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install, "unit_state", lambda: {"active": "failed"})
    monkeypatch.setattr(install, "last_words", lambda: "the ledger is damaged")
    seen = install.wait({"timeout_s": 1e6, "members": ["a" * 26]})
    assert seen["reason"] == "the agent doesn't answer: the ledger is damaged"


@pytest.mark.parametrize(
    ("active", "enabled", "ended"),
    [
        ("activating", "enabled", "activating (watchdog): INFO    linked with n1"),
        ("active", "enabled", ""),
        ("inactive", "disabled", ""),
    ],
)
def test_an_agent_that_should_run_and_does_not_is_told_of_with_its_end(
    monkeypatch: pytest.MonkeyPatch, active: str, enabled: str, ended: str
) -> None:
    def run(argv: list[str]) -> system.Output:
        said = {"show": "watchdog\n", "journalctl": "INFO    linked with n1\n"}
        return system.Output(0, next(text for word, text in said.items() if word in argv), "")

    monkeypatch.setattr(probe, "run", run)
    monkeypatch.setattr(probe, "unit_state", lambda: {"active": active, "enabled": enabled})
    assert probe.installed()["ended"] == ended
