"""`bootstrap install HOSTS`: its options and output; `bootstrap.install` does the work."""

from __future__ import annotations

import asyncio
import getpass
import itertools
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from agent.errors import EXIT_DEGRADED, Conflict, InputError, MusterError, NotFound, TooLarge, Unreachable
from agent.home import (
    CLUSTER_FILE,
    GENESIS_FILE,
    Home,
    find_home,
    homes_directory,
    open_home,
    read_file,
    read_recovery,
)
from agent.instruction import private_key_of, public_hex
from agent.model.types import is_label
from bootstrap.bundle import cache_directory
from bootstrap.home import create_home, put_aside
from bootstrap.install import HostResult, Installation
from bootstrap.inventory import MAX_INVENTORY_BYTES, InventoryHost, parse_inventory
from bootstrap.plan import Options
from bootstrap.progress import JsonLines, Lines, Silent
from bootstrap.ssh import SshSettings

F = TypeVar("F", bound=Callable[..., Any])

DEFAULT_NAME = "muster"
_NOT_AGAIN = {"hosts", "limit", "dry_run", "as_json", "progress", "new_cluster", "yes"}
"""Of a command that is given again: whom, and what was asked for or done once."""


def host_options(command: F) -> F:
    """The options that install and uninstall share."""
    options = (
        click.argument("hosts", type=click.Path(path_type=Path, allow_dash=True)),
        click.option("--limit", metavar="HOST,...", help="Only these lines: names, groups, or patterns like 'web*'."),
        click.option("--home", metavar="DIR", help="The cluster home.  [env: MUSTER_HOME]"),
        click.option(
            "--identity-file", metavar="FILE", help="The private key for ssh, for hosts whose line names none."
        ),
        click.option("--accept-new", is_flag=True, help="Trust host keys that are seen for the first time."),
        click.option("--ask-sudo-password", is_flag=True, help="Ask for the password that sudo wants on the hosts."),
        click.option("--dry-run", is_flag=True, help="Only look, and say what would be done."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON document at the end, and nothing before."),
    )
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@host_options
@click.option(
    "--name", metavar="NAME", help=f"The cluster's name, for a cluster that isn't there yet.  [default: {DEFAULT_NAME}]"
)
@click.option(
    "--new-cluster",
    is_flag=True,
    help="Make another cluster in place of one that is gone; its home is kept beside the new one.",
)
@click.option("--open-firewall", is_flag=True, help="Open the agents' ports in an active firewall.")
@click.option("--no-docker", is_flag=True, help="Don't install Docker where it is missing.")
@click.option("--progress", is_flag=True, help="With --json: each step as a line of JSON on standard error.")
def install(
    hosts: Path,
    limit: str | None,
    home: str | None,
    identity_file: str | None,
    accept_new: bool,
    ask_sudo_password: bool,
    dry_run: bool,
    as_json: bool,
    name: str | None,
    new_cluster: bool,
    open_firewall: bool,
    no_docker: bool,
    progress: bool,
) -> None:
    """Make a cluster of the hosts in a list, over ssh.

    HOSTS has one host per line (user@host:port key=value …), with groups and ranges as in Ansible's inventories. Run it
    again at any time: it leaves alone what works, repairs what is broken, and enrols lines that are new. Exits 3 when a
    host failed; the others are done, and the last lines name the command for the failed ones.
    """
    chosen = choose(read_hosts(hosts), limit)
    opened, recovery = _home(home, name, dry=dry_run, another=new_cluster)
    display = make_display(chosen, as_json=as_json, progress=progress)
    installation = Installation(
        opened,
        chosen,
        settings=SshSettings(identity_file=identity_file, accept_new=accept_new, sudo_password=ask_sudo_password),
        options=Options(docker=not no_docker, open_firewall=open_firewall),
        display=display,
        cache=cache_directory(os.environ),
        password=sudo_password() if ask_sudo_password else None,
        dry=dry_run,
    )
    try:
        with display:
            results = asyncio.run(installation.run())
    except BaseException as ended:
        tell_stopped(ended, hosts, limit)
        if recovery is not None:
            click.echo(_recovery_told(recovery), err=True)
        raise
    if as_json:
        _print_json(installation.home, results, recovery)
    else:
        _summary(installation.home, results, recovery, hosts, dry=dry_run)
    if any(result.state == "failed" for result in results):
        click.get_current_context().exit(EXIT_DEGRADED)


def tell_stopped(ended: BaseException, hosts: Path, limit: str | None) -> None:
    """Say what a person who stopped it has to know."""
    if isinstance(ended, KeyboardInterrupt) and not click.get_current_context().params.get("dry_run"):
        click.echo(f"What hosts have of it stays; this goes on with it: {again(hosts, limit=limit)}", err=True)


def read_hosts(path: Path) -> tuple[InventoryHost, ...]:
    """The list, from a file or `-`. Raises InputError."""
    if str(path) == "-":
        data = sys.stdin.buffer.read(MAX_INVENTORY_BYTES + 1)
    else:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_INVENTORY_BYTES + 1)
        except FileNotFoundError:
            fix = "One host a line: user@host. `bootstrap install --help` says more."
            raise InputError("there is no such list of hosts", where=str(path), fix=fix) from None
        except OSError as error:
            raise InputError(f"can't be read: {error.strerror}", where=str(path)) from None
    if len(data) > MAX_INVENTORY_BYTES:
        raise TooLarge(f"more than {MAX_INVENTORY_BYTES} bytes", where=str(path))
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise InputError("not UTF-8", where=f"{path}:{line}:1") from None
    hosts = parse_inventory(text, str(path))
    if not hosts:
        raise InputError("there is no host in it", where=str(path), fix="One host a line: user@host")
    return hosts


def choose(hosts: Sequence[InventoryHost], limit: str | None) -> list[InventoryHost]:
    """The hosts that `--limit` names, by alias, name, group or pattern. Raises InputError for one that matches none."""
    if limit is None:
        return list(hosts)
    chosen: dict[str, InventoryHost] = {}
    for pattern in filter(None, re.split(r"[,\s]+", limit)):
        fitting = [host for host in hosts if _fits(host, pattern)]
        if not fitting:
            raise InputError(f"no host is called {pattern}", where="--limit")
        chosen |= {host.alias: host for host in fitting}
    return [host for host in hosts if host.alias in chosen]


def make_display(hosts: Sequence[InventoryHost], *, as_json: bool, progress: bool = False) -> Silent:
    """A table on a terminal, lines elsewhere; for a program JSON on standard error, or nothing."""
    if as_json:
        return JsonLines(lambda line: click.echo(line, err=True)) if progress else Silent()
    if sys.stdout.isatty() and os.environ.get("TERM") != "dumb":
        from rich.console import Console

        from bootstrap.board import Board  # a quarter of what this command imports

        return Board(Console(highlight=False), [host.alias for host in hosts])
    return Lines(click.echo)


def sudo_password() -> str:
    """Typed, never shown. Raises InputError for an empty one, or when nobody can type."""
    if not sys.stdin.isatty():
        password = sys.stdin.readline().rstrip("\n")
    else:
        password = getpass.getpass("sudo password on the hosts: ")
    if not password:
        raise InputError("no password", where="--ask-sudo-password")
    return password


def _fits(host: InventoryHost, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (host.alias, host.name or host.alias)) or (
        host.labels.get(pattern) == "true"
    )


def _home(explicit: str | None, name: str | None, *, dry: bool, another: bool) -> tuple[Home, Path | None]:
    """The cluster's home, made when there is none; also the recovery key's file, before there is a cluster.

    `another`: the home of a cluster that is gone is moved aside. Raises MusterError.
    """
    if name is not None and not is_label(name):
        raise InputError(f"{name!r} is no cluster's name: 1 to 63 of a-z 0-9 -", where="--name")
    try:
        path = find_home(explicit, os.environ, cluster=name)
    except NotFound:
        path = homes_directory(os.environ) / (name or DEFAULT_NAME)
    if (path / CLUSTER_FILE).exists():
        home = open_home(path)
        if name is not None and home.cluster.name != name:
            raise InputError(f"the cluster in {path} is called {home.cluster.name}", where="--name")
        if not (path / GENESIS_FILE).exists():
            return home, _recovery_of(home)
        if not another:
            return home, None
        name = name or home.cluster.name
        _check_over(home)
        if not dry:
            click.echo(f"The home of the cluster that is over: {put_aside(home)}", err=True)
    called = name or (path.name if is_label(path.name) else DEFAULT_NAME)
    if dry:  # one to plan with, gone when the command ends
        directory = Path(click.get_current_context().with_resource(tempfile.TemporaryDirectory(prefix="muster-plan-")))
        made = create_home(directory / "home", name=called, operator="plan", recovery_file=directory / "recovery.key")
        return made, None
    recovery = next(file for file in _recovery_files(called) if not file.exists())
    return create_home(path, name=called, operator=_operator_name(), recovery_file=recovery), recovery


def _recovery_files(called: str) -> Iterator[Path]:
    """Where recovery keys of clusters of that name are made: each where no other is."""
    first = Path(os.environ.get("HOME", "/")) / f"muster-{called}-recovery.key"
    yield first
    for number in itertools.count(2):
        yield first.with_name(f"muster-{called}-recovery-{number}.key")


def _recovery_of(home: Home) -> Path | None:
    """Its recovery key's file, if it still is where an earlier run put it; that run may have been stopped before saying
    so.
    """
    public = read_recovery(home).key
    for file in itertools.takewhile(Path.exists, _recovery_files(home.cluster.name)):
        with suppress(MusterError):
            if public_hex(private_key_of(read_file(file))) == public:
                return file
    return None


def _check_over(home: Home) -> None:
    """Raises Conflict while a member answers."""
    from agent.client import home_client

    client = home_client(home)

    async def ask() -> str:
        async with client:
            return (await client.health()).name

    try:
        name = asyncio.run(ask())
    except Unreachable:
        return
    fix = "Name the other one with --name NAME; or end this one: `bootstrap uninstall HOSTS`."
    raise Conflict(f"cluster {home.cluster.name} isn't over: {name} answers", where="--new-cluster", fix=fix)


def _operator_name() -> str:
    """A name for the user who runs this."""
    try:
        user = getpass.getuser().lower()
    except OSError:
        user = ""
    cleaned = re.sub(r"[^a-z0-9._-]+", "-", user).strip("-._")[:63]
    return cleaned if cleaned and cleaned != "recovery" else "operator"


def _print_json(home: Home, results: Sequence[HostResult], recovery: Path | None) -> None:
    document = {
        "cluster": {"id": home.cluster.id, "name": home.cluster.name, "home": str(home.path)},
        "recovery_key": str(recovery) if recovery is not None else None,
        "ok": all(result.state != "failed" for result in results),
        "hosts": results,
    }
    click.echo(msgspec.json.encode(document).decode())


def _summary(home: Home, results: Sequence[HostResult], recovery: Path | None, hosts: Path, *, dry: bool) -> None:
    """What happened, what to know, and what to do next."""
    failed = [result for result in results if result.state == "failed"]
    for result in results:
        if dry and result.changed:
            click.echo(f"{result.host} would change: {', '.join(result.changed)}")
        for note in result.notes:
            click.echo(f"note: {result.host}: {note}")
    counts = {
        state: sum(result.state == state for result in results) for state in ("installed", "changed", "unchanged")
    }
    told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
    if dry:
        told = f"{sum(bool(result.changed) for result in results)} of {len(results)} would change"
    if failed:
        told += f"{', ' if told else ''}{len(failed)} failed"
    click.echo(f"\ncluster {home.cluster.name}: {told}")
    if recovery is not None:
        click.echo(_recovery_told(recovery))
    if failed and (dry or len(failed) == len(results)):
        click.echo("Mend that, then give the command again.")
    elif failed:
        whom = "that host" if len(failed) == 1 else "those"
        click.echo(f"Again for {whom}: {again(hosts, limit=','.join(result.host for result in failed))}")
    if not dry and (home.path / GENESIS_FILE).exists() and len(failed) < len(results):
        if not _is_found(home):
            path = shlex.quote(str(home.path.absolute()))
            click.echo(f"Commands find this cluster with --home, or: export MUSTER_HOME={path}")
        click.echo("Next: agent status        agent deploy PLAN.json        agent logs STACK")


def _recovery_told(file: Path) -> str:
    return f"The recovery key is {file}: put it away offline; it is the way back if your own key is lost."


def again(hosts: Path, *, limit: str | None) -> str:
    """The command line that was given, to be given again: for these hosts only, or for all."""
    context = click.get_current_context()
    parts = ["bootstrap", str(context.info_name), str(hosts)]
    for option in context.command.params:
        name, value = option.name or "", context.params.get(option.name or "")
        if name in _NOT_AGAIN or context.get_parameter_source(name) is not click.core.ParameterSource.COMMANDLINE:
            continue
        parts += [option.opts[0]] if isinstance(value, bool) else [option.opts[0], str(value)]
    return shlex.join([*parts, *(["--limit", limit] if limit is not None else [])])


def _is_found(home: Home) -> bool:
    """Whether `agent` uses this home when none is named."""
    try:
        return find_home(None, os.environ).resolve() == home.path.resolve()
    except (InputError, NotFound):
        return False
