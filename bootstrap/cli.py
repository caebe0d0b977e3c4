"""The command `bootstrap`: clusters from hosts and a key. Each command's module is imported when it runs."""

from __future__ import annotations

import gc
import sys

import click

from agent.command import LazyGroup, Table, carry_out, let_streams_go, take_streams

COMMANDS: Table = {
    "install": ("bootstrap.install_cli", "Make a cluster of the hosts in a list, or add new ones to it."),
    "uninstall": ("bootstrap.uninstall_cli", "Remove the agent from hosts."),
    "sudoers": ("bootstrap.sudoers", "Print the sudo rule for a dedicated user that may only install agents."),
    "local": ("bootstrap.local_cli", "Run a cluster of agents on this machine, to try things out."),
    "invite": ("bootstrap.invite", "Make the request body that adds a host through the API (used by `agent invite`)."),
    "invited": ("bootstrap.invited", "Add the host that an invitation names (used by the agent that received it)."),
    "demo": ("bootstrap.demo", "Show a cluster at work: deploy, lose the coordinator, go on."),
}


@click.group(cls=LazyGroup, table=COMMANDS, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="muster")
def bootstrap() -> None:
    """Make clusters of the hosts you have; every one of them runs the same agent.

    Exit codes: 0 ok, 1 error, 2 bad input, 3 some hosts failed, 4 unreachable, 5 not allowed.
    """


def main() -> None:
    """The entry point. What a command imports lives as long as it: looking through it again and again costs 25 ms."""
    gc.disable()
    take_streams()
    code = carry_out(bootstrap, sys.argv[1:], name="bootstrap")
    let_streams_go()
    sys.exit(code)
