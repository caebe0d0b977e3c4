"""Taking the agent, its workloads and its files away. Named volumes, plans' own files and Docker stay unless told."""

from __future__ import annotations

import os
import shutil
import signal
import time
from typing import Any

from bootstrap.remote import layout
from bootstrap.remote.install import is_installed
from bootstrap.remote.probe import engine_answers
from bootstrap.remote.system import disk_failure, lines, read, run
from bootstrap.remote.wire import Failure

STOP_TIMEOUT_S = 60.0
REMOVE_TIMEOUT_S = 120.0
GRACE_S = 5.0  # for plain processes between SIGTERM and SIGKILL
RUN_MARK = b"MUSTER_RUN="
"""In the environment of every process that the agent runs as a workload."""
GENERATED = ("docker-compose.yml", "endpoints.json", "endpoints")
"""What the agent itself writes into a stack's directory."""


def remove(ask: dict[str, Any], step: Any) -> dict[str, Any]:
    """`removed` says what is gone (or would be, with `dry`), `kept` what stays. Raises Failure."""
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
    if not dry:
        step("removing files")
        _files(bool(data_kept))
    return {"removed": removed, "kept": kept}


def end_processes() -> None:
    """Plain commands of `process` services: SIGTERM, then SIGKILL."""
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
    containers = _names(["docker", "ps", "-aq", "--filter", label])
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


def _names(argv: list[str]) -> list[str]:
    return lines(run(argv).out)


def _kept_files(volumes: bool) -> list[str]:
    """Directories of stacks that hold more than the agent wrote: they are what `./data` in a plan meant."""
    stacks = layout.DATA + "/stacks"
    if volumes or not os.path.isdir(stacks):
        return []
    return [
        os.path.join(stacks, name)
        for name in sorted(os.listdir(stacks))
        if os.path.isdir(os.path.join(stacks, name)) and set(os.listdir(os.path.join(stacks, name))) - set(GENERATED)
    ]


def _files(keep_stacks: bool) -> None:
    if os.path.islink(layout.COMMAND) and os.readlink(layout.COMMAND).startswith(layout.ROOT):
        os.unlink(layout.COMMAND)
    try:
        for path in (layout.UNIT_FILE, layout.UNIT_FILE + ".d"):
            _away(path)
        run(["systemctl", "daemon-reload"])
        run(["systemctl", "reset-failed", layout.UNIT])
        for path in (layout.ROOT, layout.CONFIG_DIRECTORY, layout.LOGS, layout.RUN):
            _away(path)
        if os.path.isdir(layout.DATA):
            for name in os.listdir(layout.DATA):
                if name != "stacks" or not keep_stacks:
                    _away(os.path.join(layout.DATA, name))
            if not keep_stacks:
                _away(layout.DATA)
    except OSError as error:
        raise disk_failure(error, layout.ROOT) from error
    run(["groupdel", layout.GROUP])


def _away(path: str) -> None:
    if os.path.ismount(path):  # a disk of its own can't be taken away, and what was on it is
        for name in os.listdir(path):
            _away(os.path.join(path, name))
    elif os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)
