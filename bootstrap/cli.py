"""The command `bootstrap`: clusters from hosts and a key. Each command's module is imported when it runs."""

from __future__ import annotations

import gc
import importlib
import sys
from typing import NamedTuple

import click

from agent.command import carry_out, let_streams_go, take_streams


class Lazy(NamedTuple):
    """A command: the module that has it under its own name, and its line in the list."""

    module: str
    summary: str


COMMANDS = {
    "install": Lazy("bootstrap.install_cli", "Make a cluster of the hosts in a list, or add those that are new in it."),
    "uninstall": Lazy("bootstrap.uninstall_cli", "Take the agent off hosts again."),
    "sudoers": Lazy(
        "bootstrap.sudoers", "Print the sudo rule that lets a user of its own install agents, and no more."
    ),
    "local": Lazy("bootstrap.local_cli", "A cluster of agents on this machine, to try things out."),
    "invite": Lazy("bootstrap.invite", "Make the body that adds a host through the API (for `agent invite`)."),
    "invited": Lazy("bootstrap.invited", "Add the host of an invitation (for the agent that got it)."),
    "demo": Lazy("bootstrap.demo", "Show a cluster at work: deploy, lose the coordinator, go on."),
}


class LazyGroup(click.Group):
    """Lists COMMANDS without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Their names, in the table's order."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, its module imported now."""
        if cmd_name not in COMMANDS:
            return None
        command = getattr(importlib.import_module(COMMANDS[cmd_name].module), cmd_name)
        assert isinstance(command, click.Command)
        if not gc.isenabled():  # see `main`
            gc.freeze()
            gc.enable()
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list in the help."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
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
