"""`agent ps`."""

from __future__ import annotations

import click
import msgspec

from agent.cli.options import current_options, global_options
from agent.cli.output import ports_text, print_json, print_table, say
from agent.cli.session import with_client
from agent.client import Client
from agent.errors import NotFound
from agent.model.status import Status


@click.command()
@click.argument("stack", required=False)
@global_options
def ps(stack: str | None) -> None:
    """List every replica, or those of STACK, with host and state."""
    options = current_options()

    async def use(client: Client) -> Status:
        return await client.status()

    found = with_client(options, use)
    names = [each.name for each in found.stacks]
    if stack is not None and stack not in names:
        raise NotFound("there is no such stack", where=stack, fix=f"Stacks: {', '.join(names) or 'none'}.")
    chosen = [
        (each.name, service, replica)
        for each in found.stacks
        if stack in (None, each.name)
        for service in each.services
        for replica in service.replicas
    ]
    if options.json:
        replicas = [
            {"stack": name, "service": service.name, **msgspec.to_builtins(replica)}
            for name, service, replica in chosen
        ]
        print_json({"as_of": found.as_of, "stale": found.stale, "replicas": replicas})
        return
    rows = [
        (
            f"{name}/{service.name}.{replica.slot}",
            replica.host,
            replica.state,
            ports_text(replica.ports),
            replica.image.ref if replica.image is not None else "",
            str(replica.restarts or ""),
            replica.reason,
        )
        for name, service, replica in chosen
    ]
    if rows:
        print_table(options, ("replica", "host", "state", "ports", "image", "restarts", "reason"), rows)
    for each in found.stacks:
        for service in each.services:
            if service.pending and stack in (None, each.name):
                say(f"{each.name}/{service.name} waits for a place: {service.pending}")
    if not rows:
        say("no replicas")
