"""`agent scale`, `start`, `stop`, `restart` and `remove`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from agent.cli.asking import ask
from agent.cli.options import current_options, global_options
from agent.cli.output import print_json
from agent.cli.progress import follow
from agent.cli.session import with_client
from agent.client import Client
from agent.errors import InputError
from agent.model.decode import convert
from agent.model.instruction import Act, Body, Remove, Scale, Services
from agent.model.stack import MAX_REPLICAS
from agent.model.types import is_label

_detach = click.option("--detach", is_flag=True, help="Return once the cluster has accepted it.")


@click.command()
@click.argument("stack")
@click.argument("counts", nargs=-1, required=True, metavar="SERVICE=N...")
@_detach
@global_options
def scale(stack: str, counts: tuple[str, ...], detach: bool) -> None:
    """Change the number of replicas of services of STACK: `agent scale shop web=3 api=2`. Exits 3 when that fails."""
    wanted: dict[str, int] = {}
    for text in counts:
        service, equals, number = text.partition("=")
        if not equals or not is_label(service) or not (number.isascii() and number.isdecimal() and len(number) <= 6):
            raise InputError(f"expected SERVICE=N, got {text!r}", where="scale", fix="Such as web=3.")
        if int(number) > MAX_REPLICAS:
            raise InputError(f"expected 0..{MAX_REPLICAS}, got {number}", where=service)
        if service in wanted:
            raise InputError("stands twice", where=service)
        wanted[service] = int(number)
    _change("scale", stack, Scale(services=wanted), detach=detach)


def _command(act: Act, text: str) -> Callable[..., Any]:
    @click.command(name=act, help=text)
    @click.argument("stack")
    @click.argument("services", nargs=-1, metavar="[SERVICE]...")
    @_detach
    @global_options
    def command(stack: str, services: tuple[str, ...], detach: bool) -> None:
        body = convert({"services": list(services)}, Services, act)
        _change(act, stack, body, detach=detach)

    return command


start = _command(
    "start",
    "Start what was stopped of STACK, or each SERVICE named; as a deploy does: main, once it is healthy the workers. "
    "Exits 3 when that fails.",
)
stop = _command("stop", "Stop STACK, or each SERVICE named; their replicas keep host, ports and volumes.")
restart = _command(
    "restart",
    "Restart STACK, or each SERVICE named: main before workers, one replica of a service after another. "
    "Exits 3 when that fails.",
)


@click.command()
@click.argument("stack")
@click.option("--volumes", is_flag=True, help="Delete those too. What is in them is lost.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@_detach
@global_options
def remove(stack: str, volumes: bool, yes: bool, detach: bool) -> None:
    """Stop and remove the replicas of STACK, and the files that came with its plan. Done when its hosts say so.

    Named volumes, and what replicas wrote below the plan's relative paths, stay unless --volumes is given. A host that
    is dead does its part once it is back; the command names it. Exits 3 when a host that is there takes long; it
    continues by itself.
    """
    _check_stack(stack)
    if not yes:
        question = f"Remove {stack}" + (" and delete its volumes" if volumes else "")
        ask(f"{question}?", what="removes a stack", where="remove")
    _change("remove", stack, Remove(delete_volumes=volumes), detach=detach)


cleanup = click.Command(
    "cleanup",
    callback=remove.callback,
    params=remove.params,
    help=f"The same as `agent remove`. {remove.help}",
)


def _change(act: Act, stack: str, body: Body, *, detach: bool) -> None:
    _check_stack(stack)
    options = current_options()

    async def use(client: Client) -> None:
        removing = act == "remove"
        known = (await client.status()).stacks if removing and not detach else ()
        before = next((each for each in known if each.name == stack), None)
        result = await client.submit(act, f"stack:{stack}", body)
        volumes = isinstance(body, Remove) and body.delete_volumes
        end = await follow(client, options, result, detach=detach, removing=removing, volumes=volumes, before=before)
        if options.json:
            print_json({"result": result, "stack": end})

    with_client(options, use)


def _check_stack(stack: str) -> None:
    if not is_label(stack):
        raise InputError(f"{stack!r} is no stack name: 1 to 63 of a-z 0-9 -", where="STACK")
