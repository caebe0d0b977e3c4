"""`agent doctor`: what is wrong with the hosts, and what to do about each of it."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click

from agent.cli.bundle import gather, write_bundle
from agent.cli.host_look import is_host, look_here
from agent.cli.options import Options, current_options, global_options
from agent.cli.output import STYLES, console, print_json, say
from agent.cli.session import open_client
from agent.client import Client
from agent.doctor import diagnose
from agent.errors import EXIT_DEGRADED, EXIT_OK, Conflict, InputError, MusterError, NotFound, Unreachable
from agent.formats.terminal import clean
from agent.formats.timestamps import rfc3339
from agent.model.doctor import DoctorReport, Examination, Finding, HostAnswer
from agent.model.explain import shown
from agent.model.types import is_label

MAX_NAMED_HOSTS = 64  # on one command line; without names all hosts are meant
ASK_WITHIN_S = 9.0  # to find a member, and for all that it asks: nobody waits longer than 10 s


@dataclass
class _Heard:
    """The answers so far; `unreached` says why nobody could be asked."""

    answers: list[HostAnswer] = field(default_factory=list)
    answered_by: str = ""
    parts: dict[str, Any] = field(default_factory=dict)
    unreached: MusterError | None = None


@click.command()
@click.argument("hosts", nargs=-1, metavar="[HOST]...")
@click.option("--bundle", type=click.Path(dir_okay=False), metavar="FILE", help="Write a tar.gz for a bug report.")
@global_options
def doctor(hosts: tuple[str, ...], bundle: str | None) -> int:
    """Look for problems on the hosts, or those that you name: network, Docker, ports, disks, clocks.

    Any member is asked, and each host answers for itself. Works without a majority, and on a host without an agent:
    `sudo agent doctor`. The bundle holds no keys, tokens or environment values. Exits 3 when the findings include an
    error.
    """
    options = current_options()
    _check(hosts, bundle)
    heard = _ask(options, hosts, for_bundle=bundle is not None)
    if heard.unreached is not None and not _look_here(options, heard):
        raise heard.unreached
    answers = sorted(heard.answers, key=lambda answer: answer.host)
    findings = diagnose(answers)
    if heard.unreached is not None and not isinstance(heard.unreached, NotFound):  # hosts need no cluster home
        findings = (_unreached(heard.unreached), *findings)
    report = DoctorReport(
        as_of=rfc3339(time.time_ns() // 1_000_000),
        answered_by=heard.answered_by,
        findings=findings,
        hosts=tuple(answers),
    )
    if options.json:
        print_json(report)
    else:
        _show(options, report)
    if bundle is not None:
        write_bundle(Path(bundle), report, heard.parts)
        _tell(options, f"written: {bundle}; look through it before you send it")
    return EXIT_DEGRADED if any(finding.severity == "error" for finding in findings) else EXIT_OK


def _check(hosts: tuple[str, ...], bundle: str | None) -> None:
    for host in hosts:
        if not is_label(host):
            raise InputError(f"{shown(host)} is no host's name: 1 to 63 of a-z 0-9 -", where="HOST")
    if len(hosts) > MAX_NAMED_HOSTS:
        raise InputError(f"at most {MAX_NAMED_HOSTS}", where="HOST", fix="Leave them out to ask all hosts.")
    if bundle is not None and Path(bundle).exists():
        raise Conflict("the file exists, and is never overwritten", where=bundle, fix="Name another.")


def _ask(options: Options, hosts: tuple[str, ...], *, for_bundle: bool) -> _Heard:
    """The hosts' answers, through any member. Raises NotFound for a host that isn't a member."""
    heard = _Heard()
    try:
        client = open_client(options)
    except NotFound as error:
        heard.unreached = error
        return heard
    try:
        asyncio.run(_ask_through(options, client, tuple(sorted(set(hosts))), heard, for_bundle=for_bundle))
    except Unreachable as error:
        heard.unreached = None if heard.answers else error
    except TimeoutError:
        if not heard.answers:
            fix = "Ask through another member with --via HOST."
            heard.unreached = Unreachable(f"no member answered within {ASK_WITHIN_S:g} s", fix=fix)
    return heard


async def _ask_through(
    options: Options, client: Client, hosts: tuple[str, ...], heard: _Heard, *, for_bundle: bool
) -> None:
    async with client:
        async with asyncio.timeout(ASK_WITHIN_S):
            heard.answered_by = (await client.health()).name
            _tell(options, f"asking {', '.join(hosts) or 'all hosts'} through {heard.answered_by} …")
            async with aclosing(client.doctor(hosts, log=for_bundle)) as answers:
                async for answer in answers:
                    heard.answers.append(answer)
                    told = "answered" if answer.examination is not None else f"no answer: {answer.what}"
                    _tell(options, f"{answer.host}: {told}")
        if for_bundle:
            heard.parts = await gather(client)


def _look_here(options: Options, heard: _Heard) -> bool:
    """Whether this machine is a host, which can be looked at without its agent."""
    if options.via is not None or options.socket is not None or not is_host():
        return False
    _tell(options, "no agent answers; looking at this host itself …")
    heard.answers.append(look_here())
    return True


def _unreached(error: MusterError) -> Finding:
    return Finding(severity="error", check="agent", where=error.where or "cluster", what=error.what, fix=error.fix)


def _tell(options: Options, text: str) -> None:
    """On standard error, so that standard output stays one document."""
    if not options.json or sys.stderr.isatty():
        print(clean(text), file=sys.stderr, flush=True)


def _show(options: Options, report: DoctorReport) -> None:
    from rich.text import Text

    screen = console(options)
    for host in report.hosts:
        say(f"{host.host}: {_summary(host) if host.examination is not None else 'no answer'}")
    if report.findings:
        say("")
    for finding in report.findings:
        line = Text(f"{finding.severity}: ", style=STYLES.get(finding.severity, ""))
        line.append(clean(f"{finding.where}: {finding.what}"), style="default")
        screen.print(line, soft_wrap=True)
        say(f"  {finding.fix}")
    say("")
    counts = Counter(finding.severity for finding in report.findings)
    told = ", ".join(f"{counts[kind]} {kind}{'s' if counts[kind] > 1 else ''}" for kind in counts) or "nothing found"
    say(f"{len(report.hosts)} host{'s' if len(report.hosts) != 1 else ''} looked at: {told}")


def _summary(host: HostAnswer) -> str:
    """What was looked at, in one line."""
    exam = host.examination
    assert exam is not None
    parts = [f"agent {exam.agent_version}" if exam.running else "no agent answers"]
    if exam.docker is not None:
        parts.append(
            f"Docker {exam.docker.version} {exam.docker.driver}" if exam.docker.answers else "no Docker answers"
        )
    if exam.disks:
        parts.append(f"{min(disk.free_mib for disk in exam.disks) / 1024:.1f} GiB free")
    if exam.syncs_ms:
        parts.append(f"writes {sorted(exam.syncs_ms)[len(exam.syncs_ms) // 2]:.1f} ms")
    if exam.running:
        parts.append(f"clock {host.offset_ms / 1000:+.1f} s")
        parts.append(f"reaches {_reached(exam)}")
    return ", ".join(parts)


def _reached(exam: Examination) -> str:
    return ", ".join(peer.name for peer in exam.peers if peer.connects == "yes" and peer.heard_udp) or "nobody else"
