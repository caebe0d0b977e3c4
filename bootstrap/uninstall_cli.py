"""`bootstrap uninstall HOSTS`: asks first, and says what stays."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from agent.client.draining import Left
from agent.errors import EXIT_DEGRADED, InputError
from agent.formats.durations import parse_duration_ms
from agent.home import Home, find_home, open_home
from bootstrap.departure import Confirm
from bootstrap.install_cli import (
    again,
    choose,
    host_options,
    make_display,
    read_hosts,
    sudo_password,
    tell_stopped,
)
from bootstrap.progress import Display
from bootstrap.ssh import SshSettings
from bootstrap.uninstall import Removal, RemovalResult

WAIT = "10m"  # a service whose replicas take a minute to get healthy may have ten of them there


@click.command()
@host_options
@click.option("--delete-volumes", is_flag=True, help="Delete named volumes and plans' own files too.")
@click.option(
    "--wait",
    default=WAIT,
    metavar="TIME",
    show_default=True,
    help="With --limit: how long replicas may take to move away, such as 90s or 10m.",
)
@click.option("--yes", is_flag=True, help="Don't ask, not even about replicas that end with their host.")
def uninstall(
    hosts: Path,
    limit: str | None,
    home: str | None,
    identity_file: str | None,
    accept_new: bool,
    ask_sudo_password: bool,
    dry_run: bool,
    as_json: bool,
    delete_volumes: bool,
    wait: str,
    yes: bool,
) -> None:
    """Remove the agent, its containers and its files from hosts.

    Named volumes, Docker and the cluster home stay. With --limit the rest continues as a cluster: replicas that may run
    elsewhere move there, one of a service at a time, and then these hosts are expelled, unless too few voters would be
    left. Replicas that can't move (pinned, a named volume, no room) are named, and asked about. Exits 3 when a host
    failed.
    """
    wait_s = parse_duration_ms(wait, where="--wait") / 1000
    every = read_hosts(hosts)
    chosen = choose(every, limit)
    opened = open_home(find_home(home, os.environ))
    whole = limit is None
    if not (yes or dry_run):
        _ask(opened, [host.alias for host in chosen], whole=whole, delete_volumes=delete_volumes)
    display = make_display(chosen, as_json=as_json)
    removal = Removal(
        opened,
        chosen,
        settings=SshSettings(identity_file=identity_file, accept_new=accept_new, sudo_password=ask_sudo_password),
        display=display,
        password=sudo_password() if ask_sudo_password else None,
        whole=whole,
        delete_volumes=delete_volumes,
        dry=dry_run,
        confirm=_confirm(display) if not yes else lambda _: True,
        wait_s=wait_s,
    )
    try:
        with display:
            results = asyncio.run(removal.run())
    except BaseException as ended:
        tell_stopped(ended, hosts, limit)
        raise
    if as_json:
        document = {"ok": all(not result.what for result in results), "hosts": results, "home": str(opened.path)}
        click.echo(msgspec.json.encode(document).decode())
    else:
        _summary(opened, results, hosts, whole=whole, dry=dry_run)
    if any(result.what for result in results):
        click.get_current_context().exit(EXIT_DEGRADED)


def _ask(home: Home, names: Sequence[str], *, whole: bool, delete_volumes: bool) -> None:
    """Raises click.Abort for a no, InputError when nobody can answer."""
    listed = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    what = f"all of cluster {home.cluster.name}" if whole else f"these hosts of cluster {home.cluster.name}"
    volumes = "; their volumes are DELETED" if delete_volumes else "; named volumes stay"
    click.echo(f"This takes away {what}: {listed}{volumes}.")
    if not os.isatty(0):
        raise InputError("nobody can be asked here", where="--yes", fix="Give --yes if you mean it.")
    click.confirm("Go on?", abort=True)


def _confirm(display: Display) -> Confirm:
    """The question about replicas that can't move, asked where the display doesn't draw over it."""

    def confirm(left: Sequence[Left]) -> bool:
        with display.paused():
            click.echo("These can't move away, and end with their host:", err=True)
            for item in left:
                click.echo(f"  {item.replica} on {item.host}" + (f": {item.why}" if item.why else ""), err=True)
            return click.confirm("Go on?", err=True)

    return confirm


def _summary(home: Home, results: Sequence[RemovalResult], hosts: Path, *, whole: bool, dry: bool) -> None:
    for result in results:
        if dry:
            click.echo(f"{result.host} would lose: {', '.join(result.removed) or 'nothing'}")
        if result.moved:
            click.echo(f"{'would move' if dry else 'moved'}: {result.host}: {', '.join(result.moved)}")
        for lost in result.lost:
            click.echo(f"{'would end' if dry else 'ended'}: {result.host}: {lost}")
        for kept in result.kept:
            click.echo(f"kept: {result.host}: {kept}")
        for left in result.left:
            click.echo(f"left: {result.host}: {left}")
    failed = [result for result in results if result.what]
    done = len(results) - len(failed)
    click.echo(f"\ncluster {home.cluster.name}: {done} of {len(results)} hosts {'looked at' if dry else 'uninstalled'}")
    if failed:
        # With --limit hosts leave a cluster first, which takes one that is there; of a whole one nothing is left.
        limit = None if whole else ",".join(result.host for result in failed)
        click.echo(f"Again, when that is mended: {again(hosts, limit=limit)}")
    if any(result.kept for result in results):
        click.echo("--delete-volumes deletes what was kept.")
    if whole and not failed and not dry:
        click.echo(
            f"The cluster's home stays: {home.path}. `bootstrap install HOSTS --new-cluster` makes the next one, "
            "and keeps it beside."
        )
