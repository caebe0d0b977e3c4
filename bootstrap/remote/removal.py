"""Removes the agent, its workloads and its files; or only its workloads and who it was. Named volumes, plans' own
files and Docker stay unless told otherwise.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable
from typing import Any

from bootstrap.remote import layout
from bootstrap.remote.install import is_installed
from bootstrap.remote.probe import engine_answers
from bootstrap.remote.system import disk_failure, lines, must, read, run
from bootstrap.remote.wire import Failure

STOP_TIMEOUT_S = 60.0
REMOVE_TIMEOUT_S = 120.0
GRACE_S = 5.0  # for plain processes between SIGTERM and SIGKILL
RUN_MARK = b"MUSTER_RUN="
"""In the environment of every process that the agent runs as a workload."""
STACKS = layout.DATA + "/stacks"
LEDGER, IDENTITY = "ledger.db", "identity"
DIRECTORIES = (layout.ROOT, layout.CONFIG_DIRECTORY, layout.LOGS, layout.RUN, layout.DATA)
GENERATED = ("docker-compose.yml", "endpoints.json", "endpoints")
"""What the agent itself writes into a stack's directory."""


def remove(ask: dict[str, Any], step: Any) -> dict[str, Any]:
    """`removed` says what is gone (or would be, with `dry`), `kept` what stays unless `delete_volumes`, `left` what
    can't be removed, and why. Raises Failure.
    """
    dry, cluster, volumes = ask["dry"], ask["cluster"], ask["delete_volumes"]
    removed: list[str] = []
    kept: list[str] = []
    if is_installed():
        removed.append("the agent")
        if not dry:
            step("stopping the agent")
            run(["systemctl", "disable", "--now", layout.UNIT], timeout_s=STOP_TIMEOUT_S)
            end_processes()
    if engine_answers():
        _containers(cluster, volumes, dry, removed, kept)
    data_kept = _kept_files(volumes)
    kept += data_kept
    mounts = mount_points((read("/proc/self/mountinfo") or b"").decode("utf-8", "surrogateescape"))
    if not dry:
        step("removing files")
        _files(bool(data_kept), mounts)
    return {"removed": removed, "kept": kept, "left": left(mounts, keep_stacks=bool(data_kept))}


def retire(ask: dict[str, Any], step: Callable[[str], None]) -> bool:
    """End the agent that this host was, which was expelled: the next one makes keys and a ledger of its own.

    What it ran was replaced elsewhere. The identity goes last: while it is there, this can be done again. Raises
    Failure.
    """
    step("ending the agent that was expelled")
    must(["systemctl", "stop", layout.UNIT])
    end_processes()
    if engine_answers():
        _containers(ask["cluster"], False, False, [], [])
    shutil.rmtree(layout.RETIRED, ignore_errors=True)
    os.mkdir(layout.RETIRED, 0o700)
    for name in (*sorted(name for name in os.listdir(layout.DATA) if name.startswith(LEDGER)), IDENTITY):
        os.rename(os.path.join(layout.DATA, name), os.path.join(layout.RETIRED, name))
    return True


def end_processes() -> None:
    """Plain processes of services: SIGTERM, then SIGKILL."""
    for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, GRACE_S)):
        deadline = time.monotonic() + patience_s
        for pid in _workloads():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
        while _workloads() and time.monotonic() < deadline:
            time.sleep(0.05)


def _workloads() -> list[int]:
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            environ = read(f"/proc/{entry}/environ") or b""
            if any(part.startswith(RUN_MARK) for part in environ.split(b"\0")):
                found.append(int(entry))
    return found


def _containers(cluster: str, volumes: bool, dry: bool, removed: list[str], kept: list[str]) -> None:
    label = f"label={layout.CLUSTER_LABEL}" + (f"={cluster}" if cluster else "")
    containers = _own_containers(cluster)
    networks = _names(["docker", "network", "ls", "-q", "--filter", label])
    named = _names(["docker", "volume", "ls", "-q", "--filter", label])
    if containers:
        removed.append(f"{len(containers)} container" + ("s" if len(containers) > 1 else ""))
    if volumes:
        removed.extend(f"volume {name}" for name in named)
    else:
        kept.extend(f"volume {name}" for name in named)
    if dry:
        return
    for argv, names in (
        (["docker", "rm", "--force"], containers),
        (["docker", "network", "rm"], networks),
        (["docker", "volume", "rm"], named if volumes else []),
    ):
        if names:
            output = run([*argv, *names], timeout_s=REMOVE_TIMEOUT_S)
            if output.code != 0:
                raise Failure(f"Docker refuses: {output.said}")


def _own_containers(cluster: str) -> list[str]:
    """Ids of the cluster's containers, and of those that the agent here takes for its own by their directory
    (`agent.runtime.containers.is_own`), whatever cluster the host was in when it made them.
    """
    shown = f'{{{{.ID}}}} {{{{.Label "{layout.CLUSTER_LABEL}"}}}} {{{{.Label "{layout.DIRECTORY_LABEL}"}}}}'
    found = _names(["docker", "ps", "-a", "--filter", f"label={layout.CLUSTER_LABEL}", "--format", shown])
    every = [line.split(" ", 2) for line in found]
    return [id_ for id_, owner, at in every if cluster in ("", owner) or at.startswith(STACKS + "/")]


def _names(argv: list[str]) -> list[str]:
    return lines(run(argv).out)


def _kept_files(volumes: bool) -> list[str]:
    """Directories of stacks that hold more than the agent wrote: that is where `./data` in a plan leads."""
    if volumes or not os.path.isdir(STACKS):
        return []
    return [
        os.path.join(STACKS, name)
        for name in sorted(os.listdir(STACKS))
        if os.path.isdir(os.path.join(STACKS, name)) and set(os.listdir(os.path.join(STACKS, name))) - set(GENERATED)
    ]


def _files(keep_stacks: bool, mounts: set[str]) -> None:
    if os.path.islink(layout.COMMAND) and os.readlink(layout.COMMAND).startswith(layout.ROOT):
        os.unlink(layout.COMMAND)
    try:
        for path in (layout.UNIT_FILE, layout.UNIT_FILE + ".d"):
            away(path, mounts)
        run(["systemctl", "daemon-reload"])
        run(["systemctl", "reset-failed", layout.UNIT])
        for path in DIRECTORIES:
            away(path, mounts, keep=STACKS if keep_stacks else "")
    except OSError as error:
        raise disk_failure(error, layout.ROOT) from error
    run(["groupdel", layout.GROUP])


def left(mounts: set[str], *, keep_stacks: bool) -> list[str]:
    """The part of our directories that `away` leaves, since a disk is mounted there."""
    told = [f"{path}: emptied, as a disk is mounted there" for path in DIRECTORIES if path in mounts]
    for path in DIRECTORIES:
        for point in sorted(mounts):
            if point.startswith(path + "/") and not (keep_stacks and point.startswith(STACKS + "/")):
                told.append(f"{point}: a disk is mounted there, and what is on it stays")
    return told


def away(path: str, mounts: set[str], keep: str = "") -> bool:
    """Remove it, and say whether all of it is gone. `keep` stays, and so does a disk that somebody has mounted below;
    `path` itself may be a mount, and is emptied then.
    """
    if os.path.islink(path) or not os.path.isdir(path):
        if os.path.lexists(path):
            os.unlink(path)
        return True
    stays = {point for point in (*mounts, keep) if point.startswith(path + "/")}
    if not stays and path not in mounts:
        shutil.rmtree(path)
        return True
    gone = path not in mounts
    for name in os.listdir(path):
        child = os.path.join(path, name)
        gone &= child not in stays and away(child, mounts, keep)
    if gone:
        os.rmdir(path)
    return gone


def mount_points(mountinfo: str) -> set[str]:
    """Where something is mounted (proc(5), /proc/pid/mountinfo), including bind mounts of the same disk."""
    fields = [line.split(" ") for line in mountinfo.splitlines()]
    return {re.sub(r"\\([0-7]{3})", lambda code: chr(int(code[1], 8)), each[4]) for each in fields if len(each) > 4}
