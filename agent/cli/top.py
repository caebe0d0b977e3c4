"""`agent top`."""

from __future__ import annotations

import click

from agent.cli.options import current_options, global_options
from agent.cli.output import print_json, print_table, say
from agent.cli.session import with_client
from agent.client import Client
from agent.model.usage import Usage

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")


@click.command()
@click.argument("stack", required=False)
@global_options
def top(stack: str | None) -> None:
    """Show what every replica, or those of STACK, uses right now; 100% CPU is one processor."""
    options = current_options()

    async def use(client: Client) -> Usage:
        return await client.usage(stack)

    found = with_client(options, use)
    if options.json:
        print_json(found)
        return
    rows = [
        (
            f"{each.stack}/{each.service}.{each.slot}",
            each.host,
            f"{each.cpu_percent:.1f}%",
            f"{size(each.memory_bytes)} / {size(each.memory_limit_bytes)}",
            f"{100 * each.memory_bytes / each.memory_limit_bytes:.1f}%" if each.memory_limit_bytes else "",
        )
        for each in found.replicas
    ]
    if rows:
        print_table(options, ("replica", "host", "cpu", "memory / limit", "memory"), rows)
    for silent in found.silent:
        say(f"{silent.host} doesn't say what it runs: {silent.reason}")
    if not rows and not found.silent:
        say("nothing runs")


def size(count: int) -> str:
    """Bytes as people read them, to four digits."""
    value, unit = float(count), 0
    while value >= 1024 and unit < len(_UNITS) - 1:
        value, unit = value / 1024, unit + 1
    return f"{value:.0f} {_UNITS[unit]}" if unit == 0 or value >= 100 else f"{value:.1f} {_UNITS[unit]}"
