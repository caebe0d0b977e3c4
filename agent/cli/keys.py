"""`agent key create`, `list` and `revoke`: API keys, for curl and dashboards."""

from __future__ import annotations

import click

from agent.cli.options import current_options, global_options
from agent.cli.output import print_json, print_table, say
from agent.cli.revoking import revoke_named
from agent.cli.session import notice, with_client
from agent.client import Client
from agent.instruction.api_keys import digest_of_api_key, new_api_key
from agent.model.cluster import ApiKey
from agent.model.decode import convert
from agent.model.instruction import GrantKey, InstructionResult


@click.group()
@global_options
def key() -> None:
    """Make, list and revoke API keys, which are read-only."""


@key.command()
@click.argument("name")
@click.option("--stacks", multiple=True, metavar="GLOB,...", help="Definition and logs of these only.  [default: all]")
@global_options
def create(name: str, stacks: tuple[str, ...]) -> None:
    """Make the API key NAME and print it, this once: the cluster keeps only its sha256."""
    options = current_options()
    made = new_api_key()
    globs = [glob.strip() for text in stacks for glob in text.split(",")] or ["*"]
    wanted: ApiKey = convert({"name": name, "sha256": digest_of_api_key(made), "stacks": globs}, ApiKey, "key")

    async def use(client: Client) -> InstructionResult:
        return await client.submit("grant-key", f"key:{wanted.name}", GrantKey(key=wanted))

    result = with_client(options, use)
    if options.json:
        print_json({"result": result, "key": made})
        return
    say(made)
    notice(f"{name} reads with `Authorization: Bearer <this>`; `agent key revoke {name}` ends that")


@key.command(name="list")
@global_options
def list_keys() -> None:
    """List the API keys: their names, and the stacks that they can see."""
    options = current_options()
    found = with_client(options, lambda client: client.api_keys())
    if options.json:
        print_json(found)
        return
    print_table(options, ("name", "stacks"), [(each.name, ", ".join(each.stacks)) for each in found.keys])


@key.command()
@click.argument("name")
@global_options
def revoke(name: str) -> None:
    """Revoke the API key NAME, at once and on every host."""
    revoke_named("revoke-key", "key", name)
