"""Signing with the recovery key when the operator's own key is lost."""

from __future__ import annotations

import os
from pathlib import Path

import click
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from agent.cli.options import Options
from agent.cli.session import notice, open_client
from agent.client import Client, home_client
from agent.errors import InputError, NotFound
from agent.home import RECOVERY_FILE, Home, find_home, open_home, read_private_key, read_recovery
from agent.instruction import public_hex

recovery_key_option = click.option(
    "--recovery-key", metavar="FILE", help="Sign with the recovery key instead of the operator's."
)


def recovery_signer(home: Home, file: str) -> tuple[Home, Ed25519PrivateKey]:
    """The home with the recovery key as its operator, and that key. Raises InputError when it isn't this cluster's."""
    recovery = read_recovery(home)
    try:
        key = read_private_key(Path(file))
    except NotFound as error:
        raise InputError(error.what, where=error.where) from None
    if not isinstance(key, Ed25519PrivateKey) or public_hex(key) != recovery.key:
        raise InputError(f"not the key that {RECOVERY_FILE} of this home names", where=file)
    return msgspec.structs.replace(home, operator=recovery), key


def client_of(options: Options, recovery_key: str | None) -> Client:
    """A client that asks every member, and signs with the recovery key if one is given. Raises InputError, NotFound."""
    if recovery_key is None:
        return open_client(options, others=True)
    home, key = recovery_signer(open_home(find_home(options.home, os.environ)), recovery_key)
    return home_client(home, via=options.via, others=True, key=key, notice=notice)
