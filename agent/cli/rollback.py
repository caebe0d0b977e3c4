"""`agent rollback`."""

from __future__ import annotations

import click

from agent.cli.diff import diff_lines, stack_diff
from agent.cli.options import Options, current_options, global_options
from agent.cli.output import print_json, say
from agent.cli.progress import follow
from agent.cli.session import with_client
from agent.client import Client
from agent.client.instructions import Submission
from agent.errors import InputError, NotFound, Unprocessable
from agent.model.api import StackView
from agent.model.stack import InstructionRef, Stack
from agent.model.types import is_label


@click.command()
@click.argument("stack")
@click.option("--detach", is_flag=True, help="Return once the cluster has accepted it.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@global_options
def rollback(stack: str, detach: bool, dry_run: bool) -> None:
    """Deploy again the last revision of STACK that was healthy before the current one.

    You sign its digest, so you don't need its plan. A deploy that failed has gone back by itself already. Exits 3 when
    this one fails.
    """
    if not is_label(stack):
        raise InputError(f"{stack!r} is no stack name: 1 to 63 of a-z 0-9 -", where="STACK")
    options = current_options()

    async def use(client: Client) -> None:
        view = await _deployed(client, stack)
        ref, before = _previous(view)
        _show(options, view, ref, before, dry_run=dry_run)
        if dry_run:
            return
        # On the revision that was looked at: whoever changes the stack meanwhile is first.
        submission = Submission.sign(client, "deploy", f"stack:{stack}", view.revision + 1, ref.digest)
        result = await submission.bring_in()
        end = await follow(client, options, result, detach=detach)
        if options.json:
            print_json({"result": result, "stack": end})

    with_client(options, use)


async def _deployed(client: Client, stack: str) -> StackView:
    """Raises NotFound, or Unprocessable while it is being removed: a removed stack keeps nothing to go back to."""
    fix = "Deploy its plan again, or bring it back from a backup with `agent restore`."
    try:
        view = await client.stack(stack)
    except NotFound:
        what = "there is no such stack; of one that was removed nothing is kept to go back to"
        raise NotFound(what, where=stack, fix=f"{fix} `agent status` lists the stacks.") from None
    if view.phase == "removing":
        raise Unprocessable("it is being removed, and nothing of it is kept to go back to", where=stack, fix=fix)
    return view


def _previous(view: StackView) -> tuple[InstructionRef, Stack]:
    if view.previous is None or view.previous_stack is None:
        fix = f"`agent remove {view.name}` removes it; `agent deploy` deploys another plan."
        raise NotFound("nothing was healthy before this deploy", where=view.name, fix=fix)
    if view.previous.digest == view.deployed.digest:
        what = f"it is what was deployed before already: revision {view.previous.revision}"
        raise Unprocessable(what, where=view.name, fix="`agent status` says how it got there.")
    return view.previous, view.previous_stack


def _show(options: Options, view: StackView, ref: InstructionRef, before: Stack, *, dry_run: bool) -> None:
    diff = stack_diff(view, before)
    if options.json:
        if dry_run:
            print_json(diff)
        return
    say(f"{view.name}: back to what was deployed as revision {ref.revision}")
    for line in diff_lines(diff):
        say(line)
