"""Revoking an operator or an API key."""

from __future__ import annotations

from typing import Literal

from agent.cli.options import current_options
from agent.cli.output import print_json, say
from agent.cli.session import with_client
from agent.client import Client
from agent.model.decode import convert
from agent.model.instruction import InstructionResult, Revoke
from agent.model.types import OperatorName


def revoke_named(act: Literal["revoke", "revoke-key"], kind: Literal["operator", "key"], name: str) -> None:
    """Sign and submit it, and say so. Raises InputError for text that can't be a name."""
    options = current_options()
    checked: OperatorName = convert(name, OperatorName, "NAME")

    async def use(client: Client) -> InstructionResult:
        return await client.submit(act, f"{kind}:{checked}", Revoke())

    result = with_client(options, use)
    if options.json:
        print_json({"result": result})
    else:
        say(f"{checked}: revoked (revision {result.revision})")
