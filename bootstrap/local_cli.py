"""`bootstrap local`: a cluster of agents on this machine's loopback addresses."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from pathlib import Path

import click

from agent.errors import EXIT_DEGRADED, MusterError
from bootstrap.local import LocalCluster


def state_directory(environ: Mapping[str, str]) -> Path:
    """Where the cluster is kept unless --dir says so (XDG Base Directory): `$XDG_STATE_HOME/muster/local`."""
    configured = environ.get("XDG_STATE_HOME", "")
    base = Path(configured) if configured.startswith("/") else Path(environ.get("HOME", "/")) / ".local" / "state"
    return base / "muster" / "local"


directory_option = click.option(
    "--dir",
    "directory",
    metavar="DIR",
    type=click.Path(file_okay=False, path_type=Path),
    default=lambda: state_directory(os.environ),
    help="The directory with everything of the cluster.  [default: ~/.local/state/muster/local]",
)


@click.group()
def local() -> None:
    """Run a cluster of agents on this machine, each on a loopback address of its own."""


@local.command()
@directory_option
@click.option(
    "--agents", metavar="N", type=click.IntRange(1, 50), default=3, show_default=True, help="The number of agents."
)
@click.option("--name", metavar="NAME", default="local", show_default=True, help="The cluster's name.")
@click.option(
    "--api-port",
    metavar="PORT",
    type=click.IntRange(0, 65535),
    default=9999,
    show_default=True,
    help="The API's port on each address; 0 picks free ones.",
)
@click.option(
    "--peer-port",
    metavar="PORT",
    type=click.IntRange(1, 65535),
    default=9998,
    show_default=True,
    help="The port for peer links and probes.",
)
def up(directory: Path, agents: int, name: str, api_port: int, peer_port: int) -> None:
    """Make the cluster if there is none, start agents that don't run, and wait until all see each other."""
    cluster = LocalCluster.create(directory, agents, name, api_port=api_port, peer_port=peer_port)
    cluster.up()
    status = cluster.wait_ready()
    coordinator = status.coordinator.name if status.coordinator else "nobody"
    click.echo(f"{len(status.hosts)} agents run and see each other; {coordinator} coordinates.")
    _show(cluster)
    home = shlex.quote(str(cluster.home))
    click.echo(f"\nTalk to it:\n  export MUSTER_HOME={home}\n  agent status\n  agent deploy examples/web/plan.json")


@local.command()
@directory_option
def status(directory: Path) -> None:
    """Show which agents run, and who coordinates."""
    cluster = LocalCluster.open(directory)
    _show(cluster)
    running = [name for name in cluster.names if cluster.pid(name) is not None]
    for name in running:
        try:
            told = cluster.status(name)
        except MusterError:
            continue
        coordinator = told.coordinator.name if told.coordinator else "nobody: no majority"
        click.echo(f"\ncoordinator: {coordinator} (term {told.term})")
        break
    if len(running) < len(cluster.names):
        click.get_current_context().exit(EXIT_DEGRADED)


@local.command()
@directory_option
@click.option("--delete", is_flag=True, help="Remove the directory too: home, keys, ledgers, logs.")
def down(directory: Path, delete: bool) -> None:
    """Stop the agents and everything that they ran."""
    cluster = LocalCluster.open(directory)
    cluster.down(delete=delete)
    rest = ", and the directory is removed" if delete else f"; `bootstrap local up` starts them again from {directory}"
    click.echo(f"The agents and what they ran are stopped{rest}.")


@local.command()
@directory_option
@click.argument("agent")
def start(directory: Path, agent: str) -> None:
    """Start one agent, and wait until it answers."""
    cluster = LocalCluster.open(directory)
    pid = cluster.start(agent)
    cluster.wait_answers(agent)
    click.echo(f"{agent} runs as pid {pid}.")


@local.command()
@directory_option
@click.argument("agent")
def stop(directory: Path, agent: str) -> None:
    """Stop one agent cleanly; its replicas keep running."""
    LocalCluster.open(directory).stop(agent)
    click.echo(f"{agent} is stopped.")


@local.command()
@directory_option
@click.argument("agent")
def kill(directory: Path, agent: str) -> None:
    """Kill one agent (SIGKILL), like a crash; its replicas keep running."""
    LocalCluster.open(directory).kill(agent)
    click.echo(f"{agent} is killed.")


def _show(cluster: LocalCluster) -> None:
    """A line for each agent."""
    for name in cluster.names:
        pid = cluster.pid(name)
        runs = f"pid {pid}" if pid is not None else "doesn't run"
        address = f"https://{cluster.address(name)}:{cluster.layout.api_port}"
        click.echo(f"  {name:<4} {address:<24} {runs:<12} {cluster.output_file(name)}")
