"""`agent deploy`."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import product
from pathlib import Path

import click

from agent.cli.diff import diff_lines, stack_diff
from agent.cli.newcomers import Newcomer, bootstrap, newcomers_of
from agent.cli.options import Options, current_options, global_options
from agent.cli.output import print_json, say
from agent.cli.progress import follow
from agent.cli.reading import read_bounded
from agent.cli.session import notice, with_client
from agent.cli.shipment import pack
from agent.cli.variables import image_options, refuse_redacted, with_images
from agent.client import Client
from agent.errors import EXIT_DEGRADED, EXIT_OK, InputError, MusterError, NotFound
from agent.formats.plan import MAX_PLAN_BYTES, Plan, decode_plan, instances
from agent.formats.resolve import Pin, pin_among, resolve, stack_name_of
from agent.model.api import REDACTED
from agent.model.ledger import AssignedPort
from agent.model.stack import Stack
from agent.model.status import StackStatus
from agent.model.types import Label, Labels, is_label


@click.command()
@click.argument("plan", type=click.Path(allow_dash=True))
@click.option("--stack", "name", metavar="NAME", help="The stack's name.  [default: the plan's, else the file's]")
@click.option("--detach", is_flag=True, help="Return once the cluster has accepted it.")
@click.option(
    "--no-start", is_flag=True, help="Give replicas their hosts and ports, but don't start them; `agent start` does."
)
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@click.option("--yes", is_flag=True, help="Don't ask before installing hosts that aren't members yet.")
@image_options
@global_options
def deploy(
    plan: str,
    name: str | None,
    detach: bool,
    no_start: bool,
    dry_run: bool,
    yes: bool,
    registry: str | None,
    tag: str | None,
) -> int:
    """Deploy the plan in the file PLAN, and watch until it is healthy.

    Hosts of the plan that aren't members are installed first, with its `user` and `ssh_key_path`, after asking. Files
    below the relative paths that it mounts (`./certs`) are sent along. If the deployment fails, the cluster goes back
    to what ran before, and the command exits 3. Ctrl-C leaves the deployment running. --dry-run exits 3 when no host
    may run a service.
    """
    options = current_options()
    data, where = read_bounded(plan, MAX_PLAN_BYTES)
    decoded = with_images(decode_plan(data, where=where), registry, tag)
    refuse_redacted(decoded, REDACTED, where=where)
    wanted_name = _name(decoded, name, plan)

    async def use(client: Client) -> int:
        # A plan that names no host needs none: then they are asked for behind the change, which somebody waits for.
        asks = dry_run or any(placed.instance.host is not None for placed in instances(decoded, where=where))
        members = (await client.members()).members if asks else ()
        hosts = {member.name: member.labels for member in members}
        pin = pin_among({member.name: member.address for member in members})
        if added := newcomers_of(decoded, pin, where):
            assumed = _pin_with({newcomer.host: f"new-{number}" for number, newcomer in enumerate(added)}, pin)
            resolve(decoded, stack_name=wanted_name, pin=assumed, where=where)  # a bad plan changes nothing anywhere
            if dry_run:
                _show_newcomers(options, added)
                hosts.update((newcomer.name, {}) for newcomer in added)
                pin = _pin_with({newcomer.host: newcomer.name for newcomer in added}, pin)
            else:
                pin = _pin_with(await bootstrap(added, options, yes=yes, where=where), pin)
        stack = resolve(decoded, stack_name=wanted_name, pin=pin, where=where)
        shipment = await asyncio.to_thread(pack, stack, Path() if plan == "-" else Path(plan).parent)
        stack = shipment.stack
        if dry_run:
            return await _show_diff(client, options, stack, hosts)
        for path in shipment.absent:
            notice(f"there is no ./{path} beside the plan, so it begins as an empty directory on the hosts")
        await client.send_files(shipment.contents)
        result = await client.submit("place" if no_start else "deploy", f"stack:{stack.name}", stack)
        end = await follow(client, options, result, detach=detach)
        if end is not None:
            for text in _other_ports(stack, end):
                notice(text)
        if options.json:
            print_json({"result": result, "stack": end})
        if not asks:
            # For next time, as the home keeps their addresses: nothing that a Ctrl-C could take back.
            with suppress(MusterError, asyncio.CancelledError):
                await client.members()
        return EXIT_OK

    return with_client(options, use)


def _other_ports(stack: Stack, end: StackStatus) -> Iterator[str]:
    """Notes, once per service and host: the preferred port where no replica there could have it."""
    for service in end.services:
        preferred = stack.services[service.name].ports if service.name in stack.services else ()
        by_host: dict[str, list[AssignedPort]] = {}
        for replica in sorted(service.replicas, key=lambda replica: replica.slot):
            by_host.setdefault(replica.host, []).extend(replica.ports)
        for (host, given), port in product(by_host.items(), preferred):
            has = [g.host_port for g in given if (g.container_port, g.protocol) == (port.container_port, port.protocol)]
            if has and port.host_port not in has:
                yield f"{service.name} has port {has[0]} of {host}: {port.host_port} was taken"


async def _show_diff(client: Client, options: Options, stack: Stack, hosts: Mapping[Label, Labels]) -> int:
    try:
        running = await client.stack(stack.name)
    except NotFound:
        running = None
    diff = stack_diff(running, stack, hosts)
    if options.json:
        print_json(diff)
    else:
        for line in diff_lines(diff):
            say(line)
    return EXIT_DEGRADED if diff.nowhere else EXIT_OK


def _show_newcomers(options: Options, newcomers: tuple[Newcomer, ...]) -> None:
    for newcomer in newcomers:
        (notice if options.json else say)(f"+ host {newcomer.host}: would be made a member first ({newcomer.line})")


def _pin_with(names: Mapping[str, Label], pin: Pin) -> Pin:
    """Also pins to hosts that became members just now, by the name that the plan uses."""
    return lambda host: names.get(host) or pin(host)


def _name(plan: Plan, name: str | None, file: str) -> str:
    if name is not None and not is_label(name):
        raise InputError(f"{name!r} is no stack name: 1 to 63 of a-z 0-9 -", where="--stack")
    if name is not None and plan.stack is not None and plan.stack != name:
        raise InputError(
            f"the plan names its stack itself: {plan.stack}", where="--stack", fix="Leave one of them out."
        )
    return name or stack_name_of(file if file != "-" else "")
