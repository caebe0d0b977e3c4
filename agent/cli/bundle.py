"""`agent doctor --bundle`: one archive for a bug report, with nothing secret in it."""

from __future__ import annotations

import io
import platform
import re
import sys
import tarfile
from contextlib import aclosing
from pathlib import Path
from typing import Any, Final

import msgspec

from agent import __version__
from agent.client import Client
from agent.doctor import redact
from agent.errors import MusterError
from agent.home import write_file
from agent.model.doctor import DoctorReport

MAX_EVENTS: Final = 1000  # as many as an agent keeps

_BEFORE_WORDS: Final = re.compile(r": | \| |\n")
_PROGRAMS_WORDS: Final = "(what the program said is left out)"

_README: Final = """\
Made by `agent doctor --bundle`. Keys, tokens and values of environment variables are not in it, nor what the deployed
programs print. Look through it before you send it: names and addresses of hosts, names of stacks and images are.

doctor.json   findings, and what each host sees of itself and the others
status.json   agent status
members.json  agent members
events.json   what happened lately
logs/         the newest lines of each agent's own log
versions.json of the command, Python and the system
"""


async def gather(client: Client) -> dict[str, Any]:
    """The rest of what a bug report needs about the cluster; a part that can't be had says why."""
    parts: dict[str, Any] = {}
    try:
        parts["status.json"] = _quiet_status(msgspec.to_builtins(await client.status()))
        parts["members.json"] = msgspec.to_builtins(await client.members())
        events = []
        async with aclosing(client.events(follow=False, recent=True)) as found:
            async for event in found:
                events.append(_quiet_event(msgspec.to_builtins(event)))
        parts["events.json"] = events[-MAX_EVENTS:]
    except MusterError as error:
        parts["incomplete.json"] = {"what": error.what, "where": error.where}
    return parts


def write_bundle(path: Path, report: DoctorReport, parts: dict[str, Any]) -> None:
    """A tar.gz of mode 0600, whole or not at all. Raises Conflict when the file exists, MusterError."""
    document = msgspec.to_builtins(report)
    files: dict[str, bytes] = {"README.txt": _README.encode()}
    for host in document["hosts"]:
        log = host.get("examination", {}).pop("log", [])
        files[f"logs/{host['host']}.log"] = "".join(f"{line}\n" for line in redact(log)).encode()
    versions = {
        "agent": __version__,
        "python": sys.version,
        "system": platform.platform(),
        "agents": {host["host"]: host.get("examination", {}).get("agent_version", "") for host in document["hosts"]},
    }
    for name, content in {"doctor.json": document, "versions.json": versions, **parts}.items():
        files[name] = msgspec.json.format(msgspec.json.encode(redact(content)), indent=2) + b"\n"
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as archive:
        for name in sorted(files):
            entry = tarfile.TarInfo(f"muster-doctor/{name}")
            entry.size, entry.mode = len(files[name]), 0o600
            archive.addfile(entry, io.BytesIO(files[name]))
    write_file(path, packed.getvalue(), mode=0o600)


def _quiet_status(status: dict[str, Any]) -> dict[str, Any]:
    """Reasons end with the last lines of programs, which may print anything."""
    for stack in status["stacks"]:
        stack["reason"] = _without_words(stack["reason"])
        for service in stack["services"]:
            for replica in service["replicas"]:
                replica["reason"] = _without_words(replica["reason"])
    for problem in status["problems"]:
        if "/" in problem["where"] or problem["where"].startswith("stack "):
            problem["what"] = _without_words(problem["what"])
    return status


def _quiet_event(event: dict[str, Any]) -> dict[str, Any]:
    if event["kind"] in ("replica", "phase"):
        event["what"] = _without_words(event["what"])
    return event


def _without_words(text: str) -> str:
    """Our own part of a reason: up to the first colon, bar or end of line, after which a program's output may come."""
    said, *rest = _BEFORE_WORDS.split(text, maxsplit=1)
    return f"{said}: {_PROGRAMS_WORDS}" if rest else said
