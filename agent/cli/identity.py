"""`agent identity request`, `accept` and `take`: the host's side of joining, without an agent that waits for it."""

import os
import socket
import sys
from pathlib import Path

import click
from msgspec import Struct

from agent.cli.options import global_options
from agent.cli.output import print_json
from agent.config import Config, read_config
from agent.errors import InputError, TooLarge
from agent.model.cluster import IdentityGrant
from agent.model.decode import convert, decode_json
from agent.model.types import HostAddress, Label, is_label
from agent.model.workers import HostKeys
from agent.storage.identity import MAX_GRANT_BYTES, accept, create, take


class Handed(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `take` reads."""

    keys: HostKeys
    grant: IdentityGrant


@click.group()
@global_options
def identity() -> None:
    """Make and complete this host's identity."""


@identity.command()
@click.option("--config", "config_file", metavar="FILE", help="The agent's configuration.")
@click.option(
    "--name",
    metavar="NAME",
    help="The host's name in the cluster.  [default: `name` of the configuration, else its own]",
)
@click.option(
    "--address",
    metavar="ADDRESS",
    help="Where others reach it.  [default: `advertise` of the configuration, else the first]",
)
@global_options
def request(config_file: str | None, name: str | None, address: str | None) -> None:
    """Make this host's keys, unless it has some, and print an IdentityRequest as JSON."""
    config = read_config(config_file, os.environ)
    made = create(
        Path(config.data_dir),
        _name(name or config.name),
        _address(address, config),
        config.api_port,
        config.peer_port,
    )
    print_json(made)


@identity.command(name="accept")
@click.option("--config", "config_file", metavar="FILE", help="The agent's configuration.")
@global_options
def accept_grant(config_file: str | None) -> None:
    """Read an IdentityGrant as JSON from standard input, check it, and store it."""
    config = read_config(config_file, os.environ)
    grant = decode_json(_grant_bytes(), IdentityGrant, where="standard input: $", max_bytes=MAX_GRANT_BYTES)
    accept(Path(config.data_dir), grant)
    print_json({"accepted": True})


@identity.command(name="take")
@click.option("--config", "config_file", metavar="FILE", help="The agent's configuration.")
@global_options
def take_identity(config_file: str | None) -> None:
    """Read keys and an IdentityGrant, made for this host by an invitation, as JSON from standard
    input, and store them.
    """
    config = read_config(config_file, os.environ)
    handed = decode_json(_grant_bytes(), Handed, where="standard input: $", max_bytes=MAX_GRANT_BYTES)
    take(Path(config.data_dir), handed.keys, handed.grant)
    print_json({"accepted": True})


def _grant_bytes() -> bytes:
    data = sys.stdin.buffer.read(MAX_GRANT_BYTES + 1)
    if len(data) > MAX_GRANT_BYTES:
        raise TooLarge(f"more than {MAX_GRANT_BYTES} bytes", where="standard input")
    return data


def _name(name: str | None) -> Label:
    found = name or socket.gethostname().partition(".")[0].lower()
    if not is_label(found):
        fix = "Give it one with --name, or `name` in the configuration."
        raise InputError(f"{found!r} is no host name: 1 to 63 of a-z 0-9 -", where="--name", fix=fix)
    return found


def _address(address: str | None, config: Config) -> HostAddress:
    chosen = address or config.advertise
    if chosen is None:
        from agent.net.addresses import all_addresses, usable_addresses  # psutil; an install names the address

        usable = usable_addresses(all_addresses())
        if not usable:
            fix = "Give it one with --address, or `advertise` in the configuration."
            raise InputError("this host has no address that others could reach", where="--address", fix=fix)
        chosen = usable[0].ip
    converted: HostAddress = convert(chosen, HostAddress, "--address")
    return converted
