"""`agent token`."""

from __future__ import annotations

import click

from agent.cli.options import current_options, global_options
from agent.cli.output import print_json
from agent.cli.session import notice, with_client
from agent.client import Client
from agent.errors import InputError, Unreachable
from agent.formats.durations import duration_text, parse_duration_ms
from agent.formats.timestamps import rfc3339
from agent.instruction import MAX_ACCESS_TTL_S


@click.command()
@click.option("--ttl", default="1h", show_default=True, metavar="TIME", help="How long it is valid, at most 1h.")
@global_options
def token(ttl: str) -> None:
    """Make an access token, which is read-only.

    \b
    curl --cacert HOME/cluster.crt --connect-to ::ADDRESS:9999 \\
        -H "Authorization: Bearer $(agent token)" https://AGENT_ID.agent.muster/api/v1/members

    HOME is the cluster home; `agent members` shows addresses and ids.
    """
    options = current_options()
    ttl_s = parse_duration_ms(ttl, where="--ttl") // 1000
    if not 1 <= ttl_s <= MAX_ACCESS_TTL_S:
        longest = duration_text(MAX_ACCESS_TTL_S * 1000)
        raise InputError(f"expected 1s to {longest}, got {ttl}", where="--ttl")

    async def use(client: Client) -> tuple[str, int]:
        client.signer()
        try:
            await client.connect()
        except Unreachable:
            notice("no agent answered, so the token goes by this machine's clock")
        return client.access_token(ttl_s), int(client.now()) + ttl_s

    text, expires_s = with_client(options, use)
    if options.json:
        print_json({"token": text, "expires_at": rfc3339(expires_s * 1000)})
    else:
        print(text)
