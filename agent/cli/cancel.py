"""`agent cancel`."""

from __future__ import annotations

import click

from agent.cli.options import current_options, global_options
from agent.cli.output import print_json, say
from agent.cli.session import with_client
from agent.client import Client
from agent.errors import Conflict, InputError, NotFound
from agent.model.decode import convert
from agent.model.instruction import Cancel, InstructionResult
from agent.model.types import Jti, Target


@click.command()
@click.argument("target")
@click.option("--jti", metavar="ID", help="The open instruction's id, as printed by the command that sent it.")
@global_options
def cancel(target: str, jti: str | None) -> None:
    """Close an open instruction on TARGET, such as stack:shop: one that was sent but never answered.

    Signs a no-op that takes its revision, so that it can't apply later. It doesn't undo an instruction that was applied
    already; use `agent rollback` for that.
    """
    options = current_options()
    try:
        checked: Target = convert(target, Target, "TARGET")
    except InputError as error:
        raise InputError(error.what, where=error.where, fix="Such as stack:shop, or operator:bob.") from None
    body: Cancel = convert({"jti": jti} if jti is not None else {}, Cancel, "--jti")

    async def use(client: Client) -> InstructionResult:
        if body.jti is not None:
            await _want_open(client, body.jti)
        return await client.submit("cancel", checked, body)

    result = with_client(options, use)
    if options.json:
        print_json({"result": result})
    else:
        say(f"{checked}: revision {result.revision} is taken; nothing that was signed for it can apply any more")


async def _want_open(client: Client, jti: Jti) -> None:
    """Raises Conflict when that instruction has been answered."""
    try:
        known = await client.instruction(jti)
    except NotFound:
        return
    if known.outcome == "applied":
        what = f"it isn't open: it was applied as revision {known.revision}"
    else:
        what = f"it isn't open: it was refused ({known.what})"
    raise Conflict(what, where=f"{known.target}, jti {jti}", fix="`agent status` shows where things stand.")
