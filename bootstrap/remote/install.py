"""Files, group, unit, Docker, start: each step looks first and changes only what differs."""

from __future__ import annotations

import errno
import grp
import json
import os
import select
import socket
import time
from collections.abc import Callable
from typing import Any

from bootstrap.remote import layout, tree
from bootstrap.remote.firewall import open_firewall
from bootstrap.remote.probe import engine_answers, last_words, unit_state
from bootstrap.remote.system import lines, must, put, run, shown, which
from bootstrap.remote.wire import Failure

START_TIMEOUT_S = 90.0  # the unit's own limit is below it
PACKAGES_TIMEOUT_S = 900.0  # a slow mirror
DOCKER_TIMEOUT_S = 30.0
ROUND_S = 0.1  # between two looks at the agent's members
CONNECT_TIMEOUT_S = 3.0  # to a peer on the LAN
SOCKET_TIMEOUT_S = 10.0
MAX_ANSWER_BYTES = 16_777_216
BLOCK_BYTES = 65_536  # of an answer at a time

COMPOSE_PACKAGES = ("docker-compose-v2", "docker-compose")

Step = Callable[[str], None]


def apply(ask: dict[str, Any], step: Step, staging: tree.Staging) -> dict[str, Any]:
    """Bring the host into this state: `files` ({path, text, mode}), `version`, `launcher`, `docker`, `firewall`
    (commands).

    The version is the one there, or the one that came before (`staging`). With `dry` nothing is changed. `changed` says
    what was changed, or would be; `notes` what a person should know.
    """
    dry = ask["dry"]
    changed: list[str] = []
    notes: list[str] = tree.foreign_command()
    if ask["docker"]:
        changed.append("Docker")
        if not dry:
            step("installing Docker")
            notes += install_docker()
            step("putting the agent in its place")  # which fails where the operator left meanwhile: then nothing more
    for command in ask["firewall"]:
        changed.append(f"`{shown(command)}`")
    if not dry:
        open_firewall(ask["firewall"])
    if _missing_group():
        changed.append(f"group {layout.GROUP}")
        if not dry:
            must(["groupadd", "--system", layout.GROUP])
    if ask["version"] is not None:
        staging.place(ask["version"])
        changed += tree.activate(ask["version"], ask["launcher"], dry)
    for file in ask["files"]:
        if put(file["path"], file["text"].encode(), file["mode"], dry):
            changed.append(file["path"])
    return {"changed": changed, "notes": notes}


def install_docker() -> list[str]:
    """Docker from the distribution; a note when it can't be had, and no error: the agent votes without it."""
    apt = ["apt-get", "-o", "DPkg::Lock::Timeout=120", "-o", "Acquire::Retries=2"]
    run([*apt, "update", "-qq"], timeout_s=PACKAGES_TIMEOUT_S)
    packages = [name for name in ("docker.io",) if _candidate(name)]
    if not packages:
        return ["Docker isn't among this distribution's packages; install it, the agent finds it by itself"]
    packages += [name for name in COMPOSE_PACKAGES if _candidate(name)][:1]
    output = run([*apt, "install", "-y", "-qq", "--no-install-recommends", *packages], timeout_s=PACKAGES_TIMEOUT_S)
    if output.code != 0:
        reason = (lines(output.said) or ["apt-get failed"])[-1]
        return [f"Docker couldn't be installed: {reason}"]
    deadline = time.monotonic() + DOCKER_TIMEOUT_S
    while not engine_answers():
        if time.monotonic() > deadline:
            return ["Docker is installed and doesn't answer yet: `journalctl -u docker` says why"]
        time.sleep(0.2)
    return []


def start(ask: dict[str, Any], staging: tree.Staging) -> dict[str, Any]:
    """Enable the unit and start it; `restart` if it runs an outdated version. `did`: whether that did anything."""
    state = unit_state()
    enabled = state["enabled"] == "enabled"
    if enabled and state["active"] == "active" and not ask["restart"]:
        return {"did": False}
    load_unit(state)
    if state["active"] == "failed":
        run(["systemctl", "reset-failed", layout.UNIT])
    until_it_runs("restart" if ask["restart"] else "start")
    if not enabled:  # which reloads; the start needn't wait for that
        enable(staging)
    return {"did": True}


def until_it_runs(verb: str) -> None:
    """Start the agent, or wait for it while it is starting. Raises Failure."""
    output = run(["systemctl", verb, layout.UNIT], timeout_s=START_TIMEOUT_S)
    if output.code != 0:
        raise Failure(f"the agent doesn't start: {last_words()}", fix=f"`journalctl -u {layout.UNIT}` says more.")


def enable(staging: tree.Staging, *, reload: bool = True) -> None:
    """Boots start it from now on, so its files have to be on disk. Raises Failure.

    `reload`: systemd reads its units again, which costs a tenth of a second of CPU. Boots go by the files, and systemd
    says `enabled` without it too, unless it was asked about this unit since the start.
    """
    staging.settle()
    must(["systemctl", "enable", "--quiet", *([] if reload else ["--no-reload"]), layout.UNIT])


def load_unit(state: dict[str, Any]) -> None:
    """The unit as it is in its file, by what `unit_state` said: a reload starts a dozen programs. Raises Failure."""
    if state["stale"]:
        must(["systemctl", "daemon-reload"])


def wait(ask: dict[str, Any]) -> dict[str, Any]:
    """Wait until this agent knows a coordinator and sees all of `members` (ids): alive, and linked where it must be.

    `unseen` are those it doesn't see when the time is up; `reason` why it doesn't know even that. `labels` and
    `address` are its own by its ledger, None when that doesn't have it. `expelled`: it says that it was, so that it
    will see nobody.
    """
    deadline = time.monotonic() + ask["timeout_s"]
    wanted = set(ask["members"])
    while True:
        state = _look(wanted)
        if not state["unseen"] and not state["reason"]:
            return state
        stays_down = state["expelled"] or (not state["answers"] and unit_state()["active"] == "failed")
        if stays_down or time.monotonic() > deadline:
            if not state["answers"]:
                state["reason"] = f"the agent doesn't answer: {last_words()}"
            return state
        time.sleep(ROUND_S)


def reach(ask: dict[str, Any]) -> list[str]:
    """The names of those `peers` (name, address, port) that no TCP connection can be made to."""
    links: dict[socket.socket, str] = {}
    failed = []
    for name, address, port in ask["peers"]:
        link = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
        link.setblocking(False)
        links[link] = name
        if link.connect_ex((address, port)) not in (0, errno.EINPROGRESS):
            failed.append(name)
    deadline = time.monotonic() + CONNECT_TIMEOUT_S
    waiting = {link for link, name in links.items() if name not in failed}
    while waiting and time.monotonic() < deadline:
        _, ready, _ = select.select([], list(waiting), [], max(0.0, deadline - time.monotonic()))
        for link in ready:
            waiting.discard(link)
            if link.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0:
                failed.append(links[link])
    failed += [links[link] for link in waiting]
    for link in links:
        link.close()
    return sorted(failed)


def _look(wanted: Any) -> dict[str, Any]:
    try:
        health = ask_socket("/health", (b"200", b"503"))
        told = ask_socket("/api/v1/members", (b"200",))
        members = told["members"]
    except (OSError, ValueError, KeyError) as error:
        failed = {"answers": False, "coordinator": None, "unseen": sorted(wanted), "expelled": False}
        return {**failed, "reason": str(error) or "no answer"}
    alive = {member["id"] for member in members if member["state"] == "alive"}
    coordinator, expelled = health.get("coordinator"), health.get("expelled", False)
    reason = "other members say that it was expelled" if expelled else "no coordinator"
    own: dict[str, Any] = next((member for member in members if member["name"] == told.get("answered_by")), {})
    return {
        "answers": True,
        "coordinator": coordinator,
        "unseen": sorted(wanted - alive),
        "reason": "" if coordinator else reason,
        "expelled": expelled,
        "labels": own.get("labels"),
        "address": own.get("address"),
    }


def ask_socket(path: str, accepted: tuple[bytes, ...]) -> dict[str, Any]:
    """What the agent here answers on its own socket, which needs no token for reads. Raises OSError or ValueError.

    Hand-written HTTP/1.0, whose answers end with the connection: importing Python's client takes as long as everything
    else.
    """
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(SOCKET_TIMEOUT_S)
        link.connect(layout.SOCKET)
        link.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        data = bytearray()
        while len(data) < MAX_ANSWER_BYTES and (block := link.recv(BLOCK_BYTES)):
            data += block
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    status = head[len("HTTP/1.x ") :][:3]
    if status not in accepted:
        raise ValueError(f"it answered {status.decode('ascii', 'replace')}")
    value = json.loads(body)
    if not isinstance(value, dict):
        raise ValueError("no object")
    return value


def _missing_group() -> bool:
    try:
        grp.getgrnam(layout.GROUP)
    except KeyError:
        return which("groupadd") is not None
    return False


def _candidate(package: str) -> bool:
    for line in run(["apt-cache", "policy", package]).out.splitlines():
        if "Candidate:" in line:
            return "(none)" not in line
    return False


def is_installed() -> bool:
    """Whether anything of ours is there."""
    return os.path.lexists(layout.ROOT) or os.path.lexists(layout.UNIT_FILE) or os.path.lexists(layout.DATA)
