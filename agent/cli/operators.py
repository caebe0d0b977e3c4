"""`agent operator list`, `grant`, `revoke`, `key` and `replace`."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Any, get_args

import click
import msgspec
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from agent.cli.options import current_options, global_options
from agent.cli.output import print_json, print_table, say
from agent.cli.reading import read_bounded
from agent.cli.recovery_key import recovery_signer
from agent.cli.revoking import revoke_named
from agent.cli.session import notice, with_client
from agent.client import Client, home_client
from agent.errors import Conflict, InputError, NotFound
from agent.home import (
    NEXT_KEY_FILE,
    OPERATOR_FILE,
    OPERATOR_KEY_FILE,
    Home,
    OperatorFile,
    as_json,
    find_home,
    open_home,
    read_private_key,
    take_next_key,
    write_file,
)
from agent.instruction import kid_of, new_key, private_key_of, private_pem, public_hex, public_key_of
from agent.model.api import Operators, OperatorView
from agent.model.cluster import Operator, ScopeName
from agent.model.decode import convert
from agent.model.instruction import Grant, InstructionResult
from agent.model.types import OperatorName, PublicKey

MAX_KEY_BYTES = 4096  # an Ed25519 key in PEM has about 120


@click.group()
@global_options
def operator() -> None:
    """Manage who may change what: operators, their keys and scopes."""


@operator.command(name="list")
@global_options
def list_operators() -> None:
    """List the operators; `admin` isn't limited to stacks."""
    options = current_options()

    async def use(client: Client) -> Operators:
        return await client.operators()

    found = with_client(options, use)
    if options.json:
        print_json(found)
        return
    rows = [(each.name, each.scope, _stacks(each), each.key_id) for each in found.operators]
    print_table(options, ("name", "scope", "stacks", "key id"), rows)


@operator.command()
@click.argument("name")
@click.option("--key", metavar="HEX", help="The public half of its key, as `agent operator key` prints it.")
@click.option("--key-file", metavar="PEM", help="A file with that key; of a private key the public half is used.")
@click.option(
    "--scope", type=click.Choice(get_args(ScopeName)), help="What it may do.  [default: as before, else read]"
)
@click.option(
    "--stacks", multiple=True, metavar="GLOB,...", help="Only these stacks.  [default: as before, else all of them]"
)
@global_options
def grant(name: str, key: str | None, key_file: str | None, scope: str | None, stacks: tuple[str, ...]) -> None:
    """Enter the operator NAME, or change what it may do. What you don't give stays as it is, including the key.

    \b
    read     look
    operate  restart, start, stop and scale too
    deploy   deploy and remove too
    admin    everything on all stacks: hosts and operators too
    """
    options = current_options()
    checked: OperatorName = convert(name, OperatorName, "NAME")
    given = {"key": _key(key, key_file), "scope": scope, "stacks": _globs(stacks)}

    async def use(client: Client) -> tuple[InstructionResult, Operator]:
        known = {each.name: each for each in (await client.operators()).operators}
        before = _operator(known[checked]) if checked in known else None
        wanted = _changed(checked, before, {field: value for field, value in given.items() if value is not None})
        body = Grant(operator=wanted, replaces=before)
        return await client.submit("grant", f"operator:{checked}", body), wanted

    result, wanted = with_client(options, use)
    if options.json:
        print_json({"result": result, "operator": _view(wanted)})
        return
    what = f"{wanted.scope} on {_stacks(_view(wanted))}"
    say(f"{checked}: {what}, key {_view(wanted).key_id} (revision {result.revision})")


@operator.command()
@click.argument("name")
@global_options
def revoke(name: str) -> None:
    """Take all authority from the operator NAME. What it signed stays in force; the last admin can't be revoked."""
    revoke_named("revoke", "operator", name)


@operator.command()
@click.option(
    "-o", "--output", default=OPERATOR_KEY_FILE, show_default=True, metavar="FILE", help="Where the key goes."
)
@click.option("--name", metavar="NAME", help="Write `operator.json` for this name beside it: half of a cluster home.")
@global_options
def key(output: str, name: str | None) -> None:
    """Make an operator's key, and print its public half for `agent operator grant`.

    The file can be read by its owner only, and is never overwritten. No cluster is asked.
    """
    options = current_options()
    path, made = Path(output), new_key()
    checked: OperatorName | None = convert(name, OperatorName, "--name") if name is not None else None
    beside = path.with_name(OPERATOR_FILE)
    if checked is not None and beside.exists():
        raise Conflict(
            "the file exists, and is never overwritten", where=str(beside), fix="Name another with --output."
        )
    write_file(path, private_pem(made), mode=0o600)
    public = public_hex(made)
    if checked is not None:
        write_file(beside, as_json(OperatorFile(name=checked, key=public)), mode=0o600)
    if options.json:
        print_json({"file": output, "key": public, "key_id": kid_of(bytes.fromhex(public))})
    else:
        say(public)


@operator.command()
@click.option("--recovery-key", metavar="FILE", help="The recovery key, which signs the replacement. Required.")
@global_options
def replace(recovery_key: str | None) -> None:
    """Replace this home's own key, which is lost or stolen, by a new one; signed with the recovery key.

    The old key has no authority from then on. Its file stays beside the new one as `operator.key.old`.
    """
    options = current_options()
    if recovery_key is None:
        fix = "It is the file that `bootstrap install` told you to store offline."
        raise InputError("the recovery key has to sign", where="--recovery-key", fix=fix)
    home = open_home(find_home(options.home, os.environ))
    as_recovery, signer = recovery_signer(home, recovery_key)
    made = _next_key(home)

    async def use(client: Client) -> InstructionResult | None:
        known = {each.name: each for each in (await client.operators()).operators}
        before = _operator(known[home.operator.name]) if home.operator.name in known else None
        kept = msgspec.to_builtins(before) if before is not None else {"name": home.operator.name, "scope": "admin"}
        wanted: Operator = convert({**kept, "key": made.key}, Operator, "replace")
        if before == wanted:  # by a run that was cut before it had put the key into its place
            return None
        return await client.submit("grant", f"operator:{wanted.name}", Grant(operator=wanted, replaces=before))

    client = home_client(as_recovery, via=options.via, key=signer, notice=notice)

    async def run() -> InstructionResult | None:
        async with client:
            return await use(client)

    result = asyncio.run(run())
    take_next_key(home, made)
    if options.json:
        print_json({"result": result, "key": made.key})
        return
    say(f"{made.name}: a new key, {kid_of(bytes.fromhex(made.key))}")
    notice("put the recovery key away again")


def _next_key(home: Home) -> OperatorFile:
    """A new key beside the old one, stored before anybody hears of it; after an interrupted run, the same one again."""
    path = home.path / NEXT_KEY_FILE
    if not path.exists():
        write_file(path, private_pem(new_key()), mode=0o600)
    key = read_private_key(path)
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError("not an Ed25519 key", where=str(path), fix="Move it away.")
    return OperatorFile(name=home.operator.name, key=public_hex(key))


def _changed(name: OperatorName, before: Operator | None, given: dict[str, Any]) -> Operator:
    """The operator as it will be. Raises NotFound when nobody knows a key of it, InputError."""
    if before is None and "key" not in given:
        fix = "Add --key HEX: `agent operator key` makes a key and prints that half of it."
        raise NotFound("there is no such operator yet, so it needs a key", where=name, fix=fix)
    kept = msgspec.to_builtins(before) if before is not None else {"name": name, "scope": "read"}
    wanted: Operator = convert({**kept, **given}, Operator, "grant")
    return wanted


def _key(text: str | None, file: str | None) -> PublicKey | None:
    if text is not None and file is not None:
        raise InputError("says what --key-file says too", where="--key", fix="Give one of them.")
    if text is not None:
        checked: PublicKey = convert(text.lower(), PublicKey, "--key")
        return public_hex(public_key_of(checked))
    if file is None:
        return None
    pem, _ = read_bounded(file, MAX_KEY_BYTES)
    if b"PRIVATE KEY" in pem:
        return public_hex(private_key_of(pem, where=file))
    try:
        public = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        raise InputError("not a key in PEM", where=file) from None
    if not isinstance(public, Ed25519PublicKey):
        raise InputError("not an Ed25519 key", where=file)
    return public_hex(public)


def _globs(texts: tuple[str, ...]) -> list[str] | None:
    return [glob.strip() for text in texts for glob in text.split(",")] if texts else None


def _operator(view: OperatorView) -> Operator:
    fields = {"name": view.name, "key": view.key, "scope": view.scope, "stacks": list(view.stacks)}
    made: Operator = convert(fields, Operator, "the operator that the agent told")
    return made


def _view(each: Operator) -> OperatorView:
    return OperatorView(
        name=each.name, scope=each.scope, stacks=each.stacks, key=each.key, key_id=kid_of(bytes.fromhex(each.key))
    )


def _stacks(each: OperatorView) -> str:
    return "all stacks" if each.scope == "admin" or each.stacks == ("*",) else ", ".join(each.stacks)
