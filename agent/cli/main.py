"""The command `agent`: the table of its commands, and its entry point."""

from __future__ import annotations

import gc
import os
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

import click

from agent import __version__
from agent.cli.options import global_options
from agent.command import LazyGroup, Table, carry_out, let_streams_go, take_streams

COMMANDS: Table = {
    "status": ("agent.cli.status", "Show the whole cluster: hosts, stacks, problems."),
    "members": ("agent.cli.status", "List the hosts, as the member that answers sees them."),
    "ps": ("agent.cli.ps", "List every replica, where it runs and its state."),
    "deploy": ("agent.cli.deploy", "Deploy a plan."),
    "plan": ("agent.cli.plan", "Print a stack's plan, with assigned hosts and ports."),
    "generate-plan": ("agent.cli.plan", "Make a plan for the cluster's hosts."),
    "rollback": ("agent.cli.rollback", "Deploy the previous healthy revision again."),
    "load": ("agent.cli.load", "Put an image on the hosts, without a registry."),
    "scale": ("agent.cli.change", "Change how many replicas a service has."),
    "start": ("agent.cli.change", "Start stopped services."),
    "stop": ("agent.cli.change", "Stop services; their replicas keep host, ports and volumes."),
    "restart": ("agent.cli.change", "Restart services, one replica after another."),
    "remove": ("agent.cli.change", "Remove a stack; named volumes stay unless you give --volumes."),
    "cleanup": ("agent.cli.change", "The same as remove."),
    "logs": ("agent.cli.logs", "Show the output of a stack's replicas."),
    "top": ("agent.cli.top", "Show how much CPU and memory each replica uses right now."),
    "events": ("agent.cli.events", "Show what happened, and follow what happens."),
    "audit": ("agent.cli.audit", "Show who changed what, and check that nobody altered that record."),
    "doctor": ("agent.cli.doctor", "Look for problems on the hosts and between them, and say how to fix each."),
    "operator": ("agent.cli.operators", "Manage who may change what: operators, their keys and scopes."),
    "drain": ("agent.cli.drain", "Move replicas off hosts, and place nothing more there."),
    "undrain": ("agent.cli.drain", "Let replicas be placed on drained hosts again."),
    "expel": ("agent.cli.expel", "Remove a host from the cluster for good."),
    "backup": ("agent.cli.backup", "Write state, plans and their files into one signed file."),
    "restore": ("agent.cli.restore", "Verify a backup, and deploy what differs."),
    "recover": ("agent.cli.recover", "Continue from one survivor when the majority is lost for good."),
    "key": ("agent.cli.keys", "Make, list and revoke API keys, which are read-only."),
    "invite": ("agent.cli.invite", "Let an agent add a host, without SSH from here."),
    "cancel": ("agent.cli.cancel", "Close an instruction that was never answered."),
    "token": ("agent.cli.token", "Make an access token for curl and dashboards."),
    "run": ("agent.cli.run", "Run the agent of this host (the daemon itself)."),
    "identity": ("agent.cli.identity", "Make and complete this host's identity (for bootstrap)."),
}


@click.group(
    cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
@click.version_option(__version__, prog_name="agent")
@global_options
def cli() -> None:
    """Muster: self-organising deployments for the hosts you already have.

    Any host of the cluster answers. Exit codes: 0 ok, 1 error, 2 bad input, 3 degraded or failed deployment,
    4 unreachable, 5 not allowed.
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """The entry point.

    The garbage collector stays off while modules are imported, since they live as long as the process: 15 ms. The
    process ends without taking everything apart, 5 ms: by then all that is to be kept is written, unless a thread still
    works.
    """
    gc.disable()
    take_streams()
    code = run(sys.argv[1:] if args is None else args)
    let_streams_go()
    if threading.active_count() > 1:  # e.g. what takes a cancelled backup back: it is waited for
        sys.exit(code)
    os._exit(code)


def run(args: Sequence[str]) -> int:
    """Carry the command out; returns the exit code."""
    return carry_out(cli, args, name="agent")
