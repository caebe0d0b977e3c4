"""Through ssh, where a member's API can't be reached: by an ssh that forwards as sshd would, without an sshd."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from pathlib import Path

import msgspec
import pytest

from agent.client import Client, Endpoint, home_client
from agent.client.ssh import SshDestination, read_destinations, tunnel_command, write_destinations
from agent.errors import InputError, Unreachable
from agent.home import KnownMember, open_home, remember
from tests.support.fake_node import FakeCluster
from tests.support.waiting import wait_for

ROOT = Path(__file__).parents[2]
ENDPOINT = Endpoint(address="10.0.0.7", label="n1")

# Forwards -L's port to $FORWARD_TO, notes its arguments, and ends on SIGTERM and with its input as ssh does.
SSH = """\
#!{python}
import os, socket, sys, threading

argv = sys.argv[1:]
with open(os.environ["SSH_NOTES"], "a") as notes:
    notes.write(" ".join(argv) + "\\n")
if os.environ["FORWARD_TO"] == "":
    sys.exit(255)
local = argv[argv.index("-L") + 1].split(":")
server = socket.create_server((local[0], int(local[1])))


def copy(source, target):
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def end_with_input():
    sys.stdin.buffer.read()
    os._exit(0)


if "-N" not in argv:
    threading.Thread(target=end_with_input, daemon=True).start()
while True:
    client, _ = server.accept()
    onward = socket.create_connection(("127.0.0.1", int(os.environ["FORWARD_TO"])))
    for pair in ((client, onward), (onward, client)):
        threading.Thread(target=copy, args=pair, daemon=True).start()
"""


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with an `ssh` in it that goes nowhere yet; its notes."""
    directory = tmp_path / "bin"
    directory.mkdir()
    (directory / "ssh").write_text(SSH.format(python=sys.executable))
    (directory / "ssh").chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.setenv("FORWARD_TO", "")
    monkeypatch.setenv("SSH_NOTES", str(directory / "notes"))
    return directory / "notes"


def only_n1_behind_a_firewall(cluster: FakeCluster) -> None:
    """The home knows n1 alone, at a port where nobody answers, and how ssh gets there."""
    n1 = next(member for member in cluster.home.cluster.members if member.name == "n1")
    moved: KnownMember = msgspec.structs.replace(n1, api_port=closed_port())
    home = remember(cluster.home, members=[moved])
    write_destinations(home, {"n1": SshDestination(host="n1.example.com", user="ops")})


async def opened(cluster: FakeCluster, notices: list[str]) -> Client:
    return await asyncio.to_thread(lambda: home_client(open_home(cluster.home.path), notice=notices.append))


async def test_where_nothing_answers_directly_ssh_carries_the_same_tls(
    running: FakeCluster, ssh: Path, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARD_TO", str(running.nodes["n1"].server.port))
    await asyncio.to_thread(only_n1_behind_a_firewall, running)
    async with await opened(running, notices) as client:
        assert (await client.health()).name == "n1"
        assert (await client.status()).cluster.name == "lab"
    [line] = (await asyncio.to_thread(ssh.read_text)).splitlines()
    assert line.endswith("-l ops -- n1.example.com cat")
    assert ["goes through ssh" in notice for notice in notices] == [True]


async def test_no_ssh_outlives_a_command_that_was_killed(
    running: FakeCluster, ssh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    port = running.nodes["n1"].server.port
    monkeypatch.setenv("FORWARD_TO", str(port))
    await asyncio.to_thread(only_n1_behind_a_firewall, running)
    follows = [sys.executable, "-m", "agent", "--home", str(running.home.path), "events", "--follow"]
    pipe = asyncio.subprocess.PIPE
    command = await asyncio.create_subprocess_exec(*follows, cwd=ROOT, stdout=pipe, stderr=pipe)
    assert command.stderr is not None
    assert b"goes through ssh" in await command.stderr.readline()
    forwards = int((await asyncio.to_thread(ssh.read_text)).split("127.0.0.1:")[1].split(":")[0])
    command.kill()
    await command.communicate()

    async def gone() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", forwards)
        except ConnectionRefusedError:
            return True
        except ConnectionResetError:  # it ends just now
            return False
        writer.close()
        return False

    await wait_for(gone, 10.0, what="the end of ssh")


async def test_whoever_ssh_leads_to_must_be_a_member_that_the_home_knows(
    running: FakeCluster, ssh: Path, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORWARD_TO", str(running.nodes["n2"].server.port))
    await asyncio.to_thread(only_n1_behind_a_firewall, running)
    async with await opened(running, notices) as client:
        with pytest.raises(Unreachable, match="doesn't know as a member"):
            await client.status()


async def test_when_ssh_fails_too_the_first_reason_is_told(running: FakeCluster, ssh: Path, notices: list[str]) -> None:
    await asyncio.to_thread(only_n1_behind_a_firewall, running)
    async with await opened(running, notices) as client:
        with pytest.raises(Unreachable, match=r"n1 .*connection refused"):
            await client.status()
    assert notices == []


async def test_what_is_reached_directly_needs_no_ssh(running: FakeCluster, ssh: Path, notices: list[str]) -> None:
    await asyncio.to_thread(write_destinations, running.home, {"n1": SshDestination(host="n1")})
    async with await opened(running, notices) as client:
        await client.status()
    assert not await asyncio.to_thread(ssh.exists)


def test_destinations_are_added_to_those_that_are_known(cluster: FakeCluster) -> None:
    assert read_destinations(cluster.home) == {}
    first, second = SshDestination(host="a"), SshDestination(host="b", user="ops", port=2222, key="/k")
    write_destinations(cluster.home, {"n1": first})
    write_destinations(cluster.home, {"n2": second})
    assert read_destinations(cluster.home) == {"n1": first, "n2": second}


def test_a_destination_that_ssh_would_take_for_an_option_is_refused(cluster: FakeCluster) -> None:
    for hosts in ('{"n1": {"host": "-oProxyCommand=id"}}', '{"n1": {"host": "a", "user": "-l"}}'):
        (cluster.home.path / "ssh.json").write_text(f'{{"hosts": {hosts}}}')
        with pytest.raises(InputError):
            read_destinations(cluster.home)


def test_the_command_line_names_everything_and_ends_options_before_the_host() -> None:
    destination = SshDestination(host="n1", user="ops", port=2222, key="/k")
    argv = tunnel_command(ENDPOINT, destination, 4000)
    assert argv[argv.index("-L") + 1] == "127.0.0.1:4000:10.0.0.7:9999"
    assert argv[-9:] == ["-i", "/k", "-p", "2222", "-l", "ops", "--", "n1", "cat"]
    assert {"BatchMode=yes", "ExitOnForwardFailure=yes", "IdentitiesOnly=yes", "ForwardAgent=no"} <= set(argv)
    six = tunnel_command(Endpoint(address="2001:db8::7"), SshDestination(host="n1"), 4000)
    assert six[six.index("-L") + 1] == "127.0.0.1:4000:[2001:db8::7]:9999"
