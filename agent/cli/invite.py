"""`agent invite`: a host becomes a member over the API, without SSH from here (docs/seed.md "Adding workers")."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import socket
import sys
from typing import Any

import click
import msgspec

from agent.cli.beside import run_bootstrap
from agent.cli.options import Options, current_options, global_options
from agent.cli.output import print_json, say
from agent.cli.session import notice
from agent.cli.variables import SSH_USER, setting
from agent.client import Client, Endpoint, HttpsTransport, home_client, parse_address
from agent.client.http import Request
from agent.errors import DeploymentFailed, InputError, NotFound
from agent.home import ANCHOR_KEY_FILE, Home, find_home, open_home
from agent.model.decode import convert
from agent.model.types import HostAddress, Label, Labels, is_label
from agent.model.workers import AddWorker, Operation

PATH = "/api/v1/deployment/workers"
LOOK_EVERY_S = 0.5
ANSWER_TIMEOUT_S = 30.0


@click.command()
@click.argument("host", metavar="[USER@]HOST[:PORT]")
@click.option("--ssh-key-path", metavar="FILE", help="The key's name in /etc/muster/ssh on the agent's host.")
@click.option("--name", metavar="NAME", help="The host's name in the cluster.  [default: HOST's first part]")
@click.option("--address", metavar="ADDRESS", help="Where others reach it.  [default: HOST, looked up here]")
@click.option("--label", "labels", multiple=True, metavar="KEY=VALUE", help="A label; may be given more than once.")
@click.option("--accept-new", is_flag=True, help="Let the agent believe a host key that it sees for the first time.")
@click.option("--send", is_flag=True, help="Send it, and watch until the host is a member.")
@global_options
def invite(
    host: str,
    ssh_key_path: str | None,
    name: str | None,
    address: str | None,
    labels: tuple[str, ...],
    accept_new: bool,
    send: bool,
) -> None:
    """Make the body of POST /api/v1/deployment/workers, which lets an agent add HOST over its own SSH.

    It contains HOST's identity, sealed for the one agent that does the SSH (--via, else the one that answers), and your
    signature. It is valid for five minutes:

    \b
    agent invite HOST --via n1 | curl … -d @- https://…/api/v1/deployment/workers
    """
    options = current_options()
    home = open_home(find_home(options.home, os.environ))
    if not (home.path / ANCHOR_KEY_FILE).exists():
        fix = "Run this where `bootstrap install` was run, or copy that file here."
        raise NotFound("a host's identity takes the cluster's key", where=str(home.path / ANCHOR_KEY_FILE), fix=fix)
    user, _, place = host.rpartition("@")
    found, port = parse_address(place, where="HOST")
    given = {"user": setting(user or None, SSH_USER), "ssh_key_path": ssh_key_path, "port": port}
    wish = {
        "home": str(home.path.absolute()),
        "name": _name(name, found),
        "address": _address(address or found),
        "labels": _labels(labels),
    }
    worker = {"host": found, "accept_new": accept_new, **given}
    asyncio.run(_invite(home, options, wish, worker, send=send))


async def _invite(home: Home, options: Options, wish: dict[str, Any], worker: dict[str, Any], *, send: bool) -> None:
    via = await _via(home, options)
    transport = HttpsTransport(home.trust_anchor, frozenset({via.id} if via.id is not None else ()))
    key = await asyncio.to_thread(home.operator_key)
    # That agent and no other: who answers for it could name a key of its own to seal to.
    async with Client(transport, [via], home=home, key=key, notice=notice) as client:
        members = (await client.members()).members
        sealing_key = next((each.sealing_key for each in members if each.id == via.id), "")
        made: AddWorker = convert({**worker, "via": via.id}, AddWorker, "invite")
        asked = {**wish, "worker": made, "sealing_key": sealing_key, "now_s": client.now()}
        body = await run_bootstrap("invite", data=msgspec.json.encode(asked))
        if not send:
            sys.stdout.write(body.decode())
            notice(f"for {via}, within five minutes: POST {PATH}")
            return
        operation = await _send(client, via, body)
        end = await _follow(client, via, operation, options)
    if options.json:
        print_json(end)
    if end.state == "failed":
        raise DeploymentFailed(end.what, where=end.where or end.host, fix=end.fix)
    if not options.json:
        say(f"{end.name} is a member. Next: agent status        agent generate-plan")


async def _via(home: Home, options: Options) -> Endpoint:
    """The member that will do the SSH, as the home knows it."""
    async with await asyncio.to_thread(lambda: home_client(home, via=options.via, notice=notice)) as client:
        if options.via is None:
            wanted = (await client.health()).name
        else:
            wanted, _ = parse_address(options.via)
        members = (await client.members()).members
    for member in members:
        if wanted in (member.name, member.address, member.id):
            return Endpoint(address=member.address, port=member.api_port, id=member.id, label=member.name)
    raise NotFound(f"{wanted} is no member", where="--via", fix="`agent members` lists them.")


async def _send(client: Client, via: Endpoint, body: bytes) -> Operation:
    headers = {**client.headers(), "Content-Type": "application/json"}
    request = Request(method="POST", path=PATH, headers=headers, body=body, timeout_s=ANSWER_TIMEOUT_S)
    return await client.call(via, request, Operation)


async def _follow(client: Client, via: Endpoint, operation: Operation, options: Options) -> Operation:
    """Print the operation's lines until it has ended."""
    told = 0
    while True:
        for line in operation.lines[told:] if not options.json else ():
            say(f"{operation.name}: {line}")
        told = len(operation.lines)
        if operation.state != "running":
            return operation
        await asyncio.sleep(LOOK_EVERY_S)
        path = f"/api/v1/operations/{operation.id}"
        request = Request(method="GET", path=path, headers=client.headers(), timeout_s=ANSWER_TIMEOUT_S)
        operation = await client.call(via, request, Operation)


def _name(name: str | None, host: str) -> Label:
    found = (name or host.partition(".")[0]).lower()
    if not is_label(found) or (name is None and host.replace(".", "").isdigit()) or (":" in host and name is None):
        raise InputError(f"{found!r} is no host's name: 1 to 63 of a-z 0-9 -", where="--name", fix="Give it one.")
    return found


def _address(host: str) -> HostAddress:
    """An IP address, so that every member goes to the same one."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError:
        fix = "Name it: --address ADDRESS, as the other hosts reach it."
        raise InputError(f"{host} can't be looked up here", where="--address", fix=fix) from None


def _labels(texts: tuple[str, ...]) -> Labels:
    pairs = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not equals:
            raise InputError(f"expected KEY=VALUE, got {text!r}", where="--label")
        pairs[key] = value
    labels: Labels = convert(pairs, Labels, "--label")
    return labels
