"""`bootstrap local` and `bootstrap demo`, as one types them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from agent.errors import EXIT_READER_GONE, Conflict, InputError
from bootstrap.local import LocalCluster, clean_environment
from tests.loopback.world import running_below
from tests.support.agents import Desk

BOOTSTRAP = (sys.executable, "-P", "-c", "from bootstrap.cli import main; main()")
DEMO_TIMEOUT_S = 60.0  # it takes 11 s on two idle cores; here others may use them too


def bootstrap(*arguments: str, code: int = 0, **environ: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [*BOOTSTRAP, *arguments],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=DEMO_TIMEOUT_S,
        env=clean_environment() | environ,
        check=False,
    )
    assert done.returncode == code, f"ended with {done.returncode}: {done.stdout}\n{done.stderr}"
    return done


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[Path]:
    """Where `bootstrap local` may have its cluster; nothing runs there afterwards."""
    path = tmp_path / "local"
    yield path
    if path.exists():
        LocalCluster.open(path).down()
    assert running_below(path) == []


def test_up_makes_a_cluster_that_outlives_the_command_and_down_leaves_nothing(directory: Path) -> None:
    up = ("local", "up", "--dir", str(directory), "--agents", "1", "--api-port", "0")
    assert "n1 coordinates" in bootstrap(*up).stdout
    pid = LocalCluster.open(directory).pid("n1")
    assert pid is not None
    assert "n1 coordinates" in bootstrap(*up).stdout, "up again is fine"
    assert LocalCluster.open(directory).pid("n1") == pid, "and touches nothing"
    assert f"pid {pid}" in bootstrap("local", "status", "--dir", str(directory)).stdout
    assert "n1" in Desk(LocalCluster.open(directory)).run("status").stdout
    bootstrap("local", "kill", "n1", "--dir", str(directory))
    assert "doesn't run" in bootstrap("local", "status", "--dir", str(directory), code=3).stdout
    bootstrap("local", "start", "n1", "--dir", str(directory))
    assert [member.name for member in LocalCluster.open(directory).members("n1")] == ["n1"], "it answers at once"
    bootstrap("local", "down", "--dir", str(directory), "--delete")
    assert not directory.exists()


def test_what_is_mounted_in_its_directory_is_named_where_that_can_not_be_removed(directory: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may mount")
    LocalCluster.create(directory, 1, api_port=0)
    mounted = directory / "n1" / "data"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", mounted], check=True)
    try:
        said = bootstrap("local", "down", "--dir", str(directory), "--delete", code=1).stderr
    finally:
        subprocess.run(["umount", mounted], check=True)
    assert said.startswith(f"error: {mounted}: nothing runs any more, but something is mounted there")
    bootstrap("local", "down", "--dir", str(directory), "--delete")
    assert not directory.exists(), "nothing of it was gone before"


def test_an_agent_is_found_again_when_its_pid_file_is_lost(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(1)
    pid = cluster.start("n1")
    (cluster.agent_directory("n1") / "agent.pid").unlink()
    assert LocalCluster.open(cluster.directory).pid("n1") == pid
    (cluster.agent_directory("n1") / "agent.pid").write_text("1\n")  # another process' number
    assert cluster.start("n1") == pid


def test_what_was_cut_off_while_it_was_made_is_completed(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(2)
    (cluster.data_dir("n2") / "identity" / "grant.json").unlink()
    genesis = (cluster.home / "genesis.json").read_bytes()
    again = LocalCluster.create(cluster.directory, 2, api_port=0)
    assert (again.data_dir("n2") / "identity" / "grant.json").exists()
    assert (cluster.home / "genesis.json").read_bytes() == genesis, "there is never a second genesis"
    again.up()
    again.wait_ready()


def test_a_cluster_of_another_shape_is_not_overwritten(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(1)
    with pytest.raises(Conflict, match="local with 1 agents"):
        LocalCluster.create(cluster.directory, 2)


def test_a_taken_port_is_told_before_anything_starts(make_cluster: Callable[..., LocalCluster]) -> None:
    cluster = make_cluster(1)
    with socket.create_server(("127.0.0.1", cluster.layout.api_port)), pytest.raises(Conflict) as raised:
        cluster.start("n1")
    assert "pid " in raised.value.what
    assert "--api-port 0" in raised.value.fix
    assert cluster.pid("n1") is None


def test_a_directory_too_deep_for_a_socket_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100)
    with pytest.raises(InputError, match="too long for a socket"):
        LocalCluster.create(deep, 1)
    assert not deep.exists()


def test_the_demo_shows_a_cluster_at_work_and_cleans_up(tmp_path: Path) -> None:
    shown = bootstrap("demo", TMPDIR=str(tmp_path), DOCKER_HOST="unix:///nonexistent").stdout
    for line in ("$ agent deploy", "$ agent status", "$ kill -9", "hello from n1 slot", "ms later", "4/4", "still run"):
        assert line in shown
    assert "✗" not in shown
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_nobody_reads_on_cleans_up(tmp_path: Path) -> None:
    environ = clean_environment() | {"TMPDIR": str(tmp_path), "DOCKER_HOST": "unix:///nonexistent"}
    with subprocess.Popen([*BOOTSTRAP, "demo"], stdout=subprocess.PIPE, env=environ, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if "Three agents" in line:
                break
        demo.stdout.close()
        assert demo.wait(DEMO_TIMEOUT_S) == EXIT_READER_GONE
    assert running_below(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_fails_says_where_the_logs_are_and_cleans_up(tmp_path: Path) -> None:
    only = tmp_path / "bin"  # a PATH without python3, so no replica can start
    only.mkdir()
    failed = bootstrap("demo", code=1, TMPDIR=str(tmp_path), PATH=str(only), DOCKER_HOST="unix:///nonexistent")
    assert "python3" in failed.stdout
    assert "logs are" in failed.stdout
    assert failed.stderr.startswith("error: ")
    (kept,) = (path for path in tmp_path.iterdir() if path != only)
    assert (kept / "n1" / "agent.out").exists()
    assert running_below(kept) == []
    shutil.rmtree(kept)
