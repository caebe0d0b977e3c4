"""`agent generate-plan`: a deployment plan from `config.distributed.json`, or from the cluster's hosts. Pure."""

from collections.abc import Sequence
from typing import Annotated

from msgspec import Meta, Struct

from agent.errors import InputError
from agent.formats.plan import MAX_PLAN_BYTES, Instance, Plan
from agent.model.decode import convert, decode_json
from agent.model.stack import MAX_ENVIRONMENT, MAX_SERVICES, EnvironmentName, EnvironmentValue, PortSpec
from agent.model.types import HostAddress, Label, Port

DEFAULT_BASE_PORT = 8443  # docs/seed.md "Automatic port binding": main's; workers have the ones above it
CONTAINER_PORT = 8443  # SEED: inside, main and workers listen on the same


class Distributed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`config.distributed.json`. The first host gets main, each other a worker; all have the environment."""

    stack: Label
    image: Annotated[str, Meta(min_length=1, max_length=512)]
    user: str | None = None
    ssh_key_path: str | None = None
    hosts: Annotated[tuple[HostAddress, ...], Meta(min_length=1, max_length=MAX_SERVICES)]
    base_port: Port = DEFAULT_BASE_PORT
    environment: Annotated[dict[EnvironmentName, EnvironmentValue], Meta(max_length=MAX_ENVIRONMENT)] = {}


def decode_distributed(data: bytes, *, where: str = "$") -> Distributed:
    """The configuration in `data`. Raises InputError naming the place."""
    return decode_json(data, Distributed, where=where, max_bytes=MAX_PLAN_BYTES)


def generate(config: Distributed, *, where: str = "$") -> Plan:
    """SEED's plan: containers `<stack>-main`, `<stack>-worker-1`, …, ports from `base_port`. Raises InputError."""
    last = config.base_port + len(config.hosts) - 1
    if last > 65535:
        what = f"{len(config.hosts)} hosts from {config.base_port} on need ports up to {last}; there are 65535"
        raise InputError(what, where=f"{where}.base_port")
    twice = next((host for index, host in enumerate(config.hosts) if host in config.hosts[:index]), None)
    if twice is not None:
        raise InputError(f"{twice} stands twice", where=f"{where}.hosts[{_last(config.hosts, twice)}]")
    main, *workers = [_instance(config, index, where) for index in range(len(config.hosts))]
    return Plan(stack=config.stack, main=main, workers=tuple(workers))


def _last(hosts: Sequence[str], host: str) -> int:
    return len(hosts) - 1 - list(reversed(hosts)).index(host)


def _instance(config: Distributed, index: int, where: str) -> Instance:
    """The main instance for index 0, worker number `index` above."""
    role = f"worker-{index}" if index else "main"
    own = {"WORKER_INDEX": str(index)} if index else {"MAIN_INSTANCE": "true"}
    fields = {
        "host": config.hosts[index],
        "user": config.user,
        "ssh_key_path": config.ssh_key_path,
        "docker_image": config.image,
        "container_name": f"{config.stack}-{role}",
        "ports": (PortSpec(host_port=config.base_port + index, container_port=CONTAINER_PORT),),
        "environment": {**config.environment, **own},
    }
    return convert(fields, Instance, where)
