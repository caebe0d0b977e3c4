"""Hosts of a plan that aren't members yet: `agent deploy` has them installed first, after asking."""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Mapping
from typing import Annotated

import click
import msgspec
from msgspec import Struct

from agent.cli.beside import progress_line, run_bootstrap
from agent.cli.options import Options
from agent.cli.output import say
from agent.cli.session import notice
from agent.cli.variables import SSH_KEY_PATH, SSH_USER, setting
from agent.errors import DeploymentFailed, InputError, MusterError, NotFound
from agent.formats.plan import Plan, instances
from agent.formats.resolve import Pin
from agent.home import ANCHOR_KEY_FILE, find_home
from agent.model.types import Label, is_label


class Newcomer(Struct, frozen=True, kw_only=True):
    """A host, and how ssh reaches it by the plan or the environment."""

    host: str
    user: str | None
    key: str | None

    @property
    def called(self) -> Label | None:
        """Its name, if the plan names it rather than gives an address: the cluster will call it so too."""
        first = self.host.partition(".")[0].lower()
        return first if is_label(first) and not self.host.replace(".", "").isdigit() and ":" not in self.host else None

    @property
    def name(self) -> Label:
        """For showing what a deploy would do."""
        return self.called or "new-host"

    @property
    def line(self) -> str:
        """Its line in a list of hosts."""
        words = [f"{self.user}@{self.host}" if self.user else self.host]
        words += [f"key={shlex.quote(self.key)}"] if self.key else []
        words += [f"name={self.called}"] if self.called else []
        return " ".join(words)


class _Installed(Struct, frozen=True, kw_only=True):
    """Of `bootstrap install --json`, what matters here."""

    host: str
    name: str | None
    state: str
    what: str = ""
    where: str = ""
    fix: str = ""


class _Document(Struct, frozen=True, kw_only=True):
    hosts: Annotated[tuple[_Installed, ...], msgspec.Meta(max_length=1000)]


def newcomers_of(plan: Plan, pin: Pin, where: str) -> tuple[Newcomer, ...]:
    """The hosts that `pin` knows no member for, each once, as its first instance says. The environment overrides the
    plan.
    """
    found: dict[str, Newcomer] = {}
    for placed in instances(plan, where=where):
        host = placed.instance.host
        if host is not None and host not in found and pin(host) is None:
            user = setting(None, SSH_USER, placed.instance.user)
            key = setting(None, SSH_KEY_PATH, placed.instance.ssh_key_path)
            found[host] = Newcomer(host=host, user=user, key=key)
    return tuple(found.values())


def command(newcomers: tuple[Newcomer, ...]) -> str:
    """The command that does the same by hand."""
    lines = " ".join(shlex.quote(newcomer.line) for newcomer in newcomers)
    return f"printf '%s\\n' {lines} | bootstrap install -"


async def bootstrap(newcomers: tuple[Newcomer, ...], options: Options, *, yes: bool, where: str) -> Mapping[str, Label]:
    """Have them installed, after asking; host → its name in the cluster.

    Raises click.Abort for a no, InputError when nobody can be asked, DeploymentFailed naming the first that failed:
    nothing was deployed then.
    """
    hosts = ", ".join(newcomer.host for newcomer in newcomers)
    notice(f"new here, so not members yet: {hosts}")
    home = await asyncio.to_thread(find_home, options.home, os.environ)
    if not await asyncio.to_thread((home / ANCHOR_KEY_FILE).exists):
        fix = f"On the machine where `bootstrap install` was run: {command(newcomers)}"
        raise NotFound("making a host a member takes the cluster's key", where=str(home / ANCHOR_KEY_FILE), fix=fix)
    if not yes:
        if not sys.stdin.isatty():
            what = f"{hosts}: not members, and nobody is there to be asked"
            raise InputError(what, where=where, fix=f"Add --yes; or: {command(newcomers)}")
        await asyncio.to_thread(click.confirm, f"Install the agent on {hosts}?", abort=True, err=True)

    def told(line: str) -> None:
        text = progress_line(line)
        if text is not None and not options.json:
            say(text)

    data = "".join(f"{newcomer.line}\n" for newcomer in newcomers).encode()
    out = await run_bootstrap("install", "-", "--home", str(home), "--json", "--progress", data=data, told=told)
    try:
        document = msgspec.json.decode(out, type=_Document)
    except msgspec.MsgspecError:
        raise MusterError("what it told isn't understood", where="bootstrap install") from None
    names: dict[str, Label] = {}
    for newcomer, installed in zip(newcomers, document.hosts, strict=True):
        if installed.state == "failed" or installed.name is None:
            again = f"{installed.fix} Then deploy again; nothing was deployed.".strip()
            raise DeploymentFailed(installed.what, where=installed.where or installed.host, fix=again)
        names[newcomer.host] = installed.name
    return names
