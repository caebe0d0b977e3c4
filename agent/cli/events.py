"""`agent events`."""

from __future__ import annotations

from contextlib import aclosing

import click

from agent.cli.options import current_options, global_options
from agent.cli.output import print_json, say
from agent.cli.session import with_client
from agent.client import Client


@click.command()
@click.option("-f", "--follow", is_flag=True, help="Follow what happens from now on.")
@global_options
def events(follow: bool) -> None:
    """Show what happened recently; the coordinator keeps the newest events."""
    options = current_options()

    async def use(client: Client) -> None:
        if options.via is None and (coordinator := (await client.health()).coordinator) is not None:
            client.prefer(coordinator)
        async with aclosing(client.events(follow=follow, recent=True)) as found:
            async for event in found:
                if options.json:
                    print_json(event)
                else:
                    say(f"{event.at}  {event.what}")

    with_client(options, use)
