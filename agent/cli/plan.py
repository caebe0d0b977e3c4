"""`agent plan` and `agent generate-plan`."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec

from agent.cli.options import current_options, global_options
from agent.cli.reading import read_bounded
from agent.cli.session import notice, with_client
from agent.cli.variables import REGISTRY, SSH_KEY_PATH, SSH_USER, TAG, image_options, setting, with_images
from agent.client import Client
from agent.errors import InputError, Unprocessable
from agent.formats.generate import DEFAULT_BASE_PORT, Distributed, decode_distributed, generate
from agent.formats.plan import MAX_PLAN_BYTES, Plan
from agent.formats.plan_of import Placement, plan_of
from agent.home import as_json, write_file
from agent.model.api import StackView
from agent.model.decode import convert
from agent.model.stack import MAX_SERVICES, Service
from agent.model.status import Status
from agent.model.types import is_label


@click.command()
@click.argument("stack")
@click.option("--signed", is_flag=True, help="As it was signed, without assigned hosts and ports.")
@global_options
def plan(stack: str, signed: bool) -> None:
    """Print the plan of STACK as it is deployed, with the hosts and ports that were assigned.

    Environment values read (redacted): the cluster doesn't show them, and `agent deploy` needs them filled in again.
    """
    if not is_label(stack):
        raise InputError(f"{stack!r} is no stack name: 1 to 63 of a-z 0-9 -", where="STACK")

    async def use(client: Client) -> Plan:
        view = await client.stack(stack)
        return plan_of(view.stack) if signed else _as_deployed(view, await client.status())

    _write(with_client(current_options(), use), "-")


def _as_deployed(view: StackView, status: Status) -> Plan:
    """With the scale that was set since, and where the replicas are."""
    placed: dict[str, list[Placement]] = {}
    for stack in status.stacks:
        for service in stack.services if stack.name == view.name else ():
            replicas = sorted(service.replicas, key=lambda replica: replica.slot)
            placed[service.name] = [Placement(host=replica.host, ports=replica.ports) for replica in replicas]

    def scaled(name: str, service: Service) -> Service:
        return msgspec.structs.replace(service, replicas=view.scale.get(name, service.replicas))

    services = {name: scaled(name, service) for name, service in view.stack.services.items()}
    return plan_of(msgspec.structs.replace(view.stack, services=services), placed)


@click.command(name="generate-plan")
@click.option("--config", metavar="FILE", help="config.distributed.json.  [default: the cluster's own hosts]")
@click.option("--stack", metavar="NAME", help="The stack's name.")
@click.option("--image", metavar="REF", help="The image of main and workers.")
@click.option("--user", metavar="NAME", help=f"The SSH user.  [env: {SSH_USER}]")
@click.option("--ssh-key-path", metavar="FILE", help=f"The SSH key.  [env: {SSH_KEY_PATH}]")
@click.option(
    "--base-port", type=click.IntRange(1, 65535), metavar="PORT", help="Main's port; the workers get the ones above it."
)
@click.option(
    "-o", "--output", default="-", metavar="FILE", help="Write to this file, mode 0600.  [default: standard output]"
)
@image_options
@global_options
def generate_plan(
    config: str | None,
    stack: str | None,
    image: str | None,
    user: str | None,
    ssh_key_path: str | None,
    base_port: int | None,
    output: str,
    registry: str | None,
    tag: str | None,
) -> None:
    """Make a deployment plan with main on the first host and a worker on each other one.

    The hosts are those of the configuration, or else those of the cluster where replicas can be placed. Options
    override the environment, which overrides the configuration.
    """
    where = "$"
    if config is not None:
        data, where = read_bounded(config, MAX_PLAN_BYTES)
        found = decode_distributed(data, where=where)
    else:
        found = _from_members(stack, image)
    changes = {
        "stack": stack or found.stack,
        "image": image or found.image,
        "user": setting(user, SSH_USER, found.user),
        "ssh_key_path": setting(ssh_key_path, SSH_KEY_PATH, found.ssh_key_path),
        "base_port": base_port or found.base_port,
    }
    made = convert({**msgspec.structs.asdict(found), **changes}, Distributed, where)
    _write(with_images(generate(made, where=where), registry, tag), output)


def _from_members(stack: str | None, image: str | None) -> Distributed:
    """Asks the cluster for its hosts."""
    if stack is None or image is None:
        missing = "--stack" if stack is None else "--image"
        fix = f"Such as: agent generate-plan --stack shop --image shop:1; {REGISTRY} and {TAG} change the image."
        raise InputError("is needed where there is no --config", where=missing, fix=fix)

    async def use(client: Client) -> Status:
        return await client.status()

    status = with_client(current_options(), use)
    hosts = sorted(host.name for host in status.hosts if host.fit)
    if not hosts:
        raise Unprocessable("no host can take replicas now", where="hosts", fix="`agent status` says why.")
    if len(hosts) > MAX_SERVICES:
        notice(f"{len(hosts)} hosts; a plan has at most {MAX_SERVICES} instances, so the rest is left out")
    fields = {"stack": stack, "image": image, "hosts": hosts[:MAX_SERVICES], "base_port": DEFAULT_BASE_PORT}
    return convert(fields, Distributed, "generate-plan")


def _write(made: Plan, output: str) -> None:
    text = as_json(made)
    if output == "-":
        sys.stdout.write(text.decode())
        sys.stdout.flush()
        return
    write_file(Path(output), text, mode=0o600, replace=True)
    notice(f"{output} is written; `agent deploy {output}` brings it into the cluster")
