"""`agent recover --new-epoch`."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress

import click

from agent.cli.options import Options, current_options, global_options
from agent.cli.output import print_json, say
from agent.cli.recovery_key import client_of, recovery_key_option
from agent.cli.session import notice
from agent.client import Client
from agent.command import tell
from agent.errors import Conflict, InputError, MusterError, Unreachable
from agent.home import find_home, open_home, remember
from agent.model.api import Recovery
from agent.model.instruction import InstructionResult

COORDINATES_TIMEOUT_S = 30.0  # the survivor starts anew and elects itself: about two seconds
ROUND_S = 0.2  # between two looks at it


@click.command()
@click.option("--new-epoch", is_flag=True, help="Begin the next epoch on a survivor, which decides alone from then on.")
@click.option("--lost", metavar="HOST,...", help="Name the lost voters here, instead of being asked.")
@click.option("--follow", type=click.IntRange(min=1), metavar="EPOCH", help="Take this home to that epoch, unproven.")
@recovery_key_option
@global_options
def recover(new_epoch: bool, lost: str | None, follow: int | None, recovery_key: str | None) -> None:
    """Continue with one survivor when the majority of the voters is lost for good.

    Every member is asked what it has. The survivor (--via HOST, else the one whose ledger reaches furthest) becomes the
    only voter of the next epoch, with everything that it knows. This needs the signature of an admin or of the recovery
    key. Tokens of the old epoch are no longer valid. Hosts of the old epoch that still run, or come back, join by
    themselves once they meet the new one and have checked who signed it; what only they knew is lost. First see whether
    the lost voters can be started again: nothing is lost then.

    Other homes follow by themselves if a key that they know signed the epoch: their own, or one of the genesis's
    admins. Where they don't, `agent recover --follow EPOCH` on that home takes your word for it, and does nothing else.
    """
    options = current_options()
    if new_epoch == (follow is not None):
        fix = "On a survivor: `agent recover --new-epoch`. For this home alone: `agent recover --follow EPOCH`."
        raise InputError("one of --new-epoch and --follow says what to do", where="recover", fix=fix)
    if follow is not None:
        for option, given in (("--lost", lost), ("--recovery-key", recovery_key)):
            if given is not None:
                raise InputError("belongs to --new-epoch: --follow signs nothing", where=option, fix="Leave it out.")
        _follow(options, follow)
        return
    client = client_of(options, recovery_key)

    async def run() -> None:
        async with client:
            await _recover(client, options, lost)

    asyncio.run(run())


def _follow(options: Options, epoch: int) -> None:
    home = open_home(find_home(options.home, os.environ))
    remember(home, epoch=epoch)
    if options.json:
        print_json({"home": str(home.path), "epoch": epoch, "before": home.cluster.epoch})
    else:
        say(f"{home.path}: epoch {epoch}, before {home.cluster.epoch}")


async def _recover(client: Client, options: Options, lost: str | None) -> None:
    client.signer()
    chosen = _choose(await client.recoveries(), options.via)
    if chosen.unfit:
        fix = "`agent status` says more; there is nothing to recover while there can be a majority."
        raise Conflict(chosen.unfit, where=chosen.survivor.name, fix=fix)
    _confirm(client, chosen, lost)
    client.prefer(chosen.survivor.name)
    result = await client.recover(chosen.revision + 1, chosen.beginning())
    if not options.json:
        tell(f"{chosen.survivor.name} has taken it, and begins epoch {chosen.epoch + 1} …")
    await _wait(client, chosen)
    _tell(options, chosen, result)


def _choose(found: list[Recovery], via: str | None) -> Recovery:
    """The survivor that was named, else the one that knows most (`Recovery.rank`). Raises Unreachable."""
    best = max(found, key=lambda each: each.rank, default=None)
    if best is None:
        raise Unreachable("no member answers", fix="Start an agent that still has its ledger, then try again.")
    named = next((each for each in found if each.survivor.name == via), best if via is None else None)
    if named is None:
        known = ", ".join(each.survivor.name for each in found)
        raise Unreachable(f"{via} doesn't answer", where="--via", fix=f"Name one of these by its name: {known}.")
    if (named.term, named.index) != (best.term, best.index):
        notice(f"{best.survivor.name} knows more than {named.survivor.name}: entry {best.index} of term {best.term}")
    return named


def _confirm(client: Client, chosen: Recovery, given: str | None) -> None:
    """Say what is lost, and have it confirmed. Raises InputError for another answer, click.Abort for none."""
    names = [voter.name for voter in chosen.lost]
    listed, survivor = ", ".join(names) or "nobody", chosen.survivor.name
    fix = f"If they are lost for good: `agent recover --new-epoch --lost {','.join(names)}`. Nothing was changed."
    if given is not None:
        if {name.strip() for name in given.split(",")} != set(names):
            raise InputError(f"the voters that {survivor} doesn't reach are {listed}", where="--lost", fix=fix)
        return
    if not sys.stdin.isatty():
        raise InputError("gives up voters, and nobody is there to be asked", where="recover", fix=fix)
    unsure = chosen.index - chosen.committed
    lines = (
        f"{survivor} becomes the only voter of epoch {chosen.epoch + 1}, and decides alone.",
        f"Given up as voters: {listed}.",
        f"Kept: what {survivor} has, up to entry {chosen.index}"
        + (f", {unsure} of them perhaps never accepted." if unsure else "."),
        "Lost for good: every change after that which only the voters given up have taken.",
        "If they live on behind a broken network, what they take from now on is lost too.",
        f"All tokens of epoch {chosen.epoch} end. This is written into the ledger, with your name.",
    )
    for line in lines:
        click.echo(line, err=True)
    home, _ = client.signer()
    if click.prompt(f"Type the cluster's name ({home.cluster.name}) to do it", err=True) != home.cluster.name:
        raise InputError("that isn't the cluster's name", where="recover", fix="Nothing was changed.")


async def _wait(client: Client, chosen: Recovery) -> None:
    """Until the survivor coordinates."""
    with suppress(TimeoutError):
        async with asyncio.timeout(COORDINATES_TIMEOUT_S):
            while True:
                with suppress(MusterError):
                    status = await client.status()
                    if status.cluster.epoch > chosen.epoch and not status.stale:
                        return
                await asyncio.sleep(ROUND_S)
    notice(f"{chosen.survivor.name} doesn't coordinate yet; `agent status` tells when it does")


def _tell(options: Options, chosen: Recovery, result: InstructionResult) -> None:
    if options.json:
        print_json({"result": result, "epoch": chosen.epoch + 1, "survivor": chosen.survivor})
        return
    say(f"epoch {chosen.epoch + 1}: {chosen.survivor.name} goes on alone from entry {result.index}")
    say("Hosts that live join by themselves. Those that don't: agent expel HOST, then bootstrap install HOSTS anew.")
    say("Other operators' homes follow by themselves, or say what to do.")
