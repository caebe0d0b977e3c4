"""`agent audit`: the ledger's past, as the voters keep it."""

from __future__ import annotations

import click

from agent.cli.options import Options, current_options, global_options
from agent.cli.output import print_json, say
from agent.cli.session import notice, with_client
from agent.client import Client
from agent.errors import EXIT_DEGRADED, EXIT_OK, Unreachable
from agent.model.audit import AuditGap, AuditLine, AuditProof
from agent.model.decode import convert
from agent.model.types import Target


@click.group()
@global_options
def audit() -> None:
    """Show who changed what, and check that nobody altered that record. Voters keep a year of it, or 1 GiB."""


@audit.command()
@click.option("--target", metavar="KIND:NAME", help="Only changes of it, such as stack:web, operator:ci, member:ID.")
@global_options
def log(target: str | None) -> None:
    """Show every signed change, oldest first: when, who, what, and its result."""
    options = current_options()
    wanted = convert(target, Target, "--target") if target is not None else None

    async def use(client: Client) -> None:
        if options.via is None and (coordinator := (await client.health()).coordinator) is not None:
            client.prefer(coordinator)
        after: int | None = 0
        while after is not None:
            page = await client.audit(wanted, after)
            gaps = list(page.gaps)
            for line in page.lines:
                while gaps and gaps[0].after < line.index:
                    _tell_gap(page.answered_by, gaps.pop(0))
                _show(options, line)
            for gap in gaps:
                _tell_gap(page.answered_by, gap)
            after = page.more

    with_client(options, use)


def _tell_gap(host: str, gap: AuditGap) -> None:
    notice(
        f"{host} doesn't keep entries {gap.after + 1} to {gap.through}, so what they changed isn't in this list; "
        "another voter may (`--via`)"
    )


def _show(options: Options, line: AuditLine) -> None:
    if options.json:
        print_json(line)
        return
    came_of_it = "" if line.outcome == "applied" else f": {line.outcome}, {line.what}"
    say(f"{line.at}  {line.by} {line.act} {line.target} revision {line.revision}{came_of_it}")


@audit.command()
@global_options
def verify() -> int:
    """Have every voter read and hash everything that it keeps, and compare the results. Exits 3 when they differ.

    All voters are asked, also with --via.
    """
    options = current_options()

    async def use(client: Client) -> list[AuditProof]:
        proofs = [proof for proof in await client.audit_proofs() if proof.voter and proof.entries]
        if not proofs:
            return []
        return await client.audit_proofs(min(proof.last for proof in proofs))

    proofs = [proof for proof in with_client(options, use, others=True) if proof.voter and proof.entries]
    if not proofs:
        raise Unreachable("no voter that keeps anything answers", fix="See `agent status`; then try again.")
    disagree = {proof.chain for proof in proofs if proof.chain} - {_most(proofs)}
    ok = not disagree and not any(proof.broken for proof in proofs)
    if options.json:
        print_json({"ok": ok, "proofs": proofs})
    else:
        _tell(proofs)
    return EXIT_OK if ok else EXIT_DEGRADED


def _most(proofs: list[AuditProof]) -> str:
    """The chain that most have at the entry they were all asked for."""
    chains = [proof.chain for proof in proofs if proof.chain and not proof.broken]
    return max(chains, key=chains.count, default="")


def _tell(proofs: list[AuditProof]) -> None:
    most = _most(proofs)
    for proof in proofs:
        verdict = proof.broken or (
            "whole" if proof.chain == most else f"differs from the others up to entry {proof.at}"
        )
        say(f"{proof.name}: entries {proof.first} to {proof.last} in {proof.segments} segments: {verdict}")
        for gap in proof.gaps:
            say(f"  not kept here: entries {gap.after + 1} to {gap.through}")
    agreeing = [proof for proof in proofs if proof.chain == most and not proof.broken]
    say(f"{len(agreeing)} of {len(proofs)} voters have the same past up to entry {proofs[0].at}: {most[:16]}")
