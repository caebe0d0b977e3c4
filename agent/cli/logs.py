"""`agent logs`."""

from __future__ import annotations

from contextlib import aclosing

import click

from agent.cli.options import current_options, global_options
from agent.cli.output import print_json, say_from
from agent.cli.session import with_client
from agent.client import Client
from agent.errors import InputError
from agent.formats.durations import parse_duration_ms
from agent.formats.timestamps import parse_rfc3339_ms, rfc3339

MAX_TAIL_LINES = 10_000  # as the API has it


@click.command()
@click.argument("stack")
@click.argument("service", required=False)
@click.option("-f", "--follow", is_flag=True, help="Follow new lines, also of replicas that have yet to start.")
@click.option(
    "--tail", type=click.IntRange(0, MAX_TAIL_LINES), metavar="N", help="Only the last N lines of each replica."
)
@click.option("--since", metavar="T", help='Only from T on: "10m" ago, or 2024-01-15T10:30:00Z.')
@click.option("--slot", type=click.IntRange(1), metavar="N", help="Only this replica of the service.")
@global_options
def logs(stack: str, service: str | None, follow: bool, tail: int | None, since: str | None, slot: int | None) -> None:
    """Show the output of STACK's replicas on all hosts, or of one SERVICE's."""
    options = current_options()
    ago_ms = _ago_ms(since)

    async def use(client: Client) -> None:
        begin = since
        if ago_ms is not None:
            await client.connect()  # whose clock it is
            begin = rfc3339(max(0, int(client.now() * 1000) - ago_ms))
        found = client.logs(stack, service=service, slot=slot, tail=tail, since=begin, follow=follow)
        async with aclosing(found) as lines:
            async for line in lines:
                if options.json:
                    print_json(line)
                else:
                    say_from(options, f"{line.service}.{line.slot}@{line.host}", line.line)

    with_client(options, use)


def _ago_ms(since: str | None) -> int | None:
    """None for a time. Raises InputError for what is neither."""
    if since is None:
        return None
    try:
        parse_rfc3339_ms(since)
    except InputError:
        try:
            return parse_duration_ms(since)
        except InputError as error:
            fix = "Write a time like 2024-01-15T10:30:00Z."
            raise InputError(error.what, where="--since", fix=fix) from None
    return None
