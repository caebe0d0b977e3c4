"""This machine as a host: the helper is started here, and no ssh has a part in it; and a host that wants to be seen."""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import random
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from agent.errors import MusterError, NotAllowed, RuntimeUnavailable, Unreachable
from bootstrap.connection import BLOCK_BYTES, Connection
from bootstrap.inventory import parse_inventory
from bootstrap.site import Site
from bootstrap.ssh import SshSettings


async def test_localhost_is_looked_at_without_ssh() -> None:
    (host,) = parse_inventory("localhost ansible_become=false name=here")
    told: list[str] = []
    site = Site(host=host, tell=told.append)
    site.connection = await Connection.open(host, SshSettings())
    try:
        facts = await site.probe(None)
    finally:
        await site.close()
    assert facts.hostname == platform.node()
    assert facts.root is (os.geteuid() == 0)
    assert facts.ssh_address == ""


HOSTILE = r"""
import json, struct, sys
from bootstrap.remote.wire import HELLO
def say(message):
    data = json.dumps(message).encode()
    sys.stdout.buffer.write(struct.pack(">I", len(data)) + data)
sys.stdout.buffer.write(HELLO)
say({"step": "\x1b[2Jlooking"})
say({"done": {"notes": ["all is \x1b]0;well\x07", "so\rit is"], "config": "a\nb\n", "taken": 3}})
say({"failed": {"what": "\x1b[31mno", "where": "\x9b1m", "fix": "one\ntwo"}})
sys.stdout.flush()
sys.stderr.write("Last login \x1b[1mtoday\x1b[5i\r\n")
"""


async def connected(program: str) -> Connection:
    """The connection to a host whose helper was changed."""
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdin=pipe, stdout=pipe, stderr=pipe)
    (host,) = parse_inventory("localhost name=here")
    connection = Connection(process, host, SshSettings())
    await connection._greet()
    return connection


@pytest.fixture
async def hostile() -> AsyncIterator[Connection]:
    connection = await connected(HOSTILE)
    yield connection
    await connection.close()


async def test_no_word_of_a_host_steers_the_terminal(hostile: Connection) -> None:
    told: list[str] = []
    answer = await hostile.ask("probe", step=told.append, limit_s=10)
    assert told == ["\ufffd[2Jlooking"]
    assert answer == {"notes": ["all is \ufffd]0;well\ufffd", "so\ufffdit is"], "config": "a\nb\n", "taken": 3}
    with pytest.raises(MusterError) as failed:
        await hostile.ask("apply", limit_s=10)
    assert (failed.value.what, failed.value.where, failed.value.fix) == ("no", "\ufffd1m", "one\ntwo")
    with pytest.raises(MusterError) as ended:
        await hostile.ask("start", limit_s=10)
    assert "\x1b" not in str(ended.value)
    assert "today" in str(ended.value)


SLOW = """
import hashlib, json, struct, sys, time
from bootstrap.remote.wire import HELLO
source, seen = sys.stdin.buffer, hashlib.sha256()
def say(message):
    data = json.dumps(message).encode()
    sys.stdout.buffer.write(HELLO if message is None else struct.pack(">I", len(data)) + data)
    sys.stdout.flush()
source.read(int(source.readline()))
say(None)
while head := source.read(4):
    rest = json.loads(source.read(*struct.unpack(">I", head))).get("size", 0)
    while rest:
        block = source.read(min(rest, 100_000))
        seen.update(block)
        rest -= len(block)
        time.sleep(0.001)  # so that what is sent has to wait
    say({"done": seen.hexdigest()})
"""


async def test_files_come_whole_behind_their_questions_to_whom_reads_slowly(tmp_path: Path) -> None:
    bundle, content = tmp_path / "bundle", random.Random(1).randbytes(5 * BLOCK_BYTES + 17)
    bundle.write_bytes(content)
    connection = await connected(SLOW)
    try:
        for times in (1, 2):
            answer = await connection.ask("unpack", limit_s=30, blob=bundle, padding="x" * BLOCK_BYTES)
            assert answer == hashlib.sha256(content * times).hexdigest()
        assert await connection.ask("look", limit_s=30) == hashlib.sha256(content * 2).hexdigest()
    finally:
        await connection.close()


LEAVING = """
import sys
from bootstrap.remote.wire import HELLO
sys.stdout.buffer.write(HELLO)
sys.stdout.flush()
sys.stdin.buffer.read(100_000)
sys.stderr.write("ssh: connect to host n1 port 22: Connection timed out")
"""


async def test_a_connection_that_breaks_within_a_file_is_told_and_nothing_more_is_written(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "bundle").write_bytes(bytes(40 * BLOCK_BYTES))
    connection = await connected(LEAVING)
    try:
        with pytest.raises(Unreachable, match="no answer on the network"):
            await connection.ask("unpack", limit_s=30, blob=tmp_path / "bundle")
    finally:
        await connection.close()
    assert not caplog.records


@pytest.mark.parametrize(("line", "asked_before"), [("root@n1", False), ("n1", True)])
async def test_ssh_is_asked_for_its_configuration_only_where_that_decides_something(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, asked_before: bool
) -> None:
    calls = tmp_path / "calls"
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f"#!/bin/sh\ncase \"$*\" in '-G '*) echo asked >>{calls}; echo user ops; echo identityfile {ssh};;\n"
        f"*) echo connects >>{calls}; echo 'Permission denied (publickey).' >&2; exit 255;; esac\n"
    )
    ssh.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (host,) = parse_inventory(line)
    with pytest.raises(NotAllowed, match=r"ssh doesn't let (root|ops) in"):
        await Connection.open(host, SshSettings())
    assert calls.read_text().split() == ["asked"] * asked_before + ["connects", "asked"], "also to say what is wrong"


async def test_the_users_agent_is_asked_once_for_why_a_login_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = tmp_path / "calls"
    for name, script in (
        ("ssh", "case \"$*\" in '-G '*) exit 0;; esac; echo 'Permission denied (publickey).' >&2; exit 255"),
        ("ssh-add", f"echo $* >>{calls}; exit 1"),
    ):
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (host,) = parse_inventory("root@n1")
    with pytest.raises(NotAllowed, match="no key on this machine"):
        await Connection.open(host, SshSettings())
    assert calls.read_text().split() == ["-L"]


async def test_a_machine_without_ssh_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    for line in ("root@n1", "n1"):
        (host,) = parse_inventory(line)
        with pytest.raises(RuntimeUnavailable, match="there is no ssh on this machine"):
            await Connection.open(host, SshSettings())
