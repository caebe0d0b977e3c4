"""`agent expel`."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import click

from agent.cli.asking import ask
from agent.cli.hosts import find_host
from agent.cli.options import current_options, global_options
from agent.cli.output import print_json, say
from agent.cli.session import notice, with_client
from agent.client import Client
from agent.client.majority import check_majority
from agent.errors import MusterError
from agent.home import remember
from agent.model.decode import convert
from agent.model.instruction import Expel, InstructionResult
from agent.model.status import Status

_FIX = "Start voters that are away, or wait: half a minute after one is lost, another healthy host votes in its place."


@click.command()
@click.argument("host")
@click.option("--reason", default="", metavar="TEXT", help="Why; it stays in the ledger.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@global_options
def expel(host: str, reason: str, yes: bool) -> None:
    """Remove HOST, by its name or id, from the cluster for good; its replicas are placed elsewhere.

    For a host that is lost or no longer trusted: its links are cut at once, and its id can never be used again. Its
    agent ends what it runs once it hears of that; one that is compromised may not. To remove a host in good order, use
    `bootstrap uninstall --limit`. Refused when too few voters would be left for a majority.
    """
    options = current_options()
    body: Expel = convert({"reason": reason}, Expel, "--reason")

    async def look(client: Client) -> Status:
        client.signer()
        return await client.status()

    status = with_client(options, look)
    found = find_host(status, host)
    check_majority(status, frozenset({found.id}), fix=_FIX)
    if not yes:
        question = f"Expel {found.name} ({found.id}) from cluster {status.cluster.name} for ever?"
        ask(question, what="expels a host for ever", where="expel")

    async def use(client: Client) -> InstructionResult:
        if options.via is None and options.socket is None:
            client.prefer(next(each.name for each in status.hosts if each.id != found.id and each.state == "alive"))
        result = await client.submit("expel", f"member:{found.id}", body)
        if client.home is not None:
            members = [member for member in client.home.cluster.members if member.id != found.id]
            with suppress(MusterError):  # a home that can't be written works all the same
                await asyncio.to_thread(remember, client.home, members=members)
        return result

    result = with_client(options, use)
    if options.json:
        print_json({"result": result, "host": found.name})
        return
    say(f"{found.name}: expelled (revision {result.revision} of {result.target})")
    notice(
        f"what runs on {found.name} ends once its agent hears of it; `bootstrap uninstall` with --limit takes it off"
    )
