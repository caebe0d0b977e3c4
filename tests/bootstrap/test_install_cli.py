"""What `bootstrap install` and `uninstall` say at their end."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from agent.errors import MusterError
from agent.home import GENESIS_FILE, Home
from bootstrap import install_cli, uninstall_cli
from bootstrap.home import create_home
from bootstrap.install import HostResult
from bootstrap.uninstall import RemovalResult

WELL = HostResult(host="n1", name="n1", address="10.0.0.1", state="installed", changed=(), notes=())
OFF = HostResult(host="n2", name=None, address=None, state="failed", changed=(), notes=(), what="no answer")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Home:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("MUSTER_HOME", raising=False)
    return made(tmp_path, "muster")


def made(config: Path, name: str) -> Home:
    home = create_home(config / "muster" / name, name=name, operator="ann", recovery_file=config / f"{name}.key")
    (home.path / GENESIS_FILE).write_text("{}")
    return home


def said(
    home: Home, capsys: pytest.CaptureFixture[str], *arguments: str, results: Sequence[HostResult] = (WELL, OFF)
) -> list[str]:
    with click.Context(install_cli.install, info_name="install") as context:
        install_cli.install.parse_args(context, ["hosts.txt", *arguments])
        install_cli._summary(home, results, None, Path("hosts.txt"), dry=False)
    return capsys.readouterr().out.splitlines()


def test_the_command_for_those_left_has_all_that_was_given(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    lines = said(
        home, capsys, "--identity-file", "my keys/id", "--accept-new", "--no-docker", "--new-cluster", "--limit", "n*"
    )
    again = "bootstrap install hosts.txt --identity-file 'my keys/id' --accept-new --no-docker --limit n2"
    assert f"Again for that host: {again}" in lines


def test_where_all_failed_the_command_is_the_same_again(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    assert said(home, capsys, results=(OFF,))[-2:] == [
        "cluster muster: 1 failed",
        "Mend that, then give the command again.",
    ]


def test_a_home_that_commands_would_not_find_is_named(
    home: Home, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not any("MUSTER_HOME" in line for line in said(home, capsys))
    other = made(tmp_path, "other")
    assert f"Commands find this cluster with --home, or: export MUSTER_HOME={other.path}" in said(other, capsys)
    monkeypatch.setenv("MUSTER_HOME", str(other.path))
    assert not any("MUSTER_HOME" in line for line in said(other, capsys))


@pytest.mark.parametrize(("whole", "limit"), [(True, ""), (False, " --limit n2")])
def test_hosts_left_of_a_cluster_that_is_gone_need_not_leave_it_first(
    home: Home, capsys: pytest.CaptureFixture[str], whole: bool, limit: str
) -> None:
    results = [RemovalResult(host="n1", removed=("the agent",)), RemovalResult(host="n2", what="no answer")]
    with click.Context(uninstall_cli.uninstall, info_name="uninstall") as context:
        uninstall_cli.uninstall.parse_args(context, ["hosts.txt", "--yes"])
        uninstall_cli._summary(home, results, Path("hosts.txt"), whole=whole, dry=False)
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"Again, when that is mended: bootstrap uninstall hosts.txt{limit}"
    )


def test_a_recovery_key_is_told_until_there_is_a_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever stopped the first run may not have read of it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "muster-shop-recovery.key").write_text("of another cluster")
    home, recovery = install_cli._home(str(tmp_path / "home"), "shop", dry=False, another=False)
    assert recovery == tmp_path / "muster-shop-recovery-2.key"
    assert install_cli._home(str(home.path), None, dry=False, another=False)[1] == recovery
    (home.path / GENESIS_FILE).write_text("{}")
    assert install_cli._home(str(home.path), None, dry=False, another=False)[1] is None


def test_who_stops_it_is_told_how_it_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    with click.Context(install_cli.install, info_name="install") as context:
        install_cli.install.parse_args(context, ["hosts.txt", "--accept-new", "--limit", "n1"])
        install_cli.tell_stopped(KeyboardInterrupt(), Path("hosts.txt"), "n1")
        install_cli.tell_stopped(MusterError("its own words"), Path("hosts.txt"), "n1")
    told = "What hosts have of it stays; this goes on with it: bootstrap install hosts.txt --accept-new --limit n1\n"
    assert capsys.readouterr().err == told


def test_who_stops_a_look_at_what_would_change_has_nothing_to_go_on_with(capsys: pytest.CaptureFixture[str]) -> None:
    with click.Context(install_cli.install, info_name="install") as context:
        install_cli.install.parse_args(context, ["hosts.txt", "--dry-run"])
        install_cli.tell_stopped(KeyboardInterrupt(), Path("hosts.txt"), None)
    assert not capsys.readouterr().err
