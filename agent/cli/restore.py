"""`agent restore`: brings a verified backup back, as changes that the operator signs now.

Nothing is written behind the cluster's back: stacks are deployed again like any other, on any cluster, and volumes go
to hosts that check the admin's signature. So a restore can't take a cluster back in time, and needs no new epoch.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import click

from agent.cli.asking import ask
from agent.cli.options import Options, current_options, global_options
from agent.cli.output import bytes_teller, print_json, say
from agent.cli.progress import Watch
from agent.cli.restoring import StackPlan, broken_off, left_to_people, plan_stacks, slots_of
from agent.cli.session import notice, open_client, with_client
from agent.cli.volumes import place_volumes, targets, wait_for_places
from agent.client import Client
from agent.client.backup_file import Backup, open_backup
from agent.errors import EXIT_DEGRADED, EXIT_OK, Conflict, InputError, MusterError, NotAuthenticated, NotFound
from agent.home import HalfRestored, half_restored, remember_half_restored, write_file
from agent.instruction import read_backup
from agent.model.api import StackView
from agent.model.instruction import Scale, Services
from agent.model.types import Digest, Label
from agent.state import ClusterState, SnapshotRefused, decode_snapshot


@click.command()
@click.argument("file")
@click.option("--dry-run", is_flag=True, help="Verify the file, show what would change, and change nothing.")
@click.option(
    "--volumes",
    is_flag=True,
    help="Also overwrite the volumes of stacks that are deployed now. Not needed to continue an interrupted restore.",
)
@click.option("--other-cluster", is_flag=True, help="The backup may be of another cluster than this one.")
@click.option("--unpack-home", metavar="DIR", help="Only write the backup's cluster home to DIR; no cluster is asked.")
@click.option("--yes", is_flag=True, help="Don't ask.")
@global_options
def restore(file: str, dry_run: bool, volumes: bool, other_cluster: bool, unpack_home: str | None, yes: bool) -> int:
    """Deploy again the stacks of the backup FILE that differ, signed by you, and put their volumes back.

    The whole file is verified first: a damaged one changes nothing. Stacks that aren't in it stay. The volumes of
    stacks that aren't deployed now are put back before their replicas start. On fresh hosts run `bootstrap install`
    first, and `agent load` for images that no registry has. Exits 3 when a stack doesn't become healthy.
    """
    options = current_options()
    found = open_backup(Path(file), bytes_teller(options, f"{file}: verified", from_start=False))
    state = _proven(found)
    if unpack_home is not None:
        _unpack_home(found, Path(unpack_home))
        return EXIT_OK

    async def look(client: Client) -> list[StackPlan]:
        home, _ = client.signer()
        if state.cluster != home.cluster.id and not other_cluster:
            what = f"it is of cluster {found.manifest.cluster_name} ({state.cluster}), this is {home.cluster.name}"
            fix = "Name its own home with --home, or add --other-cluster to deploy its stacks here."
            raise Conflict(what, where=file, fix=fix)
        await client.members()
        present = {name: await _stack(client, name) for name in state.stacks}
        for sentence in left_to_people(
            state,
            operators={operator.name for operator in (await client.operators()).operators},
            keys={key.name for key in (await client.api_keys()).keys},
            drained={host.name: host.cordoned for host in (await client.status()).hosts},
        ):
            notice(sentence)
        over, half = broken_off(await asyncio.to_thread(half_restored, home), present, _digest(found))
        for sentence in half if not volumes else ():
            notice(sentence)
        for name in sorted(over):
            notice(f"{name}: a restore of this backup broke off, and goes on")
        return plan_stacks(state, present, found.manifest.parts, over=state.stacks if volumes else over)

    plans = with_client(options, look)
    _show(options, found, plans)
    wanted = [plan for plan in plans if plan.changes]
    if dry_run or not wanted:
        return EXIT_OK
    if not yes:
        ask(f"Restore {len(wanted)} of {len(plans)} stacks?", what="changes the cluster", where="restore")
    return asyncio.run(_restore(open_client(options, others=True), options, found, state, wanted))


def _digest(found: Backup) -> Digest:
    return hashlib.sha256(found.manifest_bytes).hexdigest()


def _proven(found: Backup) -> ClusterState:
    """The state in it, verified: every signature down to genesis, and the manifest's. Raises InputError."""
    manifest = found.manifest
    part = next(part for part in manifest.parts if part.kind == "state")
    try:
        state = decode_snapshot(found.read(part), verify=True)
        read_backup(found.signature, found.manifest_bytes, state.operators, state.cluster, state.epoch)
    except (SnapshotRefused, NotAuthenticated) as error:
        what = error.what if isinstance(error, MusterError) else str(error)
        fix = "Use another copy of it; nothing was changed."
        raise InputError(f"the backup can't be vouched for: {what}", where=str(found.path), fix=fix) from None
    if (state.cluster, state.epoch, state.index) != (manifest.cluster, manifest.epoch, manifest.index):
        raise InputError("the manifest tells of another state than is in it", where=str(found.path))
    return state


def _unpack_home(found: Backup, target: Path) -> None:
    """Whole or not at all. Raises Conflict when something is there, NotFound when the backup has none."""
    parts = [part for part in found.manifest.parts if part.kind == "home"]
    if not parts:
        raise NotFound("it has no cluster home", where=str(found.path), fix="`agent backup --with-home` puts one in.")
    if target.exists():
        raise Conflict("something is there already, and a home is never overwritten", where=str(target))
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.absolute().parent) as directory:
        made = Path(directory) / "home"
        made.mkdir(mode=0o700)
        for part in parts:
            path = made / part.path
            if not path.resolve().is_relative_to(made.resolve()):
                raise InputError(f"{part.path!r} leads out of the home", where=str(found.path))
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_file(path, found.read(part), mode=0o600)
        os.rename(made, target.absolute())
    say(f"{target}: the home of cluster {found.manifest.cluster_name}, private keys included")


async def _stack(client: Client, name: Label) -> StackView | None:
    with suppress(NotFound):
        return await client.stack(name)
    return None


def _show(options: Options, found: Backup, plans: list[StackPlan]) -> None:
    if options.json:
        return
    manifest = found.manifest
    say(f"{found.path}: sound; cluster {manifest.cluster_name}, {manifest.made_at}, signed by {manifest.made_by}")
    for plan in plans:
        say(f"  {plan.name}: {', '.join(plan.changes) or 'as it is deployed now'}")


async def _restore(client: Client, options: Options, found: Backup, state: ClusterState, plans: list[StackPlan]) -> int:
    """One stack after another; one that fails leaves the others to be restored."""
    failed: dict[str, str] = {}
    async with client:
        with tempfile.TemporaryDirectory(prefix="agent-restore-") as directory:
            await _send_files(client, found, plans, Path(directory))
        for plan in plans:
            try:
                await _restore_stack(client, options, found, state, plan)
            except MusterError as error:
                failed[plan.name] = error.what
                notice(f"{plan.name}: {error.what}" + (f" ({error.fix})" if error.fix else ""))
    if options.json:
        print_json({"restored": [plan.name for plan in plans if plan.name not in failed], "failed": failed})
    else:
        say(f"restored {len(plans) - len(failed)} of {len(plans)} stacks")
    return EXIT_DEGRADED if failed else EXIT_OK


async def _send_files(client: Client, found: Backup, plans: list[StackPlan], directory: Path) -> None:
    wanted = {file.digest for plan in plans for file in plan.body.files.values()}
    paths: dict[str, Path] = {}
    for part in found.manifest.parts:
        if part.kind == "file" and part.sha256 in wanted:
            paths[part.sha256] = directory / part.sha256
            await asyncio.to_thread(found.extract, part, paths[part.sha256])
    await client.send_files(paths)


async def _restore_stack(client: Client, options: Options, found: Backup, state: ClusterState, plan: StackPlan) -> None:
    """Place, scale, put volumes there, start: nothing runs before its volumes are back. Raises MusterError."""
    home, _ = client.signer()
    target = f"stack:{plan.name}"
    waits = bool(plan.volumes or plan.stopped)
    revision = plan.placed
    if plan.deploys:
        revision = (await client.submit("place" if waits else "deploy", target, plan.body)).revision
    elif waits and not plan.placed:
        body = Services(services=() if plan.volumes else plan.stopped)
        revision = (await client.submit("stop", target, body)).revision
    if plan.scale:
        revision = (await client.submit("scale", target, Scale(services=plan.scale))).revision
    if plan.volumes:
        await Watch(client, options, plan.name, revision).until_done()
        wanted = {slot for part in plan.volumes for slot in slots_of(state, plan, part)}
        chosen = targets(state, plan, await wait_for_places(client, plan.name, wanted))
        half = HalfRestored(backup=_digest(found), made_at=found.manifest.made_at, revision=revision)
        await asyncio.to_thread(remember_half_restored, home, plan.name, half)
        try:
            await place_volumes(client, options, found, plan, chosen)
        except BaseException:
            notice(f"{plan.name} is stopped, and not all of its volumes are back: the same `agent restore` goes on")
            raise
        await asyncio.to_thread(remember_half_restored, home, plan.name, None)
    started = tuple(sorted(plan.body.services.keys() - set(plan.stopped)))
    if started and (plan.volumes or plan.starts or (plan.deploys and waits)):
        revision = (await client.submit("start", target, Services(services=started))).revision
    await Watch(client, options, plan.name, revision).until_done()
