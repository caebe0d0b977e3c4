"""A ledger that an agent can't vouch for, or can't write: it ends with one clear line that says what to do, before it
serves or votes on anything, and the others go on without it."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import msgspec
import psutil
import pytest

from agent.errors import EXIT_ERROR, EXIT_NEEDS_REPAIR
from agent.raft import Configuration, Entry, EntryKind, Persist, Snapshot
from agent.state import encode_snapshot, genesis_state
from agent.storage.birth import LEDGER_FILE, genesis_entry
from agent.storage.database import LedgerFile
from agent.storage.identity import load as load_identity
from agent.storage.room import ROOM_BYTES
from bootstrap import leftovers
from bootstrap.local import AGENT, LocalCluster, clean_environment
from tests.loopback.conftest import outliving
from tests.loopback.world import ASKS_EVERY_S, EXAMPLE, LOOK_EVERY_S, READY_TIMEOUT_S, coordinator_of
from tests.support.agents import AgentHttps, Desk
from tests.support.waiting import wait_for_sync

ENDS_S = 20.0
VOTES_AGAIN_S = 60.0
SMALL_DISK_BYTES = 2 * ROOM_BYTES
WAITS = "It takes no part until 16 MiB"
AT_A_LIMIT = (
    "import os, resource, sys; n = int(sys.argv[1]); resource.setrlimit(resource.RLIMIT_FSIZE, (n, n)); "
    "os.execv(sys.argv[2], sys.argv[2:])"
)
Damage = Callable[[LocalCluster], None]


@pytest.fixture(scope="module")
def trio(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCluster]:
    """Three voters with a history; n3 was stopped, and a sound copy of its data is beside it."""
    with outliving(tmp_path_factory.mktemp("bad")) as cluster:
        cluster.up()
        cluster.wait_ready(timeout_s=READY_TIMEOUT_S)
        Desk(cluster).run("deploy", str(EXAMPLE))
        cluster.stop("n3")
        shutil.copytree(cluster.data_dir("n3"), sound(cluster))
        yield cluster


@pytest.fixture
def n3(trio: LocalCluster) -> LocalCluster:
    """As after the stop: no start that a test made has reached the others."""
    put_back(trio)
    return trio


def put_back(cluster: LocalCluster) -> None:
    shutil.rmtree(cluster.data_dir("n3"))
    shutil.copytree(sound(cluster), cluster.data_dir("n3"))


def ledger(cluster: LocalCluster) -> Path:
    return cluster.data_dir("n3") / LEDGER_FILE


def sound(cluster: LocalCluster) -> Path:
    return cluster.agent_directory("n3") / "sound"


def run_n3(cluster: LocalCluster, *before: str) -> subprocess.CompletedProcess[str]:
    """To its end."""
    argv = [*before, *AGENT, "run", "--config", str(cluster.config_file("n3"))]
    return subprocess.run(
        argv,
        env=clean_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=ENDS_S,
        check=False,
    )


def damaged_page(cluster: LocalCluster) -> None:
    with ledger(cluster).open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 512)


def cut_short(cluster: LocalCluster) -> None:
    with ledger(cluster).open("r+b") as file:
        file.truncate(ledger(cluster).stat().st_size // 2)


def entry_changed(cluster: LocalCluster) -> None:
    database = sqlite3.connect(ledger(cluster))
    database.execute("UPDATE entries SET data = x'00' WHERE idx = 2")
    database.commit()
    database.close()


def gone(cluster: LocalCluster) -> None:
    ledger(cluster).unlink()


def written(cluster: LocalCluster, make: Callable[[LedgerFile], Persist]) -> None:
    """By the agent's own hand: all checksums are right."""
    identity = load_identity(cluster.data_dir("n3"))
    file = LedgerFile(
        ledger(cluster), agent_id=identity.id, genesis_entry=genesis_entry(identity), ledger_id=identity.ledger
    )
    file.commit([make(file)])
    file.close()


def snapshot_cut_short(cluster: LocalCluster) -> None:
    def make(file: LedgerFile) -> Persist:
        genesis = genesis_entry(load_identity(cluster.data_dir("n3")))
        data = encode_snapshot(genesis_state(genesis.data))
        voters = Configuration.of([member.id for member in cluster.members("n1")])
        snapshot = Snapshot(index=1, term=0, configuration=voters, data=data[: len(data) // 2])
        return Persist(snapshot=snapshot, compact_to=1)

    written(cluster, make)


def entry_of_a_later_version(cluster: LocalCluster) -> None:
    def make(file: LedgerFile) -> Persist:
        last = file.boot.entries[-1]
        data = msgspec.msgpack.encode({"type": "of a later version", "at": 0})
        entry = Entry(last.index + 1, last.term, EntryKind.NORMAL, data)
        return Persist(entries=(entry,), commit=entry.index)

    written(cluster, make)


@pytest.mark.parametrize(
    ("damage", "what", "fix"),
    [
        (damaged_page, "the ledger is damaged", "`agent expel` the host if it still is a member"),
        (cut_short, "the ledger is damaged", "`agent expel` the host if it still is a member"),
        (entry_changed, "entry 2 doesn't match its checksum", "`agent expel` the host if it still is a member"),
        (gone, "the ledger is missing", "`agent expel` the host if it still is a member"),
        (snapshot_cut_short, "the stored snapshot can't be vouched for", "start the agent again"),
        (entry_of_a_later_version, "is of a later version than this agent", "start the agent again"),
    ],
)
def test_what_cant_be_vouched_for_ends_the_agent_with_what_to_do(
    n3: LocalCluster, damage: Damage, what: str, fix: str
) -> None:
    damage(n3)
    for _ in range(2):  # another start makes nothing good
        ended = run_n3(n3)
        assert ended.returncode == EXIT_NEEDS_REPAIR
        says(ended.stdout, what, fix)
        assert not n3.socket_path("n3").exists(), "it serves nobody"
    assert not n3.status("n1").stale, "the others go on"


def says(output: str, what: str, fix: str) -> None:
    """One line that says what, the next what to do, and nothing that a person can't use."""
    lines = output.splitlines()
    (number,) = [number for number, line in enumerate(lines) if what in line]
    assert fix in lines[number] + (lines[number + 1] if number + 1 < len(lines) else "")
    assert "Traceback" not in output


def test_a_disk_that_takes_no_write_ends_it_and_once_it_does_it_goes_on(n3: LocalCluster) -> None:
    """Beyond a limit no file grows."""
    n3.start("n3")
    n3.wait_ready(timeout_s=READY_TIMEOUT_S)
    agent = psutil.Process(n3.pid("n3"))
    largest = max(file.stat().st_size for file in n3.data_dir("n3").glob(f"{LEDGER_FILE}*"))
    agent.rlimit(resource.RLIMIT_FSIZE, (largest, largest))
    desk = Desk(n3)

    def fills_it() -> bool:
        desk.run("restart", "web")
        return n3.pid("n3") is None

    wait_for_sync(fills_it, READY_TIMEOUT_S, what="the end of n3")
    agent.wait(ENDS_S)
    says(n3.output_tail("n3"), "the ledger can't be written", "Check the disk (`df`, `dmesg`)")
    ended = run_n3(n3, sys.executable, "-c", AT_A_LIMIT, "4096")
    assert ended.returncode == EXIT_ERROR, "the next start may find it well"
    says(ended.stdout, "the ledger can't be opened", "Check the disk (`df`, `dmesg`)")
    n3.start("n3")
    n3.wait_ready(timeout_s=READY_TIMEOUT_S)
    n3.stop("n3")


@pytest.fixture
def small_disk(n3: LocalCluster) -> Iterator[Path]:
    """n3's data on a disk of its own."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    directory = n3.data_dir("n3")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK_BYTES},mode=700", "tmpfs", directory], check=True)
    try:
        shutil.copytree(sound(n3), directory, dirs_exist_ok=True)
        yield directory
    finally:
        n3.kill("n3")
        leftovers.end_processes([directory])
        subprocess.run(["umount", directory], check=True)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bytes]]:
    """What agents that are started from now on tell systemd (sd_notify(3))."""
    name, heard = f"muster-told-{os.getpid()}", list[bytes]()
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(f"\0{name}")

        def listen() -> None:
            while message := systemd.recv(4096):
                heard.append(message)

        with ThreadPoolExecutor() as pool:
            pool.submit(listen)
            yield heard
            systemd.sendto(b"", f"\0{name}")


def test_on_a_full_disk_it_takes_no_part_and_goes_on_by_itself_once_there_is_room(
    n3: LocalCluster, small_disk: Path, told: list[bytes]
) -> None:
    """Whether it is full at a start or becomes so."""
    desk, filling = Desk(n3), small_disk / "filling"

    def finds_out() -> bool:
        desk.run("restart", "web", "--detach", code=None)  # what the disk holds is used again first
        return WAITS in n3.output_tail("n3")

    def says_so_and_goes_on() -> None:
        wait_for_sync(finds_out, READY_TIMEOUT_S, what="its line", interval_s=ASKS_EVERY_S)
        wait_for_sync(lambda: not n3.socket_path("n3").exists(), READY_TIMEOUT_S, what="the end of what it serves")
        says(n3.output_tail("n3"), WAITS, "Make room there")
        pid = n3.pid("n3")
        assert not n3.status("n1").stale, "the others go on"
        filling.unlink()
        n3.wait_ready(timeout_s=READY_TIMEOUT_S)
        assert n3.pid("n3") == pid, "it waited"
        n3.output_file("n3").write_bytes(b"")

    n3.start("n3")
    n3.wait_ready(timeout_s=READY_TIMEOUT_S)
    n3.output_file("n3").write_bytes(b"")
    fill(filling)
    says_so_and_goes_on()
    assert b"STOPPING=1" not in told, "systemd would kill what doesn't end after that"
    fill(filling)
    n3.stop("n3")  # whatever it can't write any more
    n3.start("n3")
    says_so_and_goes_on()


def fill(path: Path) -> None:
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_an_older_copy_of_all_its_data_is_shown_what_it_signed_since_and_never_decides(n3: LocalCluster) -> None:
    """It adds up, so nothing on that disk says so: the others remember, and have its own signature for it."""
    desk = Desk(n3)
    n3.start("n3")
    n3.wait_ready(timeout_s=READY_TIMEOUT_S)
    # Who was away for half a minute, as on a busy machine during the tests before, has lost its vote, and nobody keeps
    # its word then. It gets the vote back after ten seconds of health.
    wait_for_sync(lambda: n3.status("n1").quorum.voters == 3, VOTES_AGAIN_S, what="n3's vote", interval_s=LOOK_EVERY_S)
    desk.run("restart", "web")
    n3.stop("n3")
    leftovers.end_processes([n3.data_dir("n3")])  # a host of another day runs nothing of today
    put_back(n3)
    n3.start("n3")
    went_back = "n3's disk went back to an earlier state"

    def told() -> bool:
        # By n3 itself, or by whoever coordinated when its count of starts showed it, which another may do by now.
        return any(went_back in desk.run("--via", name, "events").stdout for name in n3.names)

    wait_for_sync(told, READY_TIMEOUT_S, what=f"an event: {went_back}", interval_s=ASKS_EVERY_S)
    desk.run("restart", "web")
    with AgentHttps(n3, "n3") as agent:
        counted = agent.ask("GET", "/metrics", token=desk.access_token()).body.decode()
    assert 'muster_raft_drops_total{reason="fenced"}' in counted, "it was shown its own word, and takes no part"
    assert coordinator_of(n3) != "n3"
